//! etcd's model: revisions, transactions, watches, leases.
//!
//! The store is one flat, ordered map from keys (`/registry/pods/default/web-0`) to values, and a
//! single counter: the **revision**. Every transaction that changes anything takes the next revision,
//! and every revision since the last compaction can be read again. That is all Kubernetes asks of etcd:
//! `resourceVersion` is the revision, a list is a range at a revision, a watch is the log from a
//! revision on, and an optimistic update is a transaction that compares a key's `mod_revision`.
//!
//! ```text
//! revision   1        2          3          4              5
//!            empty    put a=1    put b=1    put a=2        delete b
//! range at 3: a=1 (create 2, mod 2, version 1), b=1 (create 3, mod 3, version 1)
//! range at 5: a=2 (create 2, mod 4, version 2)
//! watch from 4: put a=2 (previous a=1), delete b (previous b=1)
//! ```
//!
//! Engines stand behind the one [`Store`] trait; `tests/conformance.rs` holds what each of them must do.
//! Read on in this order: `mvcc` (keys, history, log), `lease`, `hub` (who watches what), `core` (the
//! three together: a pure function from command to answer), `engine` (locks, group commit, waiting), and
//! the two journals, `memory` (none) and `sled` (a write-ahead log before a sled database).
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! use coracle_store::{KeyRange, MemoryStore, RangeRequest, Store, Txn};
//!
//! let store = MemoryStore::new();
//! let created = store.txn(Txn::put_if("/registry/pods/default/web-0", 0, "{}", 0)).await?;
//! assert!(created.succeeded);
//! let again = store.txn(Txn::put_if("/registry/pods/default/web-0", 0, "{}", 0)).await?;
//! assert!(!again.succeeded); // it exists: a conflict
//! let pods = store.range(RangeRequest::new(KeyRange::prefix("/registry/pods/"))).await?;
//! assert_eq!(pods.kvs[0].mod_revision, created.revision);
//! # Ok::<_, coracle_store::StoreError>(()) }).unwrap();
//! ```

mod checkpoint;
mod codec;
mod compactor;
mod core;
mod engine;
mod hub;
mod lease;
mod memory;
mod mvcc;
mod segments;
mod sled;
mod wal;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::Notify;

pub use self::sled::{DiskJournal, SledConfig, SledStore};
pub use compactor::{Retention, run_compactor};
pub use engine::Engine;
pub use memory::{MemoryStore, NoJournal};

/// How much history an engine keeps unless told otherwise: over an hour of a small, quiet cluster.
pub const DEFAULT_HISTORY_LIMIT_BYTES: usize = 8 << 20;

/// The revision of an empty store, as in etcd; the first change is 2.
pub(crate) const FIRST_REVISION: Revision = 1;

/// The store's logical time. Starts at 1 in an empty store, grows by one with every changing transaction.
pub type Revision = i64;

/// Names a lease; 0 is no lease.
pub type LeaseId = i64;

/// One key as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, such as `/registry/pods/default/web-0`.
    pub key: Bytes,
    /// The value; for Coracle an object's JSON.
    pub value: Bytes,
    /// The revision that created the key (anew, if it had been deleted).
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// How often it was put since its creation, from 1.
    pub version: i64,
    /// The lease it dies with, or 0.
    pub lease: LeaseId,
}

/// Which keys a range or watch is about: from `start`, up to and excluding `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key beyond the range; `None` means `start` alone, empty means no end.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        KeyRange { start: key.into(), end: None }
    }

    /// Every key that begins with `prefix`; every key at all if it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        // The successor of a prefix: drop trailing 0xff, then count the last byte up.
        while end.pop_if(|byte| *byte == 0xff).is_some() {}
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        KeyRange { start, end: Some(end.into()) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => key == self.start,
            Some(end) => key >= &self.start[..] && (end.is_empty() || key < &end[..]),
        }
    }

    /// The range as bounds for an ordered map.
    pub fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        let end = match &self.end {
            None => Bound::Included(self.start.clone()),
            Some(end) if end.is_empty() => Bound::Unbounded,
            Some(end) => Bound::Excluded(end.clone()),
        };
        (Bound::Included(self.start.clone()), end)
    }
}

/// A read of a range of keys, in key order.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// As of which revision; `None` is the newest.
    pub revision: Option<Revision>,
    /// At most so many; 0 is no limit.
    pub limit: usize,
    /// Leave the values empty.
    pub keys_only: bool,
    /// Return only the count.
    pub count_only: bool,
}

impl RangeRequest {
    /// All of a range as of the newest revision.
    pub fn new(range: KeyRange) -> Self {
        RangeRequest { range, revision: None, limit: 0, keys_only: false, count_only: false }
    }
}

