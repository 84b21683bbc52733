//! The embedded engine: what was answered is on disk.
//!
//! ```text
//! <dir>/lock            the process that has the store open (its id; held with flock)
//! <dir>/wal-<sequence>  the newest frames, one per group commit
//! <dir>/sled/           everything else
//! <dir>/reserve         room for the last commit before the disk was full
//! <dir>/last-reserve    room for the last one that deletes or forgets
//! ```
//!
//! A commit appends one frame to a [write-ahead log](crate::wal) and `fdatasync`s it. When the log has grown
//! enough a new one is begun, and a thread brings the [sled database](crate::checkpoint) up to date with the
//! old one meanwhile. sled alone would do, were its `flush` power-safe; followed by an `fdatasync` of its
//! file it is, but then a lone writer gets half as far as with an append to a log (two trips to the disk per
//! commit instead of one), and sled's rewriting of pages would be on everybody's way. So sled does
//! what it is good at, keeping a large, changing set of rows in little space, off the path of the answer.
//!
//! A full disk is noticed when a frame no longer fits: by then it is executed, and there is no way back. So some
//! room is always held in reserve. It is given up for that frame, and from then on nothing that puts or grants is executed
//! ([`StoreError::NoSpace`], etcd's words for its quota) until the reserve can be laid in again. What deletes or forgets is
//! small, and lies in what is left of that room; a second reserve is there for when it does not.
//!
//! The state itself lives in memory (see [`crate::mvcc`]): reads never touch the disk. Opening reads it all.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::FallocateFlags;

use crate::checkpoint::{Checkpoint, Frame, Restored};
use crate::codec::{Change, LeaseTerms, Reader, Stored, put_record};
use crate::core::{Core, Moment, Record};
use crate::engine::{Engine, Journal, Room, blocking};
use crate::lease::{Leases, Terms};
use crate::mvcc::{Entry, Mvcc, RowId};
use crate::wal::{self, Wal};
use crate::{DEFAULT_HISTORY_LIMIT_BYTES, Event, KeyRange, Result, Revision, Snapshot, StoreError};

/// Longer than almost any frame.
const RESERVE_BYTES: u64 = 1 << 20;

/// What a checkpoint may take besides what it is to hold twice.
const CHECKPOINT_BYTES: u64 = 4 << 20;

/// A store on disk.
pub type SledStore = Engine<DiskJournal>;

/// Where and how a [`SledStore`] keeps its data.
#[derive(Clone, Debug)]
pub struct SledConfig {
    /// The directory; made if it does not exist.
    pub dir: PathBuf,
    /// sled's page cache.
    pub cache_bytes: u64,
    /// A log longer than this goes into the database.
    pub checkpoint_bytes: u64,
    /// The store compacts by itself when its history passes so many bytes.
    pub history_limit_bytes: usize,
}

impl SledConfig {
    /// The defaults: 2 MiB of cache (it only helps checkpoints), a checkpoint every MiB, [`DEFAULT_HISTORY_LIMIT_BYTES`] of history.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        SledConfig {
            dir: dir.into(),
            cache_bytes: 2 << 20,
            checkpoint_bytes: 1 << 20,
            history_limit_bytes: DEFAULT_HISTORY_LIMIT_BYTES,
        }
    }
}

impl SledStore {
    /// Opens a store, or makes an empty one; it is as it was when its last answer was given.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process (or this one) has it open, [`StoreError::Corrupt`] if what
    /// is on disk is not what was written.
    pub async fn open(config: SledConfig) -> Result<Arc<SledStore>> {
        let now = Moment::now();
        let dir = config.dir.clone();
        let (core, journal) = blocking(move || DiskJournal::open(config, now)).await.map_err(|error| match error {
            StoreError::Corrupt(what) => StoreError::Corrupt(format!(
                "{what}. Nothing in {} was changed or is served; to go on from a snapshot: \
                 coracle --data-dir {} snapshot restore FILE --force",
                dir.display(),
                dir.parent().unwrap_or(&dir).display()
            )),
            other => other,
        })?;
        let leased = core.next_deadline().is_some();
        let engine = Engine::start(core, journal);
        if leased {
            engine.watch_leases();
        }
        Ok(Arc::new(engine))
    }

