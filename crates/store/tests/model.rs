//! The engines against a model that keeps a whole copy of the map for every revision.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_store::*;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;

type Snapshot = BTreeMap<Bytes, KeyValue>;

/// Every revision from 1 on: the map after it, and its events.
#[derive(Debug)]
struct Model {
    revisions: Vec<(Snapshot, Vec<Event>)>,
    compacted: Revision,
}

impl Model {
    fn new() -> Self {
        Model { revisions: vec![Default::default(), Default::default()], compacted: 1 }
    }

    fn head(&self) -> Revision {
        self.revisions.len() as Revision - 1
    }

    fn at(&self, revision: Revision) -> &Snapshot {
        &self.revisions[revision as usize].0
    }

    fn txn(&mut self, txn: &Txn) -> (bool, bool) {
        let mut map = self.at(self.head()).clone();
        let holds = |compare: &Compare| {
            let CompareTarget::ModRevision(target) = compare.target else { panic!("{compare:?}") };
            map.get(&compare.range.start).map_or(0, |kv| kv.mod_revision) == target
        };
        let succeeded = txn.compare.iter().all(holds);
        let revision = self.head() + 1;
        let mut events = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            match op {
                Op::Put { key, value, .. } => {
                    let prev = map.get(key).cloned();
                    let kv = KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision: prev.as_ref().map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: prev.as_ref().map_or(1, |kv| kv.version + 1),
                        lease: 0,
                    };
                    map.insert(key.clone(), kv.clone());
                    events.push(Event { kv, prev, deleted: false });
                }
                Op::Delete(range) => {
                    for key in map.keys().filter(|key| range.contains(key)).cloned().collect::<Vec<_>>() {
                        let prev = map.remove(&key);
                        let (value, mod_revision) = (Bytes::new(), revision);
                        let kv = KeyValue { key, value, create_revision: 0, mod_revision, version: 0, lease: 0 };
                        events.push(Event { kv, prev, deleted: true });
                    }
                }
                Op::Range(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let changed = !events.is_empty();
        if changed {
            self.revisions.push((map, events));
        }
        (succeeded, changed)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    /// Compact so many revisions before the newest.
    Compact(Revision),
    /// Compare all that can be read so many revisions before the newest.
    Range(Revision),
    Reopen,
}

fn key() -> impl Strategy<Value = Bytes> {
    "[a-d]{1,2}".prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::key),
        key().prop_map(KeyRange::prefix),
        (key(), key()).prop_map(|(start, end)| KeyRange { start, end: Some(end) }),
    ]
}

/// Writes of different keys; a key that is put is in no deleted range (that is refused, and tested elsewhere).
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let puts = prop::collection::btree_map(key(), "[a-z]{0,20}", 0..4);
    (puts, prop::option::of(range())).prop_map(|(puts, delete)| {
        let deleted = |key: &Bytes| delete.as_ref().is_some_and(|range| range.contains(key));
        let mut ops: Vec<_> = (puts.into_iter().filter(|(key, _)| !deleted(key)))
            .map(|(key, value)| Op::Put { key, value: value.into(), lease: 0 })
            .collect();
        ops.extend(delete.clone().map(Op::Delete));
        ops
    })
}

fn step() -> impl Strategy<Value = Step> {
    let compares = prop::collection::vec((key(), prop_oneof![Just(0), 1..30i64]), 0..2);
    let txn = (compares, ops(), ops()).prop_map(|(compares, success, failure)| {
        let compare = compares.into_iter().map(|(key, revision)| Compare::unchanged(key, revision)).collect();
        Step::Txn(Txn { compare, success, failure })
    });
    prop_oneof![
        8 => txn,
        1 => (0..8i64).prop_map(Step::Compact),
        2 => (0..12i64).prop_map(Step::Range),
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
            Step::Txn(txn) => {
                let response = store.txn(txn.clone()).await.unwrap();
                let (succeeded, changed) = model.txn(&txn);
                assert_eq!((response.succeeded, response.revision), (succeeded, model.head()));
                let expected = if changed { &model.revisions[model.head() as usize].1[..] } else { &[] };
                assert_eq!(drain(&mut live), expected);
            }
            Step::Compact(back) => {
                let revision = (head - back).max(1);
                let compacted = store.compact(revision).await;
                assert_eq!(compacted.is_ok(), revision > model.compacted, "{compacted:?}");
                model.compacted = model.compacted.max(revision);
            }
            Step::Range(back) => {
                let revision = (head - back).max(1);
                let request = RangeRequest { revision: Some(revision), ..RangeRequest::new(KeyRange::prefix("")) };
                match store.range(request).await {
                    Ok(found) => assert!(found.kvs.iter().eq(model.at(revision).values()), "{found:?} at {revision}"),
                    Err(error) => assert!(revision < model.compacted, "{error}"),
                }
                let start = (revision + 1).max(model.compacted + 1);
                let expected = model.revisions[start as usize..].iter().flat_map(|(_, events)| events);
                assert!(drain(&mut watch(&store, start).await).iter().eq(expected));
            }
            Step::Reopen => {
                store = reopen(store).await;
                live = watch(&store, head + 1).await;
            }
        }
        assert_eq!(store.revision(), model.head());
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future);
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