/// What a range read found.
#[derive(Clone, Debug, Default)]
pub struct RangeResponse {
    /// The store's revision when it was read (not the one read at).
    pub revision: Revision,
    /// The keys, in order, at most the limit.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut keys off.
    pub more: bool,
    /// How many keys the whole range holds, whatever the limit.
    pub count: usize,
}

/// A condition on a key at the beginning of a transaction, or on each key of a range. Where there is no key, its
/// numbers compare as 0 and its value as nothing: no comparison of values holds.
#[derive(Clone, Debug)]
pub struct Compare {
    /// The keys that are looked at.
    pub range: KeyRange,
    /// What of it.
    pub target: CompareTarget,
    /// How it must relate to the target's number or bytes.
    pub operator: CompareOperator,
}

/// What a [`Compare`] looks at, and what it is held against.
#[derive(Clone, Debug)]
pub enum CompareTarget {
    /// The revision that created it.
    CreateRevision(Revision),
    /// The revision that last changed it.
    ModRevision(Revision),
    /// How often it was put.
    Version(i64),
    /// Its value.
    Value(Bytes),
    /// Its lease.
    Lease(LeaseId),
}

/// How a key must relate to the target of a [`Compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOperator {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Greater than the target.
    Greater,
    /// Less than the target.
    Less,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The lease to attach it to, or 0.
        lease: LeaseId,
    },
    /// Write a key that exists.
    Update {
        /// The key.
        key: Bytes,
        /// Its new value, unless it keeps the one it has.
        value: Option<Bytes>,
        /// The lease to attach it to or 0, unless it keeps the one it has.
        lease: Option<LeaseId>,
    },
    /// Delete a range of keys.
    Delete(KeyRange),
    /// Read a range of keys, as the transaction leaves them so far.
    Range(RangeRequest),
    /// Another choice. Its conditions too look at what was there before the whole transaction.
    Txn(Txn),
}

/// If every comparison holds do `success`, else `failure`; all at one revision, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// Done when all hold.
    pub success: Vec<Op>,
    /// Done when one does not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// Put `key` if its `mod_revision` is still `expected` (0: does not exist); read it otherwise.
    pub fn put_if(key: impl Into<Bytes>, expected: Revision, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        let key = key.into();
        Txn {
            compare: vec![Compare::unchanged(key.clone(), expected)],
            success: vec![Op::Put { key: key.clone(), value: value.into(), lease }],
            failure: vec![Op::Range(RangeRequest::new(KeyRange::key(key)))],
        }
    }

    /// Delete `key` if its `mod_revision` is still `expected`; read it otherwise.
    pub fn delete_if(key: impl Into<Bytes>, expected: Revision) -> Self {
        let key = key.into();
        Txn {
            compare: vec![Compare::unchanged(key.clone(), expected)],
            success: vec![Op::Delete(KeyRange::key(key.clone()))],
            failure: vec![Op::Range(RangeRequest::new(KeyRange::key(key)))],
        }
    }
}

impl Compare {
    /// `key` was last changed at `expected`, or does not exist if that is 0.
    pub fn unchanged(key: impl Into<Bytes>, expected: Revision) -> Self {
        let range = KeyRange::key(key);
        Compare { range, target: CompareTarget::ModRevision(expected), operator: CompareOperator::Equal }
    }
}

/// What one [`Op`] did.
#[derive(Clone, Debug)]
pub enum OpResponse {
    /// The key's state before the put.
    Put(Option<KeyValue>),
    /// The keys that were deleted.
    Delete(Vec<KeyValue>),
    /// The keys that were read.
    Range(RangeResponse),
    /// What the inner transaction did.
    Txn(TxnResponse),
}

/// What a transaction did.
#[derive(Clone, Debug)]
pub struct TxnResponse {
    /// Whether every comparison held.
    pub succeeded: bool,
    /// The store's revision after it: its own, if it changed anything.
    pub revision: Revision,
    /// One answer per operation of the branch that was taken.
    pub responses: Vec<OpResponse>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key after a put; after a delete its key and `mod_revision` (the delete's), all else empty.
    pub kv: KeyValue,
    /// The key before, if it existed (and is not yet compacted).
    pub prev: Option<KeyValue>,
    /// Whether this is a delete.
    pub deleted: bool,
}

/// A watch of a range of keys.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// Which keys.
    pub range: KeyRange,
    /// The first revision to report, which may lie in the future; `None` means whatever comes next.
    pub start: Option<Revision>,
    /// Send an empty batch when nothing happened for so long, to say how far the watch has come.
    pub progress: Option<Duration>,
    /// Send one too whenever this is notified, once everything acknowledged by then is reported.
    pub ask: Option<Arc<Notify>>,
}

