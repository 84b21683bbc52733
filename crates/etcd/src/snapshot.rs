//! A snapshot as a file: what `etcdctl snapshot save` gets, and a real etcd can begin with.
//!
//! The file is etcd's own database, a table of every key by the revision that changed it, with leases and what was
//! compacted in tables beside; a SHA-256 of it follows. One written here holds what is true at one revision, as after
//! a compaction at it. One that a real etcd wrote may hold history; it is read up to its newest revision.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coracle_store::{KeyRange, RangeRequest, Revision, Snapshot, Store};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::bolt::{self, Rows};
use crate::proto;

/// The table that Coracle adds: files by name. etcd does not look at it.
const FILES: &str = "coracle";
const SUM_BYTES: usize = 32;
const COMPACTED: [&str; 2] = ["finishedCompactRev", "scheduledCompactRev"];

/// What a snapshot's file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The store's content.
    pub content: Snapshot,
    /// What belongs to the cluster besides, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It does not end with a checksum: it is something else, or the copy of a database that was in use.
    #[error("it is no snapshot: there is no checksum at its end")]
    NoChecksum,
    /// It is not what was written.
    #[error("it is damaged: its checksum does not match")]
    WrongChecksum,
    /// The checksum is right, but the content is not etcd's.
    #[error("it is no etcd database: {0}")]
    Unreadable(String),
}

impl SnapshotFile {
    /// The content of a store as of now.
    ///
    /// # Errors
    /// The store's.
    pub async fn take(store: &dyn Store) -> coracle_store::Result<SnapshotFile> {
        let found = store.range(RangeRequest::new(KeyRange::prefix(Bytes::new()))).await?;
        let mut leases = BTreeMap::new();
        for id in store.leases().await? {
            // One that ends meanwhile is none.
            let Ok(status) = store.lease_status(id).await else { continue };
            leases.insert(id, status.granted);
        }
        let content = Snapshot { revision: found.revision, kvs: found.kvs, leases };
        Ok(SnapshotFile { content, files: BTreeMap::new() })
    }

    /// The file.
    pub fn write(self) -> Vec<u8> {
        let SnapshotFile { content: Snapshot { revision, kvs, leases }, files } = self;
        let mut keys = Rows::new();
        let mut places = BTreeMap::new();
        for kv in kvs {
            let place = places.entry(kv.mod_revision).or_insert(0);
            keys.insert(row_key(kv.mod_revision, *place), proto::KeyValue::from(kv).encode_to_vec());
            *place += 1;
        }
        let leases = leases.into_iter().map(|(id, ttl)| {
            let lease = proto::Lease { id, ttl: ttl.as_secs() as i64, remaining_ttl: 0 };
            (id.to_be_bytes().to_vec(), lease.encode_to_vec())
        });
        let meta = COMPACTED.map(|name| (name.as_bytes().to_vec(), row_key(revision, 0)));
        let mut tables = BTreeMap::from([("key", keys), ("lease", leases.collect()), ("meta", Rows::from(meta))]);
        if !files.is_empty() {
            tables.insert(FILES, files.into_iter().map(|(name, content)| (name.into_bytes(), content)).collect());
        }
        let mut file = bolt::write(&tables);
        file.extend(Sha256::digest(&file));
        file
    }

    /// Reads a file that this or an etcd wrote.
    ///
    /// # Errors
    /// If it is not whole, or no snapshot.
    pub fn read(file: &[u8]) -> Result<SnapshotFile, SnapshotError> {
        // As etcd tells: a database is made of whole pages.
        if file.len() % 512 != SUM_BYTES {
            return Err(SnapshotError::NoChecksum);
        }
        let (database, sum) = file.split_at(file.len() - SUM_BYTES);
        if Sha256::digest(database)[..] != *sum {
            return Err(SnapshotError::WrongChecksum);
        }
        let unreadable = |what: &str| SnapshotError::Unreadable(what.into());
        let mut tables = bolt::read(database).map_err(SnapshotError::Unreadable)?;
        let keys = tables.remove("key").ok_or_else(|| unreadable("there is no table of keys"))?;
        let meta = tables.remove("meta").unwrap_or_default();
        let compacted = COMPACTED.iter().filter_map(|name| Some(revision_of(meta.get(name.as_bytes())?)?.0));
        let mut revision = compacted.max().unwrap_or(1);
        let mut live = BTreeMap::new();
        for (row, value) in keys {
            let (changed, deleted) = revision_of(&row).ok_or_else(|| unreadable("a row has no revision"))?;
            revision = revision.max(changed);
            let kv = proto::KeyValue::decode(&value[..]).map_err(|error| unreadable(&error.to_string()))?;
            match deleted {
                true => live.remove(&kv.key),
                false => live.insert(kv.key.clone(), kv),
            };
        }
        let mut leases = BTreeMap::new();
        for value in tables.remove("lease").unwrap_or_default().into_values() {
            let lease = proto::Lease::decode(&value[..]).map_err(|error| unreadable(&error.to_string()))?;
            leases.insert(lease.id, Duration::from_secs(lease.ttl.max(1) as u64));
        }
        let files = tables.remove(FILES).unwrap_or_default().into_iter();
        let kvs = live.into_values().map(Into::into).collect();
        Ok(SnapshotFile {
            content: Snapshot { revision, kvs, leases },
            files: files.map(|(name, content)| (String::from_utf8_lossy(&name).into_owned(), content)).collect(),
        })
    }
}

/// A revision and a place within it, as etcd writes them.
fn row_key(revision: Revision, place: i64) -> Vec<u8> {
    [&revision.to_be_bytes()[..], b"_", &place.to_be_bytes()].concat()
}

/// The revision of a row, and whether it marks a deletion.
fn revision_of(row: &[u8]) -> Option<(Revision, bool)> {
    Some((Revision::from_be_bytes(*row.first_chunk()?), row.get(17) == Some(&b't')))
}

#[cfg(test)]
mod tests {
    use coracle_store::{MemoryStore, Op, Txn};

    use super::*;

    async fn snapshot() -> SnapshotFile {
        let store = MemoryStore::new();
        store.lease_grant(7, Duration::from_secs(60)).await.unwrap();
        for (key, lease) in [("a", 0), ("b", 7), ("c", 0), ("a", 0)] {
            let put = Op::Put { key: key.into(), value: format!("of {key}").into(), lease };
            store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
        }
        store.txn(Txn { success: vec![Op::Delete(KeyRange::key("c"))], ..Txn::default() }).await.unwrap();
        SnapshotFile::take(&*store).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let files = BTreeMap::from([("pki/ca.crt".to_owned(), b"PEM".to_vec())]);
        let file = SnapshotFile { files, ..snapshot().await };
        assert_eq!((file.content.revision, file.content.kvs.len(), file.content.leases.len()), (6, 2, 1));
        assert_eq!(SnapshotFile::read(&file.clone().write()).unwrap(), file);
    }

    #[tokio::test]
    async fn a_file_that_is_not_whole_is_refused() {
        let whole = snapshot().await.write();
        let refusal = |bytes: &[u8]| SnapshotFile::read(bytes).unwrap_err().to_string();
        assert!(refusal(&[]).contains("no snapshot"));
        assert!(refusal(&whole[..whole.len() - 1]).contains("no checksum"));
        assert!(refusal(&whole[512..]).contains("does not match"));
        let mut flipped = whole.clone();
        flipped[5000] ^= 1;
        assert!(refusal(&flipped).contains("does not match"));
        let mut other = vec![0; 4096];
        other.extend(Sha256::digest(&other));
        assert!(refusal(&other).contains("no etcd database"));
    }
}
