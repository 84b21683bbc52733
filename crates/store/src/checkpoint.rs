//! The sled databases behind the write-ahead log: the whole state as of one frame.
//!
//! | tree | key | value |
//! |---|---|---|
//! | revision u64, place u32 (big-endian) | `r` | some versions of keys: this one, and those that follow it |
//! | sled's default | `l` lease i64 (big-endian) | ttl and wall-clock deadline in milliseconds |
//! | | `m` | compacted revision, newest revision, number of versions |
//!
//! Every value begins with a CRC-32 of its key (or its tree's name) and itself. A checkpoint writes new databases beside
//! the old ones. They have their name (the number of their last frame) when they are on disk, and only then the old
//! ones and the logs go. To change the old ones in place would be sled's own way, but costs it ten times as long and up
//! to ten times the space. That is also why versions lie in large pieces, each in a tree of its own: the rows of one tree
//! sled writes thrice, as it gathers them to pages and splits those. A large state lies in several databases, `0`, `1`
//! and so on in order, since sled keeps in memory what it reads and writes while it is open; the first has `l` and `m`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use crate::codec::{Change, LeaseTerms, put_change, put_i64, put_terms, put_u32, seal, unseal};
use crate::core::Record;
use crate::mvcc::{Mvcc, RowId};
use crate::sled::{SledConfig, disk, is_full, sync_dir};
use crate::{FIRST_REVISION, LeaseId, Result, Revision, StoreError};

/// So many bytes of versions make a piece: what is longer than 128 KiB sled puts into a file of its own.
const PIECE_BYTES: usize = 100 << 10;
/// A database with so many bytes is full.
const PART_BYTES: u64 = 16 << 20;
const PIECE: &[u8] = b"r";
const ID_BYTES: usize = size_of::<Revision>() + size_of::<u32>();
const META: &[u8] = b"m";
const PREFIX: &str = "sled-";
/// What is being written has this behind its name.
const UNFINISHED: &str = ".new";

/// What is true as of some frame, beside the keys.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// The frame's number.
    pub(crate) sequence: u64,
    pub(crate) compacted: Revision,
    pub(crate) head: Revision,
    pub(crate) leases: BTreeMap<LeaseId, LeaseTerms>,
}

impl Summary {
    fn new() -> Self {
        let (compacted, head) = (FIRST_REVISION, FIRST_REVISION);
        Summary { sequence: 0, compacted, head, leases: BTreeMap::new() }
    }

    /// Takes in a record of the next frame.
    pub(crate) fn note(&mut self, record: &Record) {
        match record {
            Record::Changes(entry) => self.head = entry.revision,
            Record::Compact(revision) => self.compacted = *revision,
            Record::Lease { id, ttl, expires_ms } => {
                self.leases.insert(*id, LeaseTerms { ttl: *ttl, expires_ms: *expires_ms });
            }
            Record::LeaseEnd(id) => _ = self.leases.remove(id),
        }
    }
}

/// A database on disk, which nobody has open; or none yet.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    cache_bytes: u64,
    /// The number of its last frame.
    pub(crate) sequence: u64,
    /// How many bytes of versions it holds.
    pub(crate) bytes: u64,
}

