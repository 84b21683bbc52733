//! The store as a function: a command and the state before it give an answer, records for the journal,
//! and the state after it. No locks, no disk, no waiting; both engines run exactly this.
//!
//! Two revisions matter. `head` is what has been executed, `visible` what has been acknowledged. A batch
//! of commands is [executed](Core::execute), its records are made durable, and only then it is
//! [published](Core::publish): since every revision can be read, readers simply read at `visible` and see
//! nothing that a crash could take back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_clock::Instant;
use tokio::sync::Notify;

use crate::hub::{Hub, Poll, WatcherId};
use crate::lease::{Leases, Terms};
use crate::mvcc::{Entry, Mvcc, RowId};
use crate::{
    Compare, CompareOperator, CompareTarget, Event, KeyRange, LeaseId, Op, OpResponse, RangeRequest, RangeResponse,
    Result, Revision, StoreError, Txn, TxnResponse, WatchRequest,
};

/// The present, as the caller of a command sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    /// Milliseconds since 1970: what a deadline is on disk.
    pub(crate) wall_ms: i64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Moment { instant: coracle_clock::instant(), wall_ms: coracle_clock::now().as_millisecond() }
    }
}

/// Everything that can change the store.
#[derive(Debug)]
pub(crate) enum Command {
    Txn(Txn),
    Compact(Revision),
    Grant {
        id: LeaseId,
        ttl: Duration,
        now: Moment,
    },
    KeepAlive {
        id: LeaseId,
        now: Moment,
    },
    Revoke(LeaseId),
    /// Ends every lease whose time has come.
    Expire(Instant),
}

/// What a command answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Txn(TxnResponse),
    Ttl(Duration),
}

/// What a journal must keep so that the state can be built again.
#[derive(Debug)]
pub enum Record {
    /// A revision happened.
    Changes(Arc<Entry>),
    /// History up to `revision` is forgotten, which drops these versions.
    Compact { revision: Revision, dropped: Vec<RowId> },
    /// A lease exists with these terms.
    Lease { id: LeaseId, ttl: Duration, expires_ms: i64 },
    /// A lease ended (the deletes of its keys are changes of their own).
    LeaseEnd(LeaseId),
}

/// The whole state of a store.
#[derive(Debug)]
pub(crate) struct Core {
    mvcc: Mvcc,
    leases: Leases,
    hub: Hub,
    visible: Revision,
    history_limit_bytes: usize,
    /// Why nothing can be done any more.
    ended: Option<Ended>,
}

#[derive(Debug)]
enum Ended {
    Closed,
    /// A write could not be made durable. What it left is unknown, so nothing may build on it.
    Failed(String),
}

impl Core {
    /// A store with this content, all of it acknowledged.
    pub(crate) fn new(mvcc: Mvcc, leases: Leases, history_limit_bytes: usize) -> Self {
        let visible = mvcc.head();
        Core { mvcc, leases, hub: Hub::default(), visible, history_limit_bytes, ended: None }
    }

    pub(crate) fn visible(&self) -> Revision {
        self.visible
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.mvcc.size_bytes()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.leases.next_deadline()
    }

    pub(crate) fn has_lease(&self, id: LeaseId) -> bool {
        self.leases.contains(id)
    }

