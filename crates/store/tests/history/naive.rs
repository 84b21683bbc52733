//! A store as one would write it down: a map, and what a transaction does to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_store::*;

/// Every live key.
pub type State = BTreeMap<Bytes, KeyValue>;

/// What a transaction answers and changes if it may become revision `next`.
pub fn execute(txn: &Txn, state: &State, next: Revision) -> (TxnResponse, Vec<Event>) {
    let mut events = Vec::new();
    let mut response = run(txn, state, &mut state.clone(), next, &mut events);
    settle(&mut response, if events.is_empty() { next - 1 } else { next });
    (response, events)
}

/// What changes leave.
pub fn apply(state: &mut State, events: &[Event]) {
    for event in events {
        match event.deleted {
            true => _ = state.remove(&event.kv.key),
            false => _ = state.insert(event.kv.key.clone(), event.kv.clone()),
        }
    }
}

/// The delete of a key.
pub fn delete(prev: KeyValue, revision: Revision) -> Event {
    let kv = KeyValue {
        value: Bytes::new(),
        create_revision: 0,
        mod_revision: revision,
        version: 0,
        lease: 0,
        ..prev.clone()
    };
    Event { kv, prev: Some(prev), deleted: true }
}

/// What a read of `state` at the newest revision `revision` answers.
pub fn read(request: &RangeRequest, state: &State, revision: Revision) -> RangeResponse {
    let all: Vec<_> = state.values().filter(|kv| request.range.contains(&kv.key)).cloned().collect();
    let count = all.len();
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    let mut kvs: Vec<_> = if request.count_only { Vec::new() } else { all.into_iter().take(limit).collect() };
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    RangeResponse { revision, more: !request.count_only && kvs.len() < count, kvs, count }
}

fn run(txn: &Txn, before: &State, now: &mut State, next: Revision, events: &mut Vec<Event>) -> TxnResponse {
    let succeeded = succeeds(txn, before);
    let mut responses = Vec::new();
    for op in if succeeded { &txn.success } else { &txn.failure } {
        let done = events.len();
        responses.push(match op {
            Op::Put { key, value, lease } => put(key, value.clone(), *lease, now, next, events),
            Op::Update { key, value, lease } => {
                let old = now[key].clone();
                put(key, value.clone().unwrap_or(old.value), lease.unwrap_or(old.lease), now, next, events)
            }
            Op::Delete(range) => {
                let gone: Vec<_> = now.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
                events.extend(gone.iter().map(|kv| delete(kv.clone(), next)));
                OpResponse::Delete(gone)
            }
            Op::Range(request) => OpResponse::Range(read(request, now, next)),
            Op::Txn(inner) => {
                responses.push(OpResponse::Txn(run(inner, before, now, next, events)));
                continue;
            }
        });
        apply(now, &events[done..]);
    }
    TxnResponse { succeeded, revision: next, responses }
}

fn put(key: &Bytes, value: Bytes, lease: LeaseId, now: &State, next: Revision, events: &mut Vec<Event>) -> OpResponse {
    let prev = now.get(key).cloned();
    let (create_revision, version) = prev.as_ref().map_or((next, 1), |kv| (kv.create_revision, kv.version + 1));
    let kv = KeyValue { key: key.clone(), value, create_revision, mod_revision: next, version, lease };
    events.push(Event { kv, prev: prev.clone(), deleted: false });
    OpResponse::Put(prev)
}

/// Whether the first branch is taken.
pub fn succeeds(txn: &Txn, state: &State) -> bool {
    txn.compare.iter().all(|compare| holds(compare, state))
}

fn holds(compare: &Compare, state: &State) -> bool {
    let mut kvs = state.values().filter(|kv| compare.range.contains(&kv.key)).map(Some).peekable();
    let one = |kv: Option<&KeyValue>| {
        let ordering = match (&compare.target, kv) {
            (CompareTarget::Value(_), None) => return false,
            (CompareTarget::Value(target), Some(kv)) => kv.value.cmp(target),
            (CompareTarget::CreateRevision(target), kv) => kv.map_or(0, |kv| kv.create_revision).cmp(target),
            (CompareTarget::ModRevision(target), kv) => kv.map_or(0, |kv| kv.mod_revision).cmp(target),
            (CompareTarget::Version(target), kv) => kv.map_or(0, |kv| kv.version).cmp(target),
            (CompareTarget::Lease(target), kv) => kv.map_or(0, |kv| kv.lease).cmp(target),
        };
        match compare.operator {
            CompareOperator::Equal => ordering.is_eq(),
            CompareOperator::NotEqual => ordering.is_ne(),
            CompareOperator::Greater => ordering.is_gt(),
            CompareOperator::Less => ordering.is_lt(),
        }
    };
    if kvs.peek().is_none() { one(None) } else { kvs.all(one) }
}

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
