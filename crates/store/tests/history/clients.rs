//! Concurrent clients and watchers, and what they saw.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use coracle_store::*;
use futures::StreamExt;
use futures::future::join_all;

use super::naive::State;
use super::{Action, Answer, Call, History, Watched};

const CLIENTS: usize = 8;

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

fn put(key: &str, value: String) -> Op {
    Op::Put { key: key.to_owned().into(), value: value.into(), lease: 0 }
}

/// What a client asks for next; `newest` is what it knows of.
fn action(dice: &mut Dice, client: usize, n: usize, newest: Revision) -> Action {
    let key = format!("/k/{}", dice.roll(6));
    let value = format!("{client}.{n}");
    let request = RangeRequest::new(KeyRange::prefix("/k/"));
    let success = match dice.roll(8) {
        0 | 1 => return Action::Range(request),
        2 => return Action::Range(RangeRequest { revision: Some(newest), limit: 3, ..request }),
        3 => vec![Op::Delete(KeyRange::key(key)), Op::Range(request)],
        4 | 5 => {
            let expected = newest - dice.roll(3) as Revision;
            return Action::Txn(Txn::put_if(key, expected, value, 0));
        }
        _ => vec![put(&key, value.clone()), put(&format!("/mine/{client}"), value), Op::Range(request)],
    };
    Action::Txn(Txn { success, ..Txn::default() })
}

/// Calls the store. Of what failed nobody knows whether it was done.
async fn call(store: &SharedStore, action: Action) -> Call {
    let began = tick();
    let answer = match action.clone() {
        Action::Txn(txn) => store.txn(txn).await.map(Answer::Txn),
        Action::Range(request) => store.range(request).await.map(Answer::Range),
    };
    Call { began, action, answer: answer.ok().map(|answer| (tick(), answer)) }
}

async fn client(store: &SharedStore, client: usize, calls: usize, mut dice: Dice, mut newest: Revision) -> Vec<Call> {
    let mut history = Vec::new();
    for n in 0..calls {
        let call = call(store, action(&mut dice, client, n, newest)).await;
        newest = call.revision().unwrap_or(newest);
        history.push(call);
    }
    history
}

/// Watches up to `until`, beginning anew from where it was after every few batches.
pub async fn watch(store: &SharedStore, range: KeyRange, start: Revision, until: impl Fn() -> Revision) -> Watched {
    let (mut batches, mut next) = (Vec::new(), start);
    while next <= until() {
        let progress = Some(Duration::from_millis(5));
        let request = WatchRequest { progress, ..WatchRequest::new(range.clone(), Some(next)) };
        for batch in store.watch(request).await.unwrap().take(7).collect::<Vec<_>>().await {
            let batch: WatchBatch = batch.unwrap();
            next = next.max(batch.revision + 1);
            batches.push(batch);
        }
    }
    Watched { range, start, batches }
}

/// Lets clients loose on a store that holds `state`, each for so many calls, and watchers; then judges all they saw.
/// Returns what the store holds, and how many calls were not answered.
pub async fn round(store: &SharedStore, state: State, seed: u64, calls: usize) -> (State, usize) {
    let first = store.current().await.unwrap();
    let last = AtomicI64::new(Revision::MAX);
    let work = async {
        let dice = |n| Dice(seed * 100 + n as u64);
        let mut history = join_all((0..CLIENTS).map(|n| client(store, n, calls, dice(n), first))).await.concat();
        // Every watch sees the last change, and knows by it that it has seen all: not every store tells how far it is.
        let success = vec![put("/k/1", "last".into()), put("/mine/last", String::new())];
        let end = call(store, Action::Txn(Txn { success, ..Txn::default() })).await;
        last.store(end.revision().expect("the last change is made"), Ordering::SeqCst);
        history.push(end);
        history
    };
    let ranges = ["", "/k/", "/k/1", "/mine/"].map(KeyRange::prefix);
    let watches = ranges.into_iter().map(|range| watch(store, range, first + 1, || last.load(Ordering::SeqCst)));
    let (calls, watches) = futures::join!(work, join_all(watches));
    let unanswered = calls.iter().filter(|call| call.answer.is_none()).count();
    let events = watches[0].batches.iter().flat_map(|batch| batch.events.clone()).collect();
    let state = History { calls, events, watches }.check(state, first).unwrap();
    let found = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap().kvs;
    assert!(found.iter().eq(state.values()), "what was acknowledged is there");
    (state, unanswered)
}

/// Several rounds on one store, with `reopen` between.
pub async fn histories(mut store: SharedStore, mut reopen: impl AsyncFnMut(SharedStore) -> SharedStore) {
    let mut state = State::new();
    for seed in 0..4 {
        let unanswered;
        (state, unanswered) = round(&store, state, seed, 150).await;
        assert_eq!(unanswered, 0, "no call fails");
        store = reopen(store).await;
        let found = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap().kvs;
        assert!(found.iter().eq(state.values()), "it is still there");
    }
}
