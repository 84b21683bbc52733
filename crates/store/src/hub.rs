//! Who watches what, and how far each has read.
//!
//! A watcher has no queue: it reads the shared log at its own pace, so a thousand watchers of one change
//! cost a thousand cursors and not a thousand copies. A watcher that nothing concerns has nothing to
//! read and is never woken; one that falls behind the compaction is told so ([`Poll::Lagging`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::mvcc::{Entry, Mvcc};
use crate::{KeyRange, Revision, WatchBatch};

/// A batch is closed after the revision with which it reaches so many changes.
const MAX_BATCH_EVENTS: usize = 1000;
/// One turn at the lock reads at most so many revisions.
const MAX_SCAN_REVISIONS: Revision = 10_000;

/// Names a watcher.
pub(crate) type WatcherId = u64;

/// What a watcher finds when it looks.
#[derive(Debug)]
pub(crate) enum Poll {
    /// Changes, or how far it has read without finding any.
    Batch(WatchBatch),
    /// There was nothing in what was read, and there is more to read.
    Again,
    /// All is read.
    Idle,
    /// What it has not read yet is compacted away: everything up to this revision.
    Lagging(Revision),
}

#[derive(Debug)]
struct Watcher {
    range: KeyRange,
    /// Revisions before this one are not asked for.
    start: Revision,
    /// The first revision that may hold something unread; `None` if all is read.
    unread: Option<Revision>,
    wake: Arc<Notify>,
}

/// Every watcher.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    watchers: BTreeMap<WatcherId, Watcher>,
    next_id: WatcherId,
}

impl Hub {
    /// Adds a watcher that reads from `start` on; `visible` is the newest revision it may see now.
    pub(crate) fn add(&mut self, range: KeyRange, start: Revision, visible: Revision, wake: Arc<Notify>) -> WatcherId {
        self.next_id += 1;
        let unread = (start <= visible).then_some(start);
        self.watchers.insert(self.next_id, Watcher { range, start, unread, wake });
        self.next_id
    }

    pub(crate) fn remove(&mut self, id: WatcherId) {
        self.watchers.remove(&id);
    }

    /// A revision has become visible: wakes whom it concerns.
    pub(crate) fn publish(&mut self, entry: &Entry) {
        for watcher in self.watchers.values_mut() {
            let concerned = watcher.unread.is_none()
                && entry.revision >= watcher.start
                && entry.events.iter().any(|event| watcher.range.contains(&event.kv.key));
            if concerned {
                watcher.unread = Some(entry.revision);
                watcher.wake.notify_one();
            }
        }
    }

    /// Lets every watcher look again: the store closes.
    pub(crate) fn wake_all(&self) {
        self.watchers.values().for_each(|watcher| watcher.wake.notify_one());
    }

    /// Reads on for one watcher, up to `visible`.
    pub(crate) fn poll(&mut self, id: WatcherId, mvcc: &Mvcc, visible: Revision) -> Poll {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Poll::Idle };
        let Some(first) = watcher.unread else { return Poll::Idle };
        if first <= mvcc.compacted() {
            return Poll::Lagging(mvcc.compacted());
        }
        let mut events = Vec::new();
        let mut revision = first - 1;
        while revision < visible && revision - first < MAX_SCAN_REVISIONS && events.len() < MAX_BATCH_EVENTS {
            revision += 1;
            let Some(entry) = mvcc.entry(revision) else { break };
            events.extend(entry.events.iter().filter(|event| watcher.range.contains(&event.kv.key)).cloned());
        }
        watcher.unread = (revision < visible).then_some(revision + 1);
        match (events.is_empty(), watcher.unread) {
            (false, _) => Poll::Batch(WatchBatch { revision, events }),
            (true, Some(_)) => Poll::Again,
            (true, None) => Poll::Idle,
        }
    }
}
