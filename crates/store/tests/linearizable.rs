//! Concurrent clients, what they saw, and whether a store may behave so; and the checker against wrong histories.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod history;

use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_store::*;
use futures::StreamExt;
use futures::future::join_all;
use history::naive::State;
use history::{Action, Answer, Call, History, Watched};

const CLIENTS: usize = 8;
const CALLS: usize = 150;

/// The order of all beginnings and ends.
static CLOCK: AtomicUsize = AtomicUsize::new(0);

fn tick() -> usize {
    CLOCK.fetch_add(1, Ordering::SeqCst)
}

/// Numbers that follow from a seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a client asks for next; `newest` is what it knows of.
fn action(dice: &mut Dice, client: usize, n: usize, newest: Revision) -> Action {
    let key = format!("/k/{}", dice.roll(6));
    let put = |key: &str| Op::Put { key: key.to_owned().into(), value: format!("{client}.{n}").into(), lease: 0 };
    let request = RangeRequest::new(KeyRange::prefix("/k/"));
    let success = match dice.roll(8) {
        0 | 1 => return Action::Range(request),
        2 => return Action::Range(RangeRequest { revision: Some(newest), limit: 3, ..request }),
        3 => vec![Op::Delete(KeyRange::key(key)), Op::Range(request)],
        4 | 5 => {
            let expected = newest - dice.roll(3) as Revision;
            return Action::Txn(Txn::put_if(key, expected, format!("{client}.{n}"), 0));
        }
        _ => vec![put(&key), put(&format!("/mine/{client}")), Op::Range(request)],
    };
    Action::Txn(Txn { success, ..Txn::default() })
}

async fn client(store: &SharedStore, client: usize, mut dice: Dice) -> Vec<Call> {
    let (mut calls, mut newest) = (Vec::new(), store.revision());
    for n in 0..CALLS {
        let action = action(&mut dice, client, n, newest);
        let began = tick();
        let answer = match action.clone() {
            Action::Txn(txn) => Answer::Txn(store.txn(txn).await.unwrap()),
            Action::Range(request) => Answer::Range(store.range(request).await.unwrap()),
        };
        newest = match &answer {
            Answer::Txn(answer) => answer.revision,
            Answer::Range(answer) => answer.revision,
            Answer::Done(revision) => *revision,
        };
        calls.push(Call { began, action, answer: Some((tick(), answer)) });
    }
    calls
}

/// Watches up to `until`, beginning anew from where it was after every few batches.
async fn watch(store: &SharedStore, range: KeyRange, start: Revision, until: impl Fn() -> Revision) -> Watched {
    let (mut batches, mut next) = (Vec::new(), start);
    while next <= until() {
        let progress = Some(std::time::Duration::from_millis(5));
        let request = WatchRequest { progress, ..WatchRequest::new(range.clone(), Some(next)) };
        for batch in store.watch(request).await.unwrap().take(7).collect::<Vec<_>>().await {
            let batch: WatchBatch = batch.unwrap();
            next = next.max(batch.revision + 1);
            batches.push(batch);
        }
    }
    Watched { range, start, batches }
}

/// Lets clients and watchers loose on a store, several times, with `reopen` between; then judges all they saw.
pub async fn histories(mut store: SharedStore, reopen: impl AsyncFn(SharedStore) -> SharedStore) {
    let mut state = State::new();
    for round in 0..4 {
        let first = store.revision();
        let left = AtomicUsize::new(CLIENTS);
        let until = || if left.load(Ordering::SeqCst) > 0 { Revision::MAX } else { store.revision() };
        let work = join_all((0..CLIENTS).map(async |n| {
            let calls = client(&store, n, Dice(round * 100 + n as u64)).await;
            left.fetch_sub(1, Ordering::SeqCst);
            calls
        }));
        let ranges = ["", "/k/", "/k/1", "/mine/"].map(KeyRange::prefix);
        let watches = join_all(ranges.into_iter().map(|range| watch(&store, range, first + 1, until)));
        let (calls, watches) = futures::join!(work, watches);
        let events = watches[0].batches.iter().flat_map(|batch| batch.events.clone()).collect();
        let history = History { calls: calls.concat(), events, watches };
        state = history.check(state, first).unwrap();
        store = reopen(store).await;
        let found = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap().kvs;
        assert!(found.iter().eq(state.values()), "what was acknowledged is there after a restart");
    }
}

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