    /// Makes a store that holds a snapshot, in a directory where there is none. Every key keeps its revisions; what
    /// was before the snapshot's own counts as compacted. Leases live their full time again.
    ///
    /// # Errors
    /// [`StoreError::Engine`] if the directory holds anything, or the disk failed; it is to be thrown away then.
    pub async fn restore(config: SledConfig, snapshot: Snapshot) -> Result<()> {
        let now = Moment::now();
        blocking(move || {
            create_dir(&config.dir)?;
            if std::fs::read_dir(&config.dir).map_err(disk(&config.dir))?.next().is_some() {
                return Err(StoreError::Engine(format!("{} is not empty", config.dir.display())));
            }
            let _lock = lock(&config.dir)?;
            Checkpoint::open(&config)?.apply(&frames(snapshot, now), &[])
        })
        .await
    }
}

/// A log that leads to a snapshot: its keys in the order of their revisions, and everything before forgotten.
fn frames(snapshot: Snapshot, now: Moment) -> Vec<Frame> {
    let mut changes: BTreeMap<Revision, Vec<Event>> = BTreeMap::from([(snapshot.revision, Vec::new())]);
    for kv in snapshot.kvs {
        changes.entry(kv.mod_revision).or_default().push(Event { kv, prev: None, deleted: false });
    }
    let changes = changes.into_iter().map(|(revision, events)| Record::Changes(Arc::new(Entry { revision, events })));
    let leases = snapshot.leases.into_iter().map(|(id, ttl)| {
        let expires_ms = now.wall_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        Record::Lease { id, ttl, expires_ms }
    });
    let compacted = Record::Compact { revision: snapshot.revision, dropped: Vec::new() };
    (1..).zip(changes.chain(leases).chain([compacted]).map(|record| vec![record])).collect()
}

/// A write-ahead log before a sled database.
#[derive(Debug)]
pub struct DiskJournal {
    config: SledConfig,
    wal: Wal,
    sequence: u64,
    /// What the logs hold and the database does not.
    pending: Vec<Frame>,
    /// The files `pending` lies in, but for the one that is being written.
    finished_logs: Vec<PathBuf>,
    database: Database,
    reserve: Reserve,
    last_reserve: Reserve,
    /// `None` once closed.
    lock: Option<DirLock>,
}

#[derive(Debug)]
enum Database {
    Idle(Checkpoint),
    /// A thread is bringing it up to date.
    Busy(JoinHandle<Checkpointed>),
    /// Closed, or a checkpoint failed.
    Gone,
}

/// The database, or why it is not up to date, and which frames in which files are still to be applied.
type Checkpointed = Result<Checkpoint, (StoreError, Vec<Frame>, Vec<PathBuf>)>;

/// A file of no use but for the room it takes.
#[derive(Debug)]
struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    fn hold(&mut self) -> Result<()> {
        if !self.held && self.path.metadata().map_or(0, |file| file.len()) != RESERVE_BYTES {
            let write = || {
                let mut file = File::create(&self.path)?;
                std::io::copy(&mut std::io::repeat(0).take(RESERVE_BYTES), &mut file)?;
                file.sync_data()
            };
            write().map_err(|error| {
                self.give_up();
                disk(&self.path)(error)
            })?;
        }
        self.held = true;
        Ok(())
    }

    fn give_up(&mut self) {
        self.held = false;
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "the reserve of space stays");
        }
    }
}

impl DiskJournal {
    fn open(config: SledConfig, now: Moment) -> Result<(Core, DiskJournal)> {
        create_dir(&config.dir)?;
        let lock = Some(lock(&config.dir)?);
        let database = Checkpoint::open(&config)?;
        let mut restored = database.restore()?;
        let mut sequence = database.meta.sequence;
        let mut pending = Vec::new();
        let mut logs = wal::list(&config.dir)?;
        let mut good_bytes = 0;
        for (index, log) in logs.iter().enumerate() {
            if wal::first_frame(log)? > sequence + 1 {
                return Err(StoreError::Corrupt(format!(
                    "the frames from {} to {} are gone",
                    sequence + 1,
                    log.display()
                )));
            }
            good_bytes = wal::replay(log, index + 1 == logs.len(), |found, payload| {
                if found <= sequence {
                    return Ok(());
                }
                if found != sequence + 1 {
                    return Err(StoreError::Corrupt(format!("{} lacks frame {}", log.display(), sequence + 1)));
                }
                sequence = found;
                pending.push((found, restored.replay(payload)?));
                Ok(())
            })?;
        }
        let wal = match logs.pop() {
            Some(log) => Wal::resume(&log, good_bytes)?,
            None => Wal::create(&config.dir, sequence + 1)?,
        };
        let leases = leases(&restored, now);
        let core = Core::new(restored.mvcc, leases, config.history_limit_bytes);
        let database = Database::Idle(database);
        let [reserve, last_reserve] =
            ["reserve", "last-reserve"].map(|name| Reserve { path: config.dir.join(name), held: false });
        let finished_logs = logs;
        let journal =
            DiskJournal { config, wal, sequence, pending, finished_logs, database, reserve, last_reserve, lock };
        Ok((core, journal))
    }

