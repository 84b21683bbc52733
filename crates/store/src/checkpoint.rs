//! The sled database behind the write-ahead log: the whole state in rows, brought up to date now and then.
//!
//! | key | value |
//! |---|---|
//! | `m` | how far it is: last frame applied, compacted revision, newest revision, number of `r` rows |
//! | `r` revision u64 (big-endian), place u32 | one version of one key |
//! | `l` lease i64 (big-endian) | ttl and wall-clock deadline in milliseconds |
//!
//! Every value begins with a CRC-32 of key and value. A checkpoint applies the frames of a finished log in
//! atomic batches, each with its `m`, flushes sled, `fdatasync`s its files, and only then removes the log:
//! whatever a crash leaves of sled's tail, the log still has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::codec::{LeaseTerms, put_change, put_i64, put_terms, seal, unseal};
use crate::core::Record;
use crate::mvcc::{Mvcc, RowId};
use crate::sled::{SledConfig, disk, is_full, sync_dir};
use crate::{FIRST_REVISION, LeaseId, Result, StoreError};

/// So many rows make a batch; its memory is bounded, and sled's.
const BATCH_ROWS: usize = 1000;
const META: &[u8] = b"m";

/// The records of one frame of the log.
pub(crate) type Frame = (u64, Vec<Record>);

/// How far the database is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) sequence: u64,
    compacted: i64,
    head: i64,
    rows: i64,
}

/// The database.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    db: sled::Db,
    dir: PathBuf,
    pub(crate) meta: Meta,
}

/// What a database held.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) mvcc: Mvcc,
    pub(crate) leases: BTreeMap<LeaseId, LeaseTerms>,
}

impl Checkpoint {
    pub(crate) fn open(config: &SledConfig) -> Result<Checkpoint> {
        let dir = config.dir.join("sled");
        wait_for_release(&dir)?;
        let db = sled::Config::new()
            .path(&dir)
            .cache_capacity(config.cache_bytes)
            .flush_every_ms(None)
            .open()
            .map_err(engine)?;
        let mut meta = Meta { sequence: 0, compacted: FIRST_REVISION, head: FIRST_REVISION, rows: 0 };
        if let Some(sealed) = db.get(META).map_err(engine)? {
            let mut reader = unseal(META, &sealed)?;
            meta.sequence = reader.i64()? as u64;
            (meta.compacted, meta.head, meta.rows) = (reader.i64()?, reader.i64()?, reader.i64()?);
        }
        Ok(Checkpoint { db, dir, meta })
    }

    /// Reads everything, and refuses if a row is damaged or missing.
    pub(crate) fn restore(&self) -> Result<Restored> {
        let mut mvcc = Mvcc::starting_at(self.meta.compacted);
        let (mut rows, mut events) = (0, Vec::new());
        for row in self.db.scan_prefix(b"r") {
            let (key, sealed) = row.map_err(engine)?;
            let id = row_id(&key)?;
            let change = unseal(&key, &sealed)?.change()?;
            rows += 1;
            if id.0 <= self.meta.compacted && !change.deleted {
                mvcc.restore(id, change.kv);
                continue;
            }
            // Revisions follow each other without gaps, so a new one closes the one before.
            if id.0 == mvcc.head() + 2 && !events.is_empty() {
                mvcc.append(std::mem::take(&mut events));
            }
            if id != (mvcc.head() + 1, events.len() as u32) {
                return Err(StoreError::Corrupt(format!("the change before {id:?} is missing")));
            }
            events.push(mvcc.replay(id, change)?);
        }
        if !events.is_empty() {
            mvcc.append(events);
        }
        if rows != self.meta.rows || mvcc.head() != self.meta.head {
            let Meta { rows: expected, head, .. } = self.meta;
            return Err(StoreError::Corrupt(format!(
                "{rows} versions up to revision {} where there were {expected} up to {head}",
                mvcc.head()
            )));
        }
        let mut leases = BTreeMap::new();
        for row in self.db.scan_prefix(b"l") {
            let (key, sealed) = row.map_err(engine)?;
            let id = key[1..].try_into().map(i64::from_be_bytes).map_err(|_| bad_key(&key))?;
            leases.insert(id, unseal(&key, &sealed)?.terms()?);
        }
        Ok(Restored { mvcc, leases })
    }