impl Checkpoint {
    /// Finds the newest database in the store's directory, and removes what a crash has left beside it.
    pub(crate) fn find(config: &SledConfig) -> Result<Checkpoint> {
        let mut checkpoint =
            Checkpoint { dir: config.dir.clone(), cache_bytes: config.cache_bytes, sequence: 0, bytes: 0 };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&config.dir).map_err(disk(&config.dir))? {
            let path = entry.map_err(disk(&config.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match name.strip_prefix(PREFIX).map(|number| number.parse()) {
                Some(Ok(sequence)) => found.push(sequence),
                Some(Err(_)) => remove(&path)?,
                None if name == "sled" => {
                    let advice = "is of an older version; a snapshot that it saves can be restored by this one";
                    return Err(StoreError::Engine(format!("{} {advice}", path.display())));
                }
                None => {}
            }
        }
        found.sort_unstable();
        checkpoint.sequence = found.pop().unwrap_or(0);
        found.into_iter().try_for_each(|older| remove(&checkpoint.path(older)))?;
        Ok(checkpoint)
    }

    fn path(&self, sequence: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{sequence:020}"))
    }

    fn database(&self, path: &Path) -> Result<sled::Db> {
        wait_for_release(path)?;
        sled::Config::new().path(path).cache_capacity(self.cache_bytes).flush_every_ms(None).open().map_err(engine)
    }

    /// Reads everything, and refuses if a piece is damaged or missing.
    pub(crate) fn restore(&mut self) -> Result<(Mvcc, Summary)> {
        let mut summary = Summary { sequence: self.sequence, ..Summary::new() };
        if self.sequence == 0 {
            return Ok((Mvcc::starting_at(summary.compacted), summary));
        }
        let path = self.path(self.sequence);
        let mut db = self.database(&path.join("0"))?;
        let sealed = db.get(META).map_err(engine)?;
        let sealed = sealed.ok_or_else(|| StoreError::Corrupt(format!("{} is not whole", path.display())))?;
        let mut meta = unseal(META, &sealed)?;
        (summary.compacted, summary.head) = (meta.i64()?, meta.i64()?);
        let expected = meta.i64()?;
        for row in db.scan_prefix(b"l") {
            let (key, sealed) = row.map_err(engine)?;
            let id = key[1..].try_into().map(i64::from_be_bytes).map_err(|_| bad_key(&key))?;
            summary.leases.insert(id, unseal(&key, &sealed)?.terms()?);
        }

        let mut mvcc = Mvcc::starting_at(summary.compacted);
        let (mut versions, mut events) = (0, Vec::new());
        let mut add = |id: RowId, change: Change| {
            versions += 1;
            if id.0 <= summary.compacted && !change.deleted {
                mvcc.restore(id, change.kv);
                return Ok(());
            }
            // Revisions follow each other without gaps, so a new one closes the one before.
            if id.0 == mvcc.head() + 2 && !events.is_empty() {
                mvcc.append(std::mem::take(&mut events));
            }
            if id != (mvcc.head() + 1, events.len() as u32) {
                return Err(StoreError::Corrupt(format!("the change before {id:?} is missing")));
            }
            events.push(mvcc.replay(id, change)?);
            Ok(())
        };
        for part in 1.. {
            self.bytes += each_version(&db, &mut add)?;
            let next = path.join(part.to_string());
            if !next.exists() {
                break;
            }
            drop(db);
            db = self.database(&next)?;
        }
        if !events.is_empty() {
            mvcc.append(events);
        }
        if versions != expected || mvcc.head() != summary.head {
            let head = summary.head;
            return Err(StoreError::Corrupt(format!(
                "{versions} versions up to revision {} where there were {expected} up to {head}",
                mvcc.head()
            )));
        }
        Ok((mvcc, summary))
    }

    /// Writes a database with these versions, and removes the one before.
    pub(crate) fn write(&mut self, summary: &Summary, versions: Vec<(RowId, Change)>) -> Result<()> {
        let path = self.path(summary.sequence);
        let unfinished = PathBuf::from(format!("{}{UNFINISHED}", path.display()));
        remove(&unfinished)?;
        let bytes = self.write_parts(&unfinished, summary, versions).inspect_err(|_| {
            // It must not take the room whose lack may have been the reason.
            if let Err(error) = remove(&unfinished) {
                tracing::warn!(%error, "an unfinished checkpoint stays");
            }
        })?;
        std::fs::rename(&unfinished, &path).map_err(disk(&path))?;
        sync_dir(&self.dir)?;
        let old = (self.sequence > 0).then(|| self.path(self.sequence));
        (self.sequence, self.bytes) = (summary.sequence, bytes);
        old.map_or(Ok(()), |path| remove(&path))
    }

    /// Makes a directory of databases durable; returns how many bytes of versions they hold.
    fn write_parts(&self, dir: &Path, summary: &Summary, mut versions: Vec<(RowId, Change)>) -> Result<u64> {
        versions.sort_unstable_by_key(|(id, _)| *id);
        let count = versions.len();
        let mut versions = versions.into_iter().peekable();
        let mut bytes = 0;
        for part in 0.. {
            let db = self.database(&dir.join(part.to_string()))?;
            if part == 0 {
                describe(&db, summary, count)?;
            }
            bytes += fill(&db, &mut versions)?;
            db.flush().map_err(engine)?;
            if versions.peek().is_none() {
                break;
            }
        }
        sync_tree(dir)?;
        Ok(bytes)
    }
}

/// Removes a file or a directory, if it is there: an earlier attempt may have come so far.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(disk(path)),
    }
}

/// Reads a database's versions in order; returns how many bytes of them there are.
fn each_version(db: &sled::Db, each: &mut impl FnMut(RowId, Change) -> Result<()>) -> Result<u64> {
    let mut bytes = 0;
    let mut names = db.tree_names();
    names.retain(|name| name.len() == ID_BYTES);
    names.sort_unstable();
    for name in names {
        let missing = || StoreError::Corrupt(format!("the versions from {name:02x?} on are missing"));
        let sealed = db.open_tree(&name).and_then(|tree| tree.get(PIECE)).map_err(engine)?.ok_or_else(missing)?;
        bytes += sealed.len() as u64;
        let mut piece = unseal(&name, &sealed)?;
        while !piece.is_empty() {
            let (place, change) = (piece.u32()?, piece.change()?);
            each((change.kv.mod_revision, place), change)?;
        }
    }
    Ok(bytes)
}

/// Adds what is true beside the keys.
fn describe(db: &sled::Db, summary: &Summary, versions: usize) -> Result<()> {
    let mut buffer = Vec::new();
    for (id, terms) in &summary.leases {
        let key = lease_key(*id);
        db.insert(key, seal(&mut buffer, &key, |content| put_terms(content, terms))).map_err(engine)?;
    }
    let numbers = [summary.compacted, summary.head, versions as i64];
    let fill = |content: &mut Vec<u8>| numbers.into_iter().for_each(|number| put_i64(content, number));
    db.insert(META, seal(&mut buffer, META, fill)).map(drop).map_err(engine)
}

/// Adds versions until there are enough; returns how many bytes they are.
fn fill(db: &sled::Db, versions: &mut Peekable<impl Iterator<Item = (RowId, Change)>>) -> Result<u64> {
    let mut bytes = 0;
    let mut buffer = Vec::with_capacity(PIECE_BYTES);
    while let Some(((revision, place), _)) = versions.peek()
        && bytes < PART_BYTES
    {
        let name = [&revision.to_be_bytes()[..], &place.to_be_bytes()].concat();
        let piece = seal(&mut buffer, &name, |piece| {
            let empty = piece.len();
            let fits = |piece: &Vec<u8>, change: &Change| {
                piece.len() == empty || piece.len() + change.kv.key.len() + change.kv.value.len() < PIECE_BYTES
            };
            while let Some(((_, place), change)) = versions.next_if(|(_, change)| fits(piece, change)) {
                put_u32(piece, place as usize);
                put_change(piece, &change.kv, change.deleted);
            }
        });
        bytes += piece.len() as u64;
        db.open_tree(&name).and_then(|tree| tree.insert(PIECE, piece)).map_err(engine)?;
    }
    Ok(bytes)
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