    /// Hands a log that is long enough to a thread, unless the last one is still at it.
    fn checkpoint_if_due(&mut self) -> Result<()> {
        let busy = matches!(&self.database, Database::Busy(thread) if !thread.is_finished());
        let due = !busy && self.reserve.held && self.wal.bytes >= self.config.checkpoint_bytes;
        if !due || !self.has_room_for_checkpoint() {
            return Ok(());
        }
        let mut database = self.take_database()?;
        let new = Wal::create(&self.config.dir, self.sequence + 1)?;
        let old = std::mem::replace(&mut self.wal, new);
        self.finished_logs.push(old.path);
        let (frames, logs) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.finished_logs));
        let work = move || match database.apply(&frames, &logs) {
            Ok(()) => Ok(database),
            Err(error) => Err((error, frames, logs)),
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        self.database = Database::Busy(thread.map_err(disk(&self.config.dir))?);
        Ok(())
    }

    /// Whether a checkpoint is not going to fill the disk, as far as one can tell: sled's threads wait for each other for
    /// ever once one of them could not write. Without room the logs grow.
    fn has_room_for_checkpoint(&self) -> bool {
        let bytes = |log: &PathBuf| log.metadata().map_or(0, |log| log.len());
        let pending = self.wal.bytes + self.finished_logs.iter().map(bytes).sum::<u64>();
        let path = self.config.dir.join("room");
        let laid = File::create(&path).and_then(|file| {
            Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 * pending + CHECKPOINT_BYTES)?)
        });
        _ = std::fs::remove_file(&path);
        // There are file systems that cannot say.
        !laid.is_err_and(|error| is_full(&error))
    }

    /// Waits for the database. What could not be applied stays in the logs for the next to open them.
    fn take_database(&mut self) -> Result<Checkpoint> {
        match std::mem::replace(&mut self.database, Database::Gone) {
            Database::Idle(database) => Ok(database),
            Database::Busy(thread) => {
                let panicked = |_| StoreError::Engine("the checkpoint thread panicked".into());
                thread.join().map_err(panicked)?.map_err(|(error, mut frames, mut logs)| {
                    frames.append(&mut self.pending);
                    logs.append(&mut self.finished_logs);
                    (self.pending, self.finished_logs) = (frames, logs);
                    error
                })
            }
            Database::Gone if self.lock.is_none() => Err(StoreError::Closed),
            Database::Gone => {
                let database = Checkpoint::open(&self.config)?;
                self.pending.retain(|(sequence, _)| *sequence > database.meta.sequence);
                Ok(database)
            }
        }
    }
}

impl Journal for DiskJournal {
    const BLOCKING: bool = true;

    fn ready(&mut self) -> Result<Room> {
        self.last_reserve.hold()?;
        match self.reserve.hold() {
            Err(StoreError::NoSpace) => Ok(Room::Little),
            held => held.map(|()| Room::Plenty),
        }
    }

    fn commit(&mut self, records: Vec<Record>) -> Result<()> {
        let fill = |payload: &mut Vec<u8>| records.iter().for_each(|record| put_record(payload, record));
        match self.wal.append(self.sequence + 1, fill) {
            Err(StoreError::NoSpace) => {
                let held = if self.reserve.held { &mut self.reserve } else { &mut self.last_reserve };
                held.give_up();
                self.wal.append(self.sequence + 1, fill)?;
            }
            other => other?,
        }
        self.sequence += 1;
        self.pending.push((self.sequence, records));
        match self.checkpoint_if_due() {
            Err(StoreError::NoSpace) => {
                tracing::warn!(dir = %self.config.dir.display(), "the disk is full: nothing is put until there is space");
                self.reserve.give_up();
                Ok(())
            }
            other => other,
        }
    }

    fn size_bytes(&self) -> Result<Option<u64>> {
        size_of_tree(&self.config.dir).map(Some)
    }