    /// Applies frames, makes them durable, and removes the logs that held them.
    pub(crate) fn apply(&mut self, frames: &[Frame], logs: &[PathBuf]) -> Result<()> {
        let mut batch = sled::Batch::default();
        let mut rows = 0;
        for (sequence, records) in frames {
            for record in records {
                rows += self.add(&mut batch, record);
            }
            self.meta.sequence = *sequence;
            if rows >= BATCH_ROWS {
                self.write(std::mem::take(&mut batch))?;
                rows = 0;
            }
        }
        self.write(batch)?;
        self.db.flush().map_err(engine)?;
        sync_tree(&self.dir)?;
        for log in logs {
            match std::fs::remove_file(log) {
                // An earlier attempt came so far.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.map_err(disk(log))?,
            }
        }
        self.dir.parent().map_or(Ok(()), sync_dir)
    }

    /// Adds a record's rows to a batch; returns how many.
    fn add(&mut self, batch: &mut sled::Batch, record: &Record) -> usize {
        match record {
            Record::Changes(entry) => {
                for (place, event) in entry.events.iter().enumerate() {
                    let key = row_key((entry.revision, place as u32));
                    let mut content = Vec::with_capacity(64 + event.kv.key.len() + event.kv.value.len());
                    put_change(&mut content, &event.kv, event.deleted);
                    batch.insert(&key[..], seal(&key, &content));
                }
                self.meta.head = entry.revision;
                self.meta.rows += entry.events.len() as i64;
                entry.events.len()
            }
            Record::Compact { revision, dropped } => {
                dropped.iter().for_each(|id| batch.remove(&row_key(*id)[..]));
                self.meta.compacted = *revision;
                self.meta.rows -= dropped.len() as i64;
                dropped.len()
            }
            Record::Lease { id, ttl, expires_ms } => {
                let (key, mut content) = (lease_key(*id), Vec::new());
                put_terms(&mut content, &LeaseTerms { ttl: *ttl, expires_ms: *expires_ms });
                batch.insert(&key[..], seal(&key, &content));
                1
            }
            Record::LeaseEnd(id) => {
                batch.remove(&lease_key(*id)[..]);
                1
            }
        }
    }

    fn write(&self, mut batch: sled::Batch) -> Result<()> {
        let Meta { sequence, compacted, head, rows } = self.meta;
        let mut content = Vec::new();
        [sequence as i64, compacted, head, rows].into_iter().for_each(|number| put_i64(&mut content, number));
        batch.insert(META, seal(META, &content));
        self.db.apply_batch(batch).map_err(engine)
    }
}

fn row_key((revision, place): RowId) -> [u8; 13] {
    let mut key = [b'r'; 13];
    key[1..9].copy_from_slice(&revision.to_be_bytes());
    key[9..].copy_from_slice(&place.to_be_bytes());
    key
}

fn row_id(key: &[u8]) -> Result<RowId> {
    let (revision, place) = key[1..].split_first_chunk().ok_or_else(|| bad_key(key))?;
    Ok((i64::from_be_bytes(*revision), place.try_into().map(u32::from_be_bytes).map_err(|_| bad_key(key))?))
}

fn lease_key(id: LeaseId) -> [u8; 9] {
    let mut key = [b'l'; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

fn bad_key(key: &[u8]) -> StoreError {
    StoreError::Corrupt(format!("a row with the key {key:02x?}"))
}

/// sled's own threads may hold its file for a moment after the last handle in this process is gone. Another
/// process cannot: the directory is locked.
fn wait_for_release(dir: &Path) -> Result<()> {
    let path = dir.join("db");
    match File::open(&path) {
        Ok(file) => file.lock().map_err(disk(&path)),
        Err(_) => Ok(()),
    }
}

/// `fdatasync`s every file below a directory: sled's flush leaves its files in the page cache.
fn sync_tree(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(disk(dir))? {
        let path = entry.map_err(disk(dir))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else if let Ok(file) = File::open(&path) {
            // A file that is gone by now was one of sled's temporary ones.
            file.sync_data().map_err(disk(&path))?;
        }
    }
    sync_dir(dir)
}

fn engine(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Corruption { .. } | sled::Error::Unsupported(_) | sled::Error::ReportableBug(_) => {
            StoreError::Corrupt(error.to_string())
        }
        sled::Error::Io(error) if is_full(&error) => StoreError::NoSpace,
        other => StoreError::Engine(format!("sled: {other}")),
    }
}
