//! The embedded engine: what was answered is on disk.
//!
//! ```text
//! <dir>/lock            the process that has the store open (its id; held with flock)
//! <dir>/wal-<sequence>  the newest frames, one per group commit, in segments
//! <dir>/sled-<sequence> everything up to that frame
//! <dir>/reserve         room for the last commit before the disk was full
//! <dir>/last-reserve    room for the last one that deletes or forgets
//! ```
//!
//! A commit appends one frame to a [write-ahead log](crate::wal) and `fdatasync`s it. When the log has grown
//! thrice as long as what the [sled database](crate::checkpoint) holds, a thread writes a new database of what there is
//! by then, and the [segments](crate::segments) of the log up to there are written over. sled alone would do, were its
//! `flush` power-safe; followed by an `fdatasync` of its file it is, but then a lone writer gets half as far as with an append to a log (two trips to
//! the disk per commit instead of one), and sled's rewriting of pages would be on everybody's way.
//!
//! A full disk is noticed when a frame no longer fits: by then it is executed, and there is no way back. So some
//! room is always held in reserve. It is given up for that frame, and from then on nothing that puts or grants is executed
//! ([`StoreError::NoSpace`], etcd's words for its quota) until the reserve can be laid in again. What deletes or forgets is
//! small, and lies in what is left of that room; a second reserve is there for when it does not.
//!
//! The state itself lives in memory (see [`crate::mvcc`]): reads never touch the disk. Opening reads it all.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::checkpoint::{Checkpoint, Summary};
use crate::codec::{Change, LeaseTerms, Reader, Stored, put_record};
use crate::core::{Core, Moment, Record};
use crate::engine::{Engine, Journal, Room, blocking};
use crate::lease::{Leases, Terms};
use crate::mvcc::{Mvcc, RowId, Survey};
use crate::segments::{Segment, Segments};
use crate::{DEFAULT_HISTORY_LIMIT_BYTES, Event, KeyRange, Result, Snapshot, StoreError};

/// With the last reserve, longer than almost any frame.
const RESERVE_BYTES: u64 = 320 << 10;
/// So many make a log that is due.
const SEGMENTS: u64 = 4;
/// Longer than almost any frame that only deletes or forgets, and than a segment of sled's.
const LAST_RESERVE_BYTES: u64 = 576 << 10;
/// Beyond what is put into it, sled takes less than so much, and than as much again.
const SLED_BYTES: u64 = 2 << 20;

/// A store on disk.
pub type SledStore = Engine<DiskJournal>;

/// Where and how a [`SledStore`] keeps its data.
#[derive(Clone, Debug)]
pub struct SledConfig {
    /// The directory; made if it does not exist.
    pub dir: PathBuf,
    /// sled's page cache.
    pub cache_bytes: u64,
    /// A log longer than this, and than about thrice what the database holds, goes into the database.
    pub checkpoint_bytes: u64,
    /// The store compacts by itself when its history passes so many bytes.
    pub history_limit_bytes: usize,
}

impl SledConfig {
    /// The defaults: 2 MiB of cache (a database is read and written in order), a checkpoint after a MiB or more,
    /// [`DEFAULT_HISTORY_LIMIT_BYTES`] of history.
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
            write(&config, snapshot, now)
        })
        .await
    }
}

/// Writes a snapshot's keys in the order of their revisions, as if everything before were compacted.
fn write(config: &SledConfig, snapshot: Snapshot, now: Moment) -> Result<()> {
    let Snapshot { revision, mut kvs, leases } = snapshot;
    let terms = |ttl: Duration| {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        LeaseTerms { ttl, expires_ms: now.wall_ms.saturating_add(ttl_ms) }
    };
    let leases = leases.into_iter().map(|(id, ttl)| (id, terms(ttl))).collect();
    let summary = Summary { sequence: 1, compacted: revision, head: revision, leases };
    kvs.sort_by_key(|kv| kv.mod_revision);
    let mut last = (0, 0);
    let versions = kvs.into_iter().map(|kv| {
        last = (kv.mod_revision, if last.0 == kv.mod_revision { last.1 + 1 } else { 0 });
        (last, Change { kv, deleted: false })
    });
    Checkpoint::find(config)?.write(&summary, versions.collect())
}

/// A write-ahead log before a sled database.
#[derive(Debug)]
pub struct DiskJournal {
    config: SledConfig,
    log: Segments,
    /// As of the last frame.
    summary: Summary,
    database: Database,
    /// How long the log is when it is handed to the database.
    due_bytes: u64,
    /// What was true at the frame as of which the database is to be, and the log up to there.
    surveyed: Option<(Summary, Vec<Segment>)>,
    reserve: Reserve,
    last_reserve: Reserve,
    /// `None` once closed.
    lock: Option<DirLock>,
}

