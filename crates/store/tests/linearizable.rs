//! Whether the engines in this process behave as a store may, and the checker against wrong histories; `crates/etcd`
//! judges what servers do by the same.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod history;

use coracle_store::*;
use history::clients::{histories, watch};
use history::naive::State;
use history::{Action, Answer, Call, History, Watched};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_engine_is_linearizable_and_its_watches_are_reliable() {
    histories(MemoryStore::new(), async |store| store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sled_engine_is_linearizable_and_its_watches_are_reliable() {
    let dir = tempfile::tempdir().unwrap();
    let config = SledConfig { checkpoint_bytes: 20_000, ..SledConfig::new(dir.path()) };
    let open = async || SledStore::open(config.clone()).await.unwrap() as SharedStore;
    let reopen = async |store| {
        drop::<SharedStore>(store);
        open().await
    };
    histories(open().await, reopen).await;
}

/// A history of two puts of `a`, one after the other, a read between, and a watch.
async fn right() -> History {
    let store = MemoryStore::new() as SharedStore;
    let put = |value: &'static str| {
        Action::Txn(Txn { success: vec![Op::Put { key: "a".into(), value: value.into(), lease: 0 }], ..Txn::default() })
    };
    let mut calls = Vec::new();
    for action in [put("1"), Action::Range(RangeRequest::new(KeyRange::key("a"))), put("2")] {
        let began = 2 * calls.len();
        let answer = match action.clone() {
            Action::Txn(txn) => Answer::Txn(store.txn(txn).await.unwrap()),
            Action::Range(request) => Answer::Range(store.range(request).await.unwrap()),
        };
        calls.push(Call { began, action, answer: Some((began + 1, answer)) });
    }
    let watched = watch(&store, KeyRange::key("a"), 2, || 3).await;
    let events: Vec<_> = watched.batches.iter().flat_map(|batch| batch.events.clone()).collect();
    let split = |event: &Event| WatchBatch { revision: event.kv.mod_revision, events: vec![event.clone()] };
    let watches = vec![Watched { batches: events.iter().map(split).collect(), ..watched }];
    History { calls, events, watches }
}

/// What is done to a right history, and what must be said of it then.
type Wrong = (fn(&mut History), &'static str);

#[tokio::test]
async fn wrong_histories_are_recognised() {
    right().await.check(State::new(), 1).unwrap();
    let wrong: [Wrong; 10] = [
        // A lost write: acknowledged, and not there.
        (|h| _ = (h.events.pop(), h.watches.clear()), "there is no revision 3"),
        // A change that nobody made.
        (|h| _ = h.calls.pop(), "nobody asked for revision 3"),
        // A stale read, and one from the future.
        (|h| h.calls[1].began = 9, "was answered before this began"),
        (
            |h| {
                let Some((_, Answer::Range(told))) = &mut h.calls[1].answer else { return };
                told.revision = 3
            },
            "should be",
        ),
        // A write that was told before it was asked for.
        (|h| h.calls[0].began = 9, "was answered before this began"),
        // Revisions with a hole.
        (|h| h.events.iter_mut().for_each(|event| event.kv.mod_revision += 1), "revision 3 follows 1"),
        // A watch that loses, repeats, disorders, runs ahead.
        (|h| h.watches[0].batches[1].events.clear(), "a watch told"),
        (
            |h| {
                let again = h.watches[0].batches[1].clone();
                h.watches[0].batches.push(again)
            },
            "reached 3 reached 3",
        ),
        (|h| h.watches[0].batches.swap(0, 1), "a watch told"),
        (|h| h.watches[0].batches[0].revision = 3, "a watch told"),
    ];
    for (number, (harm, expected)) in wrong.into_iter().enumerate() {
        let mut history = right().await;
        harm(&mut history);
        let verdict = history.check(State::new(), 1).unwrap_err();
        assert!(verdict.contains(expected), "{number}: {verdict}");
    }
    // A call whose answer got lost may have happened, or not.
    let mut history = right().await;
    history.calls[2].answer = None;
    history.check(State::new(), 1).unwrap();
    history.events.pop();
    history.watches.clear();
    history.check(State::new(), 1).unwrap();
}