    fn close(&mut self) -> Result<()> {
        let mut database = self.take_database()?;
        // Without room the logs stay, and who opens the store next reads them.
        if !self.pending.is_empty() && self.has_room_for_checkpoint() {
            let mut logs = std::mem::take(&mut self.finished_logs);
            // An empty log stays: its name tells whether the database is as new as it was.
            let new = Wal::create(&self.config.dir, self.sequence + 1)?;
            logs.push(std::mem::replace(&mut self.wal, new).path);
            database.apply(&std::mem::take(&mut self.pending), &logs)?;
        }
        drop(database);
        self.lock = None;
        Ok(())
    }

    fn abandon(&mut self) {
        // The directory is not given up while a thread still writes in it.
        match self.take_database() {
            Ok(_) | Err(StoreError::Closed) => {}
            Err(error) => tracing::error!(%error, "the last checkpoint failed; its frames stay in the log"),
        }
        self.lock = None;
    }
}

impl Restored {
    /// Applies a frame of the log; returns its records as they were when it was written.
    fn replay(&mut self, mut payload: Reader<'_>) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        while !payload.is_empty() {
            records.push(match payload.record()? {
                Stored::Changes { revision, changes } => {
                    if revision != self.mvcc.head() + 1 {
                        return Err(StoreError::Corrupt(format!("revision {revision} after {}", self.mvcc.head())));
                    }
                    let replay = |(place, change)| self.mvcc.replay((revision, place), change);
                    let events = (0..).zip(changes).map(replay).collect::<Result<_>>()?;
                    Record::Changes(self.mvcc.append(events))
                }
                Stored::Compact(revision) => Record::Compact { revision, dropped: self.mvcc.compact(revision) },
                Stored::Lease(id, terms) => {
                    self.leases.insert(id, terms);
                    Record::Lease { id, ttl: terms.ttl, expires_ms: terms.expires_ms }
                }
                Stored::LeaseEnd(id) => {
                    self.leases.remove(&id);
                    Record::LeaseEnd(id)
                }
            });
        }
        Ok(records)
    }
}

impl Mvcc {
    /// Makes a change again, and checks that it comes out as it was written.
    pub(crate) fn replay(&mut self, id: RowId, change: Change) -> Result<Event> {
        let Change { kv, deleted } = change;
        let event = match deleted {
            true => self.delete(id, &kv.key),
            false => Some(self.put(id, kv.key.clone(), kv.value.clone(), kv.lease)),
        };
        event
            .filter(|event| event.kv == kv)
            .ok_or_else(|| StoreError::Corrupt(format!("the change {id:?} does not follow from what was before")))
    }
}

/// The leases with their keys and the time they have left; never more than a whole term, should the wall
/// clock have been set back.
fn leases(restored: &Restored, now: Moment) -> Leases {
    let mut leases = Leases::default();
    for (id, LeaseTerms { ttl, expires_ms }) in &restored.leases {
        let left = Duration::from_millis(u64::try_from(expires_ms.saturating_sub(now.wall_ms)).unwrap_or(0));
        leases.set(*id, Terms { ttl: *ttl, deadline: now.instant + left.min(*ttl) });
    }
    for kv in restored.mvcc.live(&KeyRange::prefix(""), restored.mvcc.head()) {
        leases.reattach(&kv.key, 0, kv.lease);
    }
    leases
}

/// Makes a directory with its parents, durably: a name is on disk when the directory it stands in is synced.
fn create_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir(parent)?;
    std::fs::create_dir(dir).map_err(disk(dir))?;
    sync_dir(parent)
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<DirLock> {
    let path = dir.join("lock");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(disk(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(disk(&path))?;
            return Err(StoreError::InUse { dir: dir.into(), pid: pid.trim().into() });
        }
        Err(TryLockError::Error(error)) => return Err(disk(&path)(error)),
    }
    let mut lock = DirLock(file);
    lock.0.set_len(0).map_err(disk(&path))?;
    lock.0.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(disk(&path))?;
    Ok(lock)
}

/// A directory that is this process' own.
#[derive(Debug)]
struct DirLock(File);

impl Drop for DirLock {
    /// Closing the file would not do: a child between fork and exec still has it open, and the lock with it.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the data directory stays locked until this process ends");
        }
    }
}

/// Makes an I/O error one of the store's, with the path it happened to.
pub(crate) fn disk(path: &Path) -> impl Fn(std::io::Error) -> StoreError {
    move |error| match is_full(&error) {
        true => StoreError::NoSpace,
        false => StoreError::Engine(format!("{}: {error}", path.display())),
    }
}

pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(disk(dir))
}

fn size_of_tree(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(disk(dir))? {
        let entry = entry.map_err(disk(dir))?;
        // A checkpoint may remove files meanwhile; they count for nothing.
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of_tree(&entry.path())?,
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}
