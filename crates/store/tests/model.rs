//! The engines against a model that keeps a whole copy of the map for every revision.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[path = "history/naive.rs"]
mod naive;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coracle_store::*;
use futures::{FutureExt, StreamExt};
use naive::State;
use proptest::prelude::*;

/// Every revision from 1 on: the map after it, and its events.
#[derive(Debug)]
struct Model {
    revisions: Vec<(State, Vec<Event>)>,
    compacted: Revision,
    /// Each lease's term, and when it ends, in milliseconds.
    leases: BTreeMap<LeaseId, (u64, u64)>,
    now: u64,
}

impl Model {
    fn new() -> Self {
        Model { revisions: vec![Default::default(); 2], compacted: 1, leases: BTreeMap::new(), now: 0 }
    }

    fn head(&self) -> Revision {
        self.revisions.len() as Revision - 1
    }

    fn at(&self, revision: Revision) -> &State {
        &self.revisions[revision as usize].0
    }

    fn state(&self) -> &State {
        self.at(self.head())
    }

    fn append(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            let mut state = self.state().clone();
            naive::apply(&mut state, &events);
            self.revisions.push((state, events));
        }
    }

    /// `None` if it is refused.
    fn txn(&mut self, txn: &Txn) -> Option<TxnResponse> {
        if self.refuses(txn) {
            return None;
        }
        let (response, events) = naive::execute(txn, self.state(), self.head() + 1);
        self.append(events);
        Some(response)
    }

    fn refuses(&self, txn: &Txn) -> bool {
        let chosen = if naive::succeeds(txn, self.state()) { &txn.success } else { &txn.failure };
        let known = |lease: LeaseId| lease == 0 || self.leases.contains_key(&lease);
        chosen.iter().any(|op| match op {
            Op::Put { lease, .. } => !known(*lease),
            Op::Update { key, lease, .. } => {
                !self.state().contains_key(key) || lease.is_some_and(|lease| !known(lease))
            }
            Op::Txn(inner) => self.refuses(inner),
            Op::Delete(_) | Op::Range(_) => false,
        })
    }

    fn keys(&self, lease: LeaseId) -> impl Iterator<Item = &KeyValue> {
        self.state().values().filter(move |kv| kv.lease == lease)
    }

    fn end(&mut self, lease: LeaseId) -> bool {
        let revision = self.head() + 1;
        let known = self.leases.remove(&lease).is_some();
        self.append(self.keys(lease).filter(|_| known).map(|kv| naive::delete(kv.clone(), revision)).collect());
        known
    }

    fn advance(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        let mut ended: Vec<_> = self.leases.iter().map(|(id, (_, end))| (*end, *id)).collect();
        ended.retain(|(end, _)| *end <= self.now);
        ended.sort_unstable();
        ended.into_iter().for_each(|(_, id)| _ = self.end(id));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    /// Compact so many revisions before the newest.
    Compact(Revision),
    /// Compare all that can be read so many revisions before the newest, and in one particular way.
    Range(Revision, RangeRequest),
    Grant(LeaseId, u64),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    /// Let seconds pass.
    Advance(u64),
    Reopen,
}

/// Keys of these letters, or any.
fn key(letters: &'static str) -> impl Strategy<Value = Bytes> {
    prop::string::string_regex(&format!("[{letters}]{{1,2}}")).unwrap().prop_map(Bytes::from)
}

fn range(letters: &'static str) -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key(letters).prop_map(KeyRange::key),
        key(letters).prop_map(KeyRange::prefix),
        (key(letters), key(letters)).prop_map(|(start, end)| KeyRange { start, end: Some(end) }),
    ]
}

fn read() -> impl Strategy<Value = RangeRequest> {
    (range("a-f"), 0..4usize, any::<bool>(), any::<bool>()).prop_map(|(range, limit, keys_only, count_only)| {
        RangeRequest { limit, keys_only, count_only, ..RangeRequest::new(range) }
    })
}

fn compares() -> impl Strategy<Value = Vec<Compare>> {
    let number = prop_oneof![Just(0), 1..4i64, 1..30i64];
    let target = (number, 0..5).prop_map(|(number, field)| match field {
        0 => CompareTarget::CreateRevision(number),
        1 => CompareTarget::ModRevision(number),
        2 => CompareTarget::Version(number),
        3 => CompareTarget::Lease(number),
        _ => CompareTarget::Value(((b'a' + number as u8) as char).to_string().into()),
    });
    let operators =
        [CompareOperator::Equal, CompareOperator::NotEqual, CompareOperator::Greater, CompareOperator::Less];
    let compare = (range("a-f"), target, prop::sample::select(operators.to_vec()));
    let compare = compare.prop_map(|(range, target, operator)| Compare { range, target, operator });
    prop::collection::vec(compare, 0..3)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![2 => Just(0), 1 => 1..4i64]
}

/// Writes of different keys; a key that is put is in no deleted range (that is refused, and tested elsewhere).
fn ops(letters: &'static str) -> impl Strategy<Value = Vec<Op>> {
    let write = ("[a-z]{0,20}", lease(), 0..8);
    let puts = prop::collection::btree_map(key(letters), write, 0..4);
    (puts, prop::option::of(range(letters)), read()).prop_map(|(puts, delete, read)| {
        let deleted = |key: &Bytes| delete.as_ref().is_some_and(|range| range.contains(key));
        let mut ops: Vec<_> = (puts.into_iter().filter(|(key, _)| !deleted(key)))
            .map(|(key, (value, lease, kind))| match kind {
                0 => Op::Update { key, value: None, lease: Some(lease) },
                1 => Op::Update { key, value: Some(value.into()), lease: None },
                _ => Op::Put { key, value: value.into(), lease },
            })
            .collect();
        ops.extend(delete.clone().map(Op::Delete));
        ops.push(Op::Range(read));
        ops
    })
}