#[derive(Debug)]
enum Database {
    Idle(Checkpoint),
    /// A thread is bringing it up to date.
    Busy(JoinHandle<(Checkpoint, Checkpointed)>),
    /// Closed, or its thread panicked.
    Gone,
}

/// Whether a database is up to date, and the part of the log that was for it.
type Checkpointed = (Result<()>, Vec<Segment>);

/// A file of no use but for the room it takes.
#[derive(Debug)]
struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    fn hold(&mut self) -> Result<()> {
        if !self.held && self.path.metadata().map_or(0, |file| file.len()) != self.bytes {
            let write = || {
                let mut file = File::create(&self.path)?;
                std::io::copy(&mut std::io::repeat(0).take(self.bytes), &mut file)?;
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
        let mut database = Checkpoint::find(&config)?;
        let [mut reserve, mut last_reserve] = [("reserve", RESERVE_BYTES), ("last-reserve", LAST_RESERVE_BYTES)]
            .map(|(name, bytes)| Reserve { path: config.dir.join(name), bytes, held: false });
        let (mut mvcc, mut summary) = match database.restore() {
            // When it opens a database, sled fills up its last segment.
            Err(StoreError::NoSpace) => {
                reserve.give_up();
                last_reserve.give_up();
                database.restore()?
            }
            restored => restored?,
        };
        let mut sequence = summary.sequence;
        let log = Segments::open(&config.dir, &mut sequence, |found, payload| {
            summary.sequence = found;
            replay(&mut mvcc, payload, |record| summary.note(record))
        })?;
        let leases = leases(&mvcc, &summary, now);
        let core = Core::new(mvcc, leases, config.history_limit_bytes);
        let due_bytes = due_bytes(&config, &database);
        let database = Database::Idle(database);
        let surveyed = None;
        let journal = DiskJournal { config, log, summary, database, due_bytes, surveyed, reserve, last_reserve, lock };
        Ok((core, journal))
    }

    /// Begins a new segment, if the log up to there is to be handed to the database.
    fn prepare_checkpoint(&mut self, bytes: u64) -> Result<bool> {
        self.await_database()?;
        if !self.has_room(bytes) {
            self.due_bytes += self.log.bytes();
        }
        if self.log.bytes() < self.due_bytes {
            return Ok(false);
        }
        let log = self.log.split_off(self.summary.sequence + 1)?;
        self.surveyed = Some((self.summary.clone(), log));
        Ok(true)
    }

    /// Lets a thread write down what the log led to.
    fn begin_checkpoint(&mut self, survey: Survey) -> Result<()> {
        let Some((mut summary, log)) = self.surveyed.take() else { return Ok(()) };
        // What was compacted since the last frame is not in the survey.
        summary.compacted = survey.compacted;
        self.await_database()?;
        let Database::Idle(mut database) = std::mem::replace(&mut self.database, Database::Gone) else {
            return Err(StoreError::Closed);
        };
        let work = move || {
            let outcome = database.write(&summary, survey.versions);
            (database, (outcome, log))
        };
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(work);
        self.database = Database::Busy(thread.map_err(disk(&self.config.dir))?);
        Ok(())
    }

    /// Makes do without what there was no space for.
    fn unless_full<T>(&mut self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Err(StoreError::NoSpace) => {
                tracing::warn!(dir = %self.config.dir.display(), "the disk is full: nothing is put until there is space");
                self.reserve.give_up();
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Whether a database of so many bytes is not going to fill the disk, as far as one can tell: sled's threads wait for
    /// each other for ever once one of them could not write. Without room the log grows.
    fn has_room(&self, bytes: u64) -> bool {
        // There are file systems that cannot say.
        let room = rustix::fs::statvfs(&self.config.dir).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        room.is_none_or(|room| room >= 2 * bytes + SLED_BYTES)
    }

    /// Waits for the database.
    fn await_database(&mut self) -> Result<()> {
        let thread = match std::mem::replace(&mut self.database, Database::Gone) {
            Database::Busy(thread) => thread,
            other => {
                self.database = other;
                return Ok(());
            }
        };
        let panicked = |_| StoreError::Engine("the checkpoint thread panicked".into());
        let (database, (outcome, log)) = thread.join().map_err(panicked)?;
        self.due_bytes = due_bytes(&self.config, &database);
        self.database = Database::Idle(database);
        match outcome {
            Ok(()) => self.log.retire(log, self.due_bytes + self.patience_bytes()),
            Err(error) => {
                self.log.put_back(log);
                Err(error)
            }
        }
    }

    /// How much longer than is due the log may be while a checkpoint is at work.
    fn patience_bytes(&self) -> u64 {
        self.due_bytes / 4
    }
}

/// How long the log may become: about thrice what a checkpoint will write, so that writers seldom share the disk with one,
/// and the time to open stays in proportion to what is there. So does the space: but for a moment before a checkpoint is
/// through, the log, the database and the reserves are less than five times of what is kept.
fn due_bytes(config: &SledConfig, database: &Checkpoint) -> u64 {
    config.checkpoint_bytes.max(3 * database.bytes.saturating_sub(4 * (RESERVE_BYTES + LAST_RESERVE_BYTES)))
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
        let sequence = self.summary.sequence + 1;
        if matches!(&self.database, Database::Busy(thread) if thread.is_finished()) {
            let reaped = self.await_database();
            self.unless_full(reaped)?;
        }
        loop {
            match self.log.append(sequence, self.due_bytes / SEGMENTS, fill) {
                Err(StoreError::NoSpace) if self.log.remove_spare() => {}
                Err(StoreError::NoSpace) => {
                    let mut reserves = [&mut self.reserve, &mut self.last_reserve].into_iter();
                    reserves.find(|reserve| reserve.held).ok_or(StoreError::NoSpace)?.give_up();
                }
                other => break other?,
            }
        }
        self.summary.sequence = sequence;
        records.iter().for_each(|record| self.summary.note(record));
        Ok(())
    }

    /// While the last database is still being written, the log may grow a quarter longer; then that is waited for.
    fn wants_checkpoint(&mut self, bytes: usize) -> Result<bool> {
        let patience = match &self.database {
            Database::Busy(thread) if !thread.is_finished() => self.patience_bytes(),
            _ => 0,
        };
        if !self.reserve.held || self.log.bytes() < self.due_bytes + patience {
            return Ok(false);
        }
        let prepared = self.prepare_checkpoint(bytes as u64);
        self.unless_full(prepared).map(|prepared| prepared.unwrap_or(false))
    }

    fn checkpoint(&mut self, survey: Survey) -> Result<()> {
        let begun = self.begin_checkpoint(survey);
        self.unless_full(begun).map(drop)
    }

    fn size_bytes(&self) -> Result<Option<u64>> {
        size_of_tree(&self.config.dir).map(Some)
    }

    fn close(&mut self) {
        // The directory is not given up while a thread still writes in it.
        if let Err(error) = self.await_database() {
            tracing::error!(%error, "the last checkpoint failed; its frames stay in the log");
        }
        self.log.remove_spare();
        self.database = Database::Gone;
        self.lock = None;
    }
}

/// Applies a frame of the log; `each` is told of its records as they were when it was written.
fn replay(mvcc: &mut Mvcc, mut payload: Reader<'_>, mut each: impl FnMut(&Record)) -> Result<()> {
    while !payload.is_empty() {
        each(&match payload.record()? {
            Stored::Changes { revision, changes } => {
                if revision != mvcc.head() + 1 {
                    return Err(StoreError::Corrupt(format!("revision {revision} after {}", mvcc.head())));
                }
                let events = (0..).zip(changes).map(|(place, change)| mvcc.replay((revision, place), change));
                let events = events.collect::<Result<_>>()?;
                Record::Changes(mvcc.append(events))
            }
            Stored::Compact(revision) => {
                mvcc.compact(revision);
                Record::Compact(revision)
            }
            Stored::Lease(id, terms) => Record::Lease { id, ttl: terms.ttl, expires_ms: terms.expires_ms },
            Stored::LeaseEnd(id) => Record::LeaseEnd(id),
        });
    }
    Ok(())
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
fn leases(mvcc: &Mvcc, summary: &Summary, now: Moment) -> Leases {
    let mut leases = Leases::default();
    for (id, LeaseTerms { ttl, expires_ms }) in &summary.leases {
        let left = Duration::from_millis(u64::try_from(expires_ms.saturating_sub(now.wall_ms)).unwrap_or(0));
        leases.set(*id, Terms { ttl: *ttl, deadline: now.instant + left.min(*ttl) });
    }
    for kv in mvcc.live(&KeyRange::prefix(""), mvcc.head()) {
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
