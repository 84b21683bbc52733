//! Snapshots: the store as a file that a real etcd can begin with (`etcdctl snapshot restore`).
//!
//! It holds what is true at one revision, as after a compaction at it: no history.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_store::{KeyValue, Revision};
use futures::{Stream, stream};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{EtcdServer, VERSION};
use crate::bolt::{self, Rows};
use crate::proto;
use crate::wire::refusal;

/// How much one message carries.
const BLOB_BYTES: usize = 64 << 10;

impl EtcdServer {
    pub(super) async fn snapshot(
        &self,
        _: proto::Empty,
    ) -> Result<impl Stream<Item = Result<proto::SnapshotResponse, Status>> + use<>, Status> {
        let (kvs, revision) = self.everything(None).await?;
        let mut leases = Rows::new();
        for id in self.store.leases().await.map_err(refusal)? {
            // One that ends meanwhile is none.
            let Ok(status) = self.store.lease_status(id).await else { continue };
            let (ttl, remaining_ttl) = (status.granted.as_secs() as i64, status.left.as_secs() as i64);
            leases.insert(id.to_be_bytes().to_vec(), proto::Lease { id, ttl, remaining_ttl }.encode_to_vec());
        }
        let mut file = file(kvs, leases, revision);
        file.extend(Sha256::digest(&file));
        let file = Bytes::from(file);
        let header = self.header(revision);
        let blobs = (0..file.len()).step_by(BLOB_BYTES).map(move |at| {
            let blob = file.slice(at..file.len().min(at + BLOB_BYTES));
            let remaining_bytes = (file.len() - at - blob.len()) as u64;
            Ok(proto::SnapshotResponse { header: header.clone(), remaining_bytes, blob, version: VERSION.into() })
        });
        Ok(stream::iter(blobs))
    }
}

/// etcd's own tables: every key by the revision that changed it last, leases by number, and that all before is gone.
fn file(kvs: Vec<KeyValue>, leases: Rows, revision: Revision) -> Vec<u8> {
    let mut keys = Rows::new();
    let mut places = BTreeMap::new();
    for kv in kvs {
        let place = places.entry(kv.mod_revision).or_insert(0);
        keys.insert(row_key(kv.mod_revision, *place), proto::KeyValue::from(kv).encode_to_vec());
        *place += 1;
    }
    let compacted = |name: &str| (name.as_bytes().to_vec(), row_key(revision, 0));
    let meta = Rows::from([compacted("finishedCompactRev"), compacted("scheduledCompactRev")]);
    bolt::write(&BTreeMap::from([("key", keys), ("lease", leases), ("meta", meta)]))
}

/// A revision and a place within it, as etcd writes them.
fn row_key(revision: Revision, place: i64) -> Vec<u8> {
    [&revision.to_be_bytes()[..], b"_", &place.to_be_bytes()].concat()
}
