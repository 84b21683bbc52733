//! The store as a function: a command and the state before it give an answer, records for the journal,
//! and the state after it. No locks, no disk, no waiting; both engines run exactly this.
//!
//! Two revisions matter. `head` is what has been executed, `visible` what has been acknowledged. A batch
//! of commands is [executed](Core::execute), its records are made durable, and only then it is
//! [published](Core::publish): since every revision can be read, readers simply read at `visible` and see
//! nothing that a crash could take back.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_clock::Instant;
use tokio::sync::Notify;

use crate::hub::{Hub, Poll, WatcherId};
use crate::lease::{Leases, Terms};
use crate::mvcc::{Entry, Mvcc};
use crate::{
    Compare, CompareOperator, CompareTarget, Event, KeyRange, KeyValue, LeaseId, LeaseStatus, Op, OpResponse,
    RangeRequest, RangeResponse, Result, Revision, StoreError, Txn, TxnResponse, WatchRequest,
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

impl Command {
    /// Whether it may leave more than there was: what etcd refuses, and nothing else, when there is no space.
    pub(crate) fn grows(&self) -> bool {
        match self {
            Command::Txn(txn) => puts(txn),
            Command::Grant { .. } => true,
            Command::Compact(_) | Command::KeepAlive { .. } | Command::Revoke(_) | Command::Expire(_) => false,
        }
    }
}

fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put { .. } | Op::Update { .. } => true,
        Op::Txn(inner) => puts(inner),
        Op::Delete(_) | Op::Range(_) => false,
    })
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
    /// History up to here is forgotten.
    Compact(Revision),
    /// A lease exists with these terms.
    Lease { id: LeaseId, ttl: Duration, expires_ms: i64 },
    /// A lease ended (the deletes of its keys are changes of their own).
    LeaseEnd(LeaseId),
}