impl WatchRequest {
    /// A watch that reports changes alone.
    pub fn new(range: KeyRange, start: Option<Revision>) -> Self {
        WatchRequest { range, start, progress: None, ask: None }
    }

    /// Waits until it is to be told how far the watch is: somebody asks, or nothing has happened for long enough.
    pub async fn progress_due(&self) {
        let asked = async {
            match &self.ask {
                Some(ask) => ask.notified().await,
                None => std::future::pending().await,
            }
        };
        match self.progress {
            Some(period) => _ = coracle_clock::timeout(period, asked).await,
            None => asked.await,
        }
    }
}

/// All that is true at one revision, without what was before: what a store can begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// Every key.
    pub kvs: Vec<KeyValue>,
    /// Every lease, and how long it lives when it is renewed.
    pub leases: BTreeMap<LeaseId, Duration>,
}

/// How a lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The full time it was granted.
    pub granted: Duration,
    /// What is left of it.
    pub left: Duration,
    /// The keys that die with it, in order.
    pub keys: Vec<Bytes>,
}

/// All changes of one or more whole revisions, in order. Empty: only progress.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Everything up to and including this revision has now been reported.
    pub revision: Revision,
    /// The changes.
    pub events: Vec<Event>,
}

/// A stream of changes. Ends after an error; ends without one when the store closes.
pub type WatchStream = BoxStream<'static, Result<WatchBatch>>;

/// Why the store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision has been compacted away.
    #[error("required revision has been compacted")]
    Compacted {
        /// A range can still be read at this revision and later, a watch can start after it.
        compact_revision: Revision,
    },
    /// The revision has not happened yet.
    #[error("required revision is a future revision")]
    FutureRevision {
        /// The newest there is.
        current: Revision,
    },
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A lease of that name exists.
    #[error("lease already exists")]
    LeaseExists,
    /// A transaction wrote one key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A key was to be written only if it exists, and does not.
    #[error("key not found")]
    KeyNotFound,
    /// The data on disk is damaged; nothing of it is served.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// Another process has the data directory open.
    #[error("the data directory {} is in use by process {pid}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process' id, as it wrote it down.
        pid: String,
    },
    /// The disk is full. Nothing was changed; reads, deletes and compactions go on, and puts once there is space.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The disk or the engine failed.
    #[error("{0}")]
    Engine(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// The result of every store call.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// etcd's model. Cheap to share as `Arc<dyn Store>`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The newest acknowledged revision that this process knows of.
    fn revision(&self) -> Revision;

    /// The newest acknowledged revision, whoever else writes to the same store.
    async fn current(&self) -> Result<Revision> {
        Ok(self.revision())
    }

    /// Reads a range, as of the newest acknowledged revision or an older one.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] before the compacted revision, [`StoreError::FutureRevision`] after the newest.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse>;

    /// Runs a transaction. When this returns, its changes are on disk and can be read. Dropping the future
    /// does not undo it.
    ///
    /// # Errors
    /// [`StoreError::DuplicateKey`], [`StoreError::LeaseNotFound`] and [`StoreError::KeyNotFound`] before anything is
    /// changed;
    /// [`StoreError::Engine`] when the disk failed, after which every change is refused until the store is
    /// opened again (whether this one is in it then is not known).
    async fn txn(&self, txn: Txn) -> Result<TxnResponse>;

    /// Watches a range from a revision on, without gap or duplicate.
    ///
    /// A watcher costs nothing while nothing in its range changes, and may be as slow as the history is long:
    /// it reads on where it was. Only one that compaction has overtaken ends, with [`StoreError::Compacted`].
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if the start is at or before the compacted revision.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream>;

    /// Forgets what was superseded before or at `revision`; a range at `revision` itself still works.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if that was done already, [`StoreError::FutureRevision`] after the newest.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// Creates a lease that lives `ttl` from now; `id` 0 lets the store choose.
    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId>;

    /// Lets a lease live its full time again.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration>;

    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, id: LeaseId) -> Result<()>;

    /// How a lease stands.
    async fn lease_status(&self, id: LeaseId) -> Result<LeaseStatus>;

    /// Every lease, in order.
    async fn leases(&self) -> Result<Vec<LeaseId>>;

    /// Bytes in use on disk (or in memory, for an engine without a disk).
    async fn size_bytes(&self) -> Result<u64>;

    /// Finishes what was begun and releases the files. Every later call fails with [`StoreError::Closed`].
    async fn close(&self) -> Result<()>;
}

/// A store that is shared between the API server's parts.
pub type SharedStore = Arc<dyn Store>;