    /// Refuses if the store was closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if let Some(Ended::Closed) = self.ended { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Ends all watches and refuses everything from now on.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.check_open()?;
        self.ended = Some(Ended::Closed);
        self.hub.wake_all();
        Ok(())
    }

    /// Refuses every change from now on; what was acknowledged can still be read.
    pub(crate) fn fail(&mut self, why: &StoreError) {
        self.ended.get_or_insert(Ended::Failed(why.to_string()));
    }

    /// Reads the acknowledged state.
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse> {
        self.check_open()?;
        let revision = request.revision.unwrap_or(self.visible);
        self.mvcc.check_readable(revision, self.visible)?;
        Ok(self.mvcc.range(request, revision, self.visible))
    }

    /// Executes a command on top of everything executed before, and adds what the journal must keep.
    pub(crate) fn execute(&mut self, command: Command, records: &mut Vec<Record>) -> Result<Answer> {
        match &self.ended {
            Some(Ended::Closed) => return Err(StoreError::Closed),
            Some(Ended::Failed(why)) => return Err(StoreError::Engine(why.clone())),
            None => {}
        }
        match command {
            Command::Txn(txn) => {
                let response = self.txn(txn, records)?;
                self.bound_history(records);
                return Ok(Answer::Txn(response));
            }
            Command::Compact(revision) => {
                if revision <= self.mvcc.compacted() {
                    return Err(StoreError::Compacted { compact_revision: self.mvcc.compacted() });
                }
                self.mvcc.check_readable(revision, self.visible)?;
                self.compact(revision, records);
            }
            Command::Grant { id, .. } if self.has_lease(id) => return Err(StoreError::LeaseExists),
            Command::Grant { id, ttl, now } => self.set_lease(id, ttl, now, records),
            Command::KeepAlive { id, now } => {
                let ttl = self.leases.terms(id)?.ttl;
                self.set_lease(id, ttl, now, records);
                return Ok(Answer::Ttl(ttl));
            }
            Command::Revoke(id) => self.end_lease(id, records)?,
            Command::Expire(now) => {
                for id in self.leases.expired(now) {
                    self.end_lease(id, records)?;
                }
            }
        }
        Ok(Answer::Done)
    }

    /// Lets readers and watchers see all that was executed; never what could not be made durable.
    pub(crate) fn publish(&mut self) {
        if matches!(self.ended, Some(Ended::Failed(_))) {
            return;
        }
        for revision in self.visible + 1..=self.mvcc.head() {
            if let Some(entry) = self.mvcc.entry(revision) {
                self.hub.publish(entry);
            }
        }
        self.visible = self.mvcc.head();
    }

    /// Adds a watcher.
    pub(crate) fn watch(&mut self, request: &WatchRequest, wake: Arc<Notify>) -> Result<WatcherId> {
        self.check_open()?;
        let start = request.start.unwrap_or(self.visible + 1);
        if start <= self.mvcc.compacted() {
            return Err(StoreError::Compacted { compact_revision: self.mvcc.compacted() });
        }
        Ok(self.hub.add(request.range.clone(), start, self.visible, wake))
    }

    pub(crate) fn unwatch(&mut self, id: WatcherId) {
        self.hub.remove(id);
    }

    pub(crate) fn poll_watch(&mut self, id: WatcherId) -> Poll {
        self.hub.poll(id, &self.mvcc, self.visible)
    }

    fn txn(&mut self, txn: Txn, records: &mut Vec<Record>) -> Result<TxnResponse> {
        check_duplicates(&txn.success)?;
        check_duplicates(&txn.failure)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { txn.success } else { txn.failure };
        // Everything that can be refused is refused here, before the first change: there is no way back later.
        for op in &ops {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.has_lease(*lease) => {
                    return Err(StoreError::LeaseNotFound);
                }
                Op::Range(RangeRequest { revision: Some(revision), .. }) => {
                    self.mvcc.check_readable(*revision, self.mvcc.head())?;
                }
                _ => {}
            }
        }
        let mut events = Vec::new();
        let mut responses: Vec<_> = ops.into_iter().map(|op| self.apply(op, &mut events)).collect();
        self.append(events, records);
        let revision = self.mvcc.head();
        for response in &mut responses {
            if let OpResponse::Range(range) = response {
                range.revision = revision;
            }
        }
        Ok(TxnResponse { succeeded, revision, responses })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.mvcc.get(&compare.key, self.mvcc.head());
        let ordering = match &compare.target {
            CompareTarget::CreateRevision(target) => kv.map_or(0, |kv| kv.create_revision).cmp(target),
            CompareTarget::ModRevision(target) => kv.map_or(0, |kv| kv.mod_revision).cmp(target),
            CompareTarget::Version(target) => kv.map_or(0, |kv| kv.version).cmp(target),
            CompareTarget::Value(target) => kv.map_or(&[][..], |kv| &kv.value).cmp(target),
            CompareTarget::Lease(target) => kv.map_or(0, |kv| kv.lease).cmp(target),
        };
        match compare.operator {
            CompareOperator::Equal => ordering.is_eq(),
            CompareOperator::NotEqual => ordering.is_ne(),
            CompareOperator::Greater => ordering.is_gt(),
            CompareOperator::Less => ordering.is_lt(),
        }
    }

    fn apply(&mut self, op: Op, events: &mut Vec<Event>) -> OpResponse {
        let revision = self.mvcc.head() + 1;
        match op {
            Op::Put { key, value, lease } => {
                let event = self.mvcc.put((revision, events.len() as u32), key, value, lease);
                self.leases.reattach(&event.kv.key, event.prev.as_ref().map_or(0, |kv| kv.lease), lease);
                let prev = event.prev.clone();
                events.push(event);
                OpResponse::Put(prev)
            }
            Op::Delete(range) => {
                let keys: Vec<_> = self.mvcc.live(&range, revision).map(|kv| kv.key.clone()).collect();
                OpResponse::Delete(keys.iter().filter_map(|key| self.delete(key, events)).collect())
            }
            Op::Range(request) => {
                OpResponse::Range(self.mvcc.range(&request, request.revision.unwrap_or(revision), revision))
            }
        }
    }

    fn delete(&mut self, key: &Bytes, events: &mut Vec<Event>) -> Option<crate::KeyValue> {
        let event = self.mvcc.delete((self.mvcc.head() + 1, events.len() as u32), key)?;
        let prev = event.prev.clone();
        self.leases.reattach(key, prev.as_ref().map_or(0, |kv| kv.lease), 0);
        events.push(event);
        prev
    }

    /// Makes a revision of what changed, if anything did.
    fn append(&mut self, events: Vec<Event>, records: &mut Vec<Record>) {
        if !events.is_empty() {
            records.push(Record::Changes(self.mvcc.append(events)));
        }
    }

    fn compact(&mut self, revision: Revision, records: &mut Vec<Record>) {
        let dropped = self.mvcc.compact(revision);
        records.push(Record::Compact { revision, dropped });
    }

    /// History beyond the limit is compacted away a quarter at a time, whatever its age.
    fn bound_history(&mut self, records: &mut Vec<Record>) {
        if self.mvcc.history_bytes() > self.history_limit_bytes {
            let excess = self.mvcc.history_bytes() - self.history_limit_bytes / 4 * 3;
            let target = self.mvcc.compaction_target(excess, self.visible);
            if target > self.mvcc.compacted() {
                self.compact(target, records);
            }
        }
    }

    fn set_lease(&mut self, id: LeaseId, ttl: Duration, now: Moment, records: &mut Vec<Record>) {
        self.leases.set(id, Terms { ttl, deadline: now.instant + ttl });
        let expires_ms = now.wall_ms.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        records.push(Record::Lease { id, ttl, expires_ms });
    }

    fn end_lease(&mut self, id: LeaseId, records: &mut Vec<Record>) -> Result<()> {
        let mut events = Vec::new();
        for key in self.leases.end(id)? {
            self.delete(&key, &mut events);
        }
        self.append(events, records);
        records.push(Record::LeaseEnd(id));
        Ok(())
    }
}

/// A transaction changes a key at most once, or its revision would not say which change was the last.
fn check_duplicates(ops: &[Op]) -> Result<()> {
    let mut puts = BTreeSet::new();
    let mut deletes: Vec<&KeyRange> = Vec::new();
    for op in ops {
        match op {
            Op::Put { key, .. } if !puts.insert(key) => return Err(StoreError::DuplicateKey),
            Op::Delete(range) => deletes.push(range),
            _ => {}
        }
    }
    match deletes.iter().any(|range| puts.iter().any(|key| range.contains(key))) {
        true => Err(StoreError::DuplicateKey),
        false => Ok(()),
    }
}