/// So many keys are surveyed beside each command: so it is done before the log has grown much, and nobody waits long.
const SURVEYED_PER_COMMAND: usize = 16;

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

    /// The newest acknowledged revision.
    pub(crate) fn visible(&self) -> Revision {
        self.visible
    }

    /// The newest executed revision.
    pub(crate) fn head(&self) -> Revision {
        self.mvcc.head()
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

    pub(crate) fn lease_status(&self, id: LeaseId, now: Instant) -> Result<LeaseStatus> {
        self.check_open()?;
        self.leases.status(id, now)
    }

    pub(crate) fn leases(&self) -> Result<Vec<LeaseId>> {
        self.check_open()?;
        Ok(self.leases.ids())
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

    /// The map, to have it surveyed.
    pub(crate) fn mvcc(&mut self) -> &mut Mvcc {
        &mut self.mvcc
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
        self.mvcc.survey(SURVEYED_PER_COMMAND);
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

    /// Lets readers and watchers see what was executed up to a revision; never what could not be made durable.
    pub(crate) fn publish(&mut self, head: Revision) {
        if matches!(self.ended, Some(Ended::Failed(_))) {
            return;
        }
        for revision in self.visible + 1..=head {
            if let Some(entry) = self.mvcc.entry(revision) {
                self.hub.publish(entry);
            }
        }
        self.visible = self.visible.max(head);
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
        let mut path = VecDeque::new();
        self.choose(&txn, &mut path)?;
        let mut events = Vec::new();
        let mut response = self.run(txn, &mut path, &mut events);
        self.append(events, records);
        settle(&mut response, self.mvcc.head());
        Ok(response)
    }

    /// Decides which branches are taken, outermost first. Everything that can be refused is refused here, before
    /// the first change: there is no way back later.
    fn choose(&self, txn: &Txn, path: &mut VecDeque<bool>) -> Result<()> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push_back(succeeded);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            match op {
                Op::Put { lease, .. } | Op::Update { lease: Some(lease), .. }
                    if *lease != 0 && !self.has_lease(*lease) =>
                {
                    return Err(StoreError::LeaseNotFound);
                }
                Op::Update { key, .. } if self.mvcc.get(key, self.mvcc.head()).is_none() => {
                    return Err(StoreError::KeyNotFound);
                }
                Op::Range(RangeRequest { revision: Some(revision), .. }) => {
                    self.mvcc.check_readable(*revision, self.mvcc.head())?;
                }
                Op::Txn(inner) => self.choose(inner, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, txn: Txn, path: &mut VecDeque<bool>, events: &mut Vec<Event>) -> TxnResponse {
        let succeeded = path.pop_front().unwrap_or_default();
        let ops = if succeeded { txn.success } else { txn.failure };
        let responses = ops.into_iter().map(|op| self.apply(op, path, events)).collect();
        TxnResponse { succeeded, revision: 0, responses }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut kvs = self.mvcc.live(&compare.range, self.mvcc.head()).peekable();
        match kvs.peek() {
            None => compare.holds(None),
            Some(_) => kvs.all(|kv| compare.holds(Some(kv))),
        }
    }

    fn apply(&mut self, op: Op, path: &mut VecDeque<bool>, events: &mut Vec<Event>) -> OpResponse {
        let revision = self.mvcc.head() + 1;
        match op {
            Op::Put { key, value, lease } => self.put(key, value, lease, events),
            Op::Update { key, value, lease } => {
                let old = self.mvcc.get(&key, revision);
                let value = value.or_else(|| old.map(|kv| kv.value.clone())).unwrap_or_default();
                let lease = lease.or_else(|| old.map(|kv| kv.lease)).unwrap_or_default();
                self.put(key, value, lease, events)
            }
            Op::Delete(range) => {
                let keys: Vec<_> = self.mvcc.live(&range, revision).map(|kv| kv.key.clone()).collect();
                OpResponse::Delete(keys.iter().filter_map(|key| self.delete(key, events)).collect())
            }
            Op::Range(request) => {
                OpResponse::Range(self.mvcc.range(&request, request.revision.unwrap_or(revision), revision))
            }
            Op::Txn(inner) => OpResponse::Txn(self.run(inner, path, events)),
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes, lease: LeaseId, events: &mut Vec<Event>) -> OpResponse {
        let event = self.mvcc.put((self.mvcc.head() + 1, events.len() as u32), key, value, lease);
        self.leases.reattach(&event.kv.key, event.prev.as_ref().map_or(0, |kv| kv.lease), lease);
        let prev = event.prev.clone();
        events.push(event);
        OpResponse::Put(prev)
    }

    fn delete(&mut self, key: &Bytes, events: &mut Vec<Event>) -> Option<KeyValue> {
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
        self.mvcc.compact(revision);
        records.push(Record::Compact(revision));
    }

    /// History beyond the limit is compacted away a little at a time, whatever its age; it waits for a survey, which
    /// would have to be done at once.
    fn bound_history(&mut self, records: &mut Vec<Record>) {
        let patience = if self.mvcc.surveying() { self.history_limit_bytes } else { 0 };
        if self.mvcc.history_bytes() > self.history_limit_bytes + patience {
            let excess = self.mvcc.history_bytes() - self.history_limit_bytes / 32 * 31;
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

impl Compare {
    fn holds(&self, kv: Option<&KeyValue>) -> bool {
        let ordering = match &self.target {
            CompareTarget::CreateRevision(target) => kv.map_or(0, |kv| kv.create_revision).cmp(target),
            CompareTarget::ModRevision(target) => kv.map_or(0, |kv| kv.mod_revision).cmp(target),
            CompareTarget::Version(target) => kv.map_or(0, |kv| kv.version).cmp(target),
            CompareTarget::Lease(target) => kv.map_or(0, |kv| kv.lease).cmp(target),
            CompareTarget::Value(target) => match kv {
                Some(kv) => kv.value.cmp(target),
                None => return false,
            },
        };
        match self.operator {
            CompareOperator::Equal => ordering.is_eq(),
            CompareOperator::NotEqual => ordering.is_ne(),
            CompareOperator::Greater => ordering.is_gt(),
            CompareOperator::Less => ordering.is_lt(),
        }
    }
}

/// Writes into a transaction's answers, and those within, the revision at which it left the store.
fn settle(response: &mut TxnResponse, revision: Revision) {
    response.revision = revision;
    for response in &mut response.responses {
        match response {
            OpResponse::Range(range) => range.revision = revision,
            OpResponse::Txn(inner) => settle(inner, revision),
            OpResponse::Put(_) | OpResponse::Delete(_) => {}
        }
    }
}

/// A transaction changes a key at most once, or its revision would not say which change was the last. Returns what
/// may be put and what may be deleted; the two branches of a choice may change the same.
fn check_duplicates(ops: &[Op]) -> Result<(BTreeSet<&Bytes>, Vec<&KeyRange>)> {
    let mut puts = BTreeSet::new();
    let mut deletes = Vec::new();
    deletes.extend(ops.iter().filter_map(|op| if let Op::Delete(range) = op { Some(range) } else { None }));
    let fresh = |puts: &BTreeSet<&Bytes>, deletes: &[&KeyRange], key: &Bytes| {
        !puts.contains(key) && !deletes.iter().any(|range| range.contains(key))
    };
    for op in ops {
        let Op::Txn(inner) = op else { continue };
        let (mut put, deleted) = check_duplicates(&inner.success)?;
        let (or_put, or_deleted) = check_duplicates(&inner.failure)?;
        put.extend(or_put);
        if !put.iter().all(|key| fresh(&puts, &deletes, key)) {
            return Err(StoreError::DuplicateKey);
        }
        puts.extend(put);
        deletes.extend(deleted);
        deletes.extend(or_deleted);
    }
    for op in ops {
        if let Op::Put { key, .. } | Op::Update { key, .. } = op {
            if !fresh(&puts, &deletes, key) {
                return Err(StoreError::DuplicateKey);
            }
            puts.insert(key);
        }
    }
    Ok((puts, deletes))
}