/// Transactions within a transaction write other keys than it.
fn txn() -> impl Strategy<Value = Txn> {
    let inner = (compares(), ops("d-f"), ops("d-f"));
    let inner = inner.prop_map(|(compare, success, failure)| Op::Txn(Txn { compare, success, failure }));
    let outer = (compares(), ops("a-c"), ops("a-c"), prop::option::weighted(0.3, (inner, 0..2usize)));
    outer.prop_map(|(compare, mut success, failure, inner)| {
        if let Some((inner, at)) = inner {
            success.insert(at.min(success.len()), inner);
        }
        Txn { compare, success, failure }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => txn().prop_map(Step::Txn),
        1 => (0..8i64).prop_map(Step::Compact),
        2 => (0..12i64, read()).prop_map(|(back, read)| Step::Range(back, read)),
        2 => (1..4i64, 1..20u64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => (1..4i64).prop_map(Step::KeepAlive),
        1 => (1..4i64).prop_map(Step::Revoke),
        1 => (0..10u64).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
    ]
}

/// Everything a watch has to say at once.
fn drain(stream: &mut WatchStream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(batch) = stream.next().now_or_never() {
        events.extend(batch.unwrap().unwrap().events);
    }
    events
}

async fn watch(store: &SharedStore, start: Revision) -> WatchStream {
    let request = WatchRequest::new(KeyRange::prefix(""), Some(start));
    store.watch(request).await.unwrap()
}

async fn agrees(mut store: SharedStore, steps: Vec<Step>, reopen: impl AsyncFn(SharedStore) -> SharedStore) {
    let mut model = Model::new();
    let mut live = watch(&store, 2).await;
    for step in steps {
        let head = model.head();
        match step {
            Step::Txn(txn) => match (store.txn(txn.clone()).await, model.txn(&txn)) {
                (Ok(found), Some(expected)) => assert_eq!(format!("{found:?}"), format!("{expected:?}")),
                (Err(StoreError::KeyNotFound | StoreError::LeaseNotFound), None) => {}
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            },
            Step::Compact(back) => {
                let revision = (head - back).max(1);
                let compacted = store.compact(revision).await;
                assert_eq!(compacted.is_ok(), revision > model.compacted, "{compacted:?}");
                model.compacted = model.compacted.max(revision);
            }
            Step::Range(back, particular) => {
                let revision = (head - back).max(1);
                for request in [particular, RangeRequest::new(KeyRange::prefix(""))] {
                    let expected = naive::read(&request, model.at(revision), head);
                    match store.range(RangeRequest { revision: Some(revision), ..request }).await {
                        Ok(found) => assert_eq!(format!("{found:?}"), format!("{expected:?}"), "at {revision}"),
                        Err(error) => assert!(revision < model.compacted, "{error}"),
                    }
                }
                let start = (revision + 1).max(model.compacted + 1);
                let expected = model.revisions[start as usize..].iter().flat_map(|(_, events)| events);
                assert!(drain(&mut watch(&store, start).await).iter().eq(expected));
            }
            Step::Grant(id, ttl) => {
                let granted = store.lease_grant(id, Duration::from_secs(ttl)).await;
                assert_eq!(granted.is_ok(), !model.leases.contains_key(&id), "{granted:?}");
                model.leases.entry(id).or_insert((ttl * 1000, model.now + ttl * 1000));
            }
            Step::KeepAlive(id) => {
                let kept = store.lease_keep_alive(id).await.ok();
                let now = model.now;
                let lease = model.leases.get_mut(&id).map(|(ttl, end)| {
                    *end = now + *ttl;
                    Duration::from_millis(*ttl)
                });
                assert_eq!(kept, lease);
            }
            Step::Revoke(id) => assert_eq!(store.lease_revoke(id).await.is_ok(), model.end(id)),
            Step::Advance(seconds) => {
                // Never exactly to a lease's end: who comes first then is not said.
                let milliseconds = seconds * 1000 + 15;
                coracle_clock::sleep(Duration::from_millis(milliseconds)).await;
                model.advance(milliseconds);
            }
            Step::Reopen => {
                store = reopen(store).await;
                live = watch(&store, head + 1).await;
            }
        }
        assert_eq!(store.revision(), model.head());
        let news = model.revisions[head as usize + 1..].iter().flat_map(|(_, events)| events);
        assert!(drain(&mut live).iter().eq(news));
        assert!(store.leases().await.unwrap().iter().eq(model.leases.keys()));
        for id in model.leases.keys() {
            let keys = store.lease_status(*id).await.unwrap().keys;
            assert!(keys.iter().eq(model.keys(*id).map(|kv| &kv.key)), "{keys:?}");
        }
    }
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _world = coracle_clock::Simulation::start(1);
        future.await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_memory_engine_agrees_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        block_on(agrees(MemoryStore::new(), steps, async |store| store));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_sled_engine_agrees_with_the_model(steps in prop::collection::vec(step(), 1..60), clean: bool) {
        block_on(async {
            let dir = tempfile::tempdir().unwrap();
            // A checkpoint every few commits, so that both ways back are walked.
            let open = async || {
                let config = SledConfig { checkpoint_bytes: 500, ..SledConfig::new(dir.path()) };
                SledStore::open(config).await.unwrap() as SharedStore
            };
            let reopen = async |store: SharedStore| {
                if clean {
                    store.close().await.unwrap();
                }
                drop(store);
                open().await
            };
            agrees(open().await, steps, reopen).await;
        });
    }
}
