//! The work queue: which keys are to be looked at, and when.
//!
//! client-go's rules, which make controllers safe to write: a key added while it waits is not added
//! again; a key added while it is being worked on waits until that work is [done](WorkQueue::done),
//! so no key is ever in two hands; a key whose work failed comes back after a delay that doubles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use coracle_clock::Instant;
use futures::future::join_all;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, Counted, QueueStats};

/// First delay after a failure; each further one doubles it, up to the longest.
const BASE_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after failures, unless a queue has its own.
const MAX_DELAY: Duration = Duration::from_secs(1000);

struct State<K> {
    /// With the time since when.
    ready: VecDeque<(K, Instant)>,
    /// In `ready`, or added again while at work.
    dirty: BTreeSet<K>,
    /// Since when.
    at_work: BTreeMap<K, Instant>,
    /// Due time and a counter (first in, first out among equals).
    delayed: BTreeMap<(Instant, u64), K>,
    /// When each delayed key is due; a key waits for its earliest time only.
    due: BTreeMap<K, (Instant, u64)>,
    failures: BTreeMap<K, u32>,
    max_delay: Duration,
    counter: u64,
    stats: QueueStats,
}

/// A queue of keys for one controller. Cloning shares it.
pub struct WorkQueue<K> {
    state: Arc<Mutex<State<K>>>,
    changed: Arc<Notify>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue { state: self.state.clone(), changed: self.changed.clone() }
    }
}

impl<K> Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkQueue")
    }
}

impl<K: Clone + Ord> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

const LOCK: &str = "no code panics while it holds a queue's lock";

impl<K: Clone + Ord> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        WorkQueue {
            state: Arc::new(Mutex::new(State {
                ready: VecDeque::new(),
                dirty: BTreeSet::new(),
                at_work: BTreeMap::new(),
                delayed: BTreeMap::new(),
                due: BTreeMap::new(),
                failures: BTreeMap::new(),
                max_delay: MAX_DELAY,
                counter: 0,
                stats: QueueStats::default(),
            })),
            changed: Arc::new(Notify::new()),
        }
    }

    /// An empty queue in which no key waits longer than that after failures.
    pub fn with_max_delay(max_delay: Duration) -> Self {
        let queue = Self::new();
        queue.state.lock().expect(LOCK).max_delay = max_delay;
        queue
    }

    /// Adds a key, unless it already waits.
    pub fn add(&self, key: K) {
        self.state.lock().expect(LOCK).add(key);
        self.changed.notify_one();
    }

    /// Adds a key after a delay; if it already waits for a later time, that becomes earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock().expect(LOCK);
        let at = coracle_clock::instant() + delay;
        match state.due.get(&key).copied() {
            Some((earlier, _)) if earlier <= at => return,
            Some(later) => drop(state.delayed.remove(&later)),
            None => {}
        }
        state.counter += 1;
        let slot = (at, state.counter);
        state.due.insert(key.clone(), slot);
        state.delayed.insert(slot, key);
        drop(state);
        self.changed.notify_one();
    }

    /// Adds a key after the delay that its failures so far have earned, and counts one more.
    pub fn add_rate_limited(&self, key: K) {
        let (failures, max_delay) = {
            let mut state = self.state.lock().expect(LOCK);
            state.stats.retries += 1;
            let count = state.failures.entry(key.clone()).or_default();
            *count += 1;
            (*count - 1, state.max_delay)
        };
        let delay = BASE_DELAY.checked_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).unwrap_or(max_delay);
        self.add_after(key, delay.min(max_delay));
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &K) {
        self.state.lock().expect(LOCK).failures.remove(key);
    }

    /// How often a key has failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.state.lock().expect(LOCK).failures.get(key).copied().unwrap_or_default()
    }

    /// How many keys are ready to be worked on.
    pub fn len(&self) -> usize {
        self.state.lock().expect(LOCK).ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next key, waiting for one. It must be given back by [`WorkQueue::done`].
    pub async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            let wait_until = {
                let mut state = self.state.lock().expect(LOCK);
                let now = coracle_clock::instant();
                state.promote_due(now);
                if let Some((key, since)) = state.ready.pop_front() {
                    state.stats.waited.observe(now.duration_since(since));
                    state.dirty.remove(&key);
                    state.at_work.insert(key.clone(), now);
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match wait_until {
                None => changed.await,
                Some(at) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = coracle_clock::sleep_until(at) => {}
                },
            }
        }
    }

    /// Gives back a key. If it was added meanwhile, it is ready again.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock().expect(LOCK);
        let now = coracle_clock::instant();
        if let Some(since) = state.at_work.remove(key) {
            state.stats.worked.observe(now.duration_since(since));
        }
        if state.dirty.contains(key) {
            state.ready.push_back((key.clone(), now));
            drop(state);
            self.changed.notify_one();
        }
    }
}

impl<K: Clone + Ord> State<K> {
    fn add(&mut self, key: K) {
        if !self.dirty.insert(key.clone()) {
            return;
        }
        self.stats.adds += 1;
        if !self.at_work.contains_key(&key) {
            self.ready.push_back((key, coracle_clock::instant()));
        }
    }

    fn promote_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }
}

impl<K: Send> Counted for Mutex<State<K>> {
    fn stats(&self) -> QueueStats {
        let state = self.lock().expect(LOCK);
        let now = coracle_clock::instant();
        let working = || state.at_work.values().map(|since| now.duration_since(*since).as_secs_f64());
        QueueStats {
            depth: state.ready.len(),
            unfinished: working().sum(),
            longest: working().fold(0.0, f64::max),
            ..state.stats.clone()
        }
    }
}

/// What to do with a key after successful work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Nothing until something changes.
    Never,
    /// Look again after this time.
    After(Duration),
}

/// Works on a queue's keys with `workers` hands until `shutdown`. A key whose work fails comes back
/// with exponential delay; the error is logged under the controller's name.
///
/// The hands are futures of one task, so in virtual time their order is fixed.
pub async fn run_workers<K, F, Fut, E>(
    name: &'static str,
    queue: &WorkQueue<K>,
    workers: usize,
    shutdown: &CancellationToken,
    reconcile: F,
) where
    K: Clone + Ord + Debug + Send + 'static,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Result<Requeue, E>>,
    E: Display,
{
    let counted: Weak<Mutex<State<K>>> = Arc::downgrade(&queue.state);
    metrics::register(name, counted);
    let hand = || async {
        loop {
            let key = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                key = queue.next() => key,
            };
            // Boxed, so that a hand takes up room only while it works.
            let work = Box::pin(reconcile(key.clone()));
            let outcome = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                outcome = work => outcome,
            };
            match outcome {
                Ok(requeue) => {
                    queue.forget(&key);
                    queue.done(&key);
                    if let Requeue::After(delay) = requeue {
                        queue.add_after(key, delay);
                    }
                }
                Err(error) => {
                    tracing::debug!(controller = name, ?key, %error, "reconcile failed; trying again");
                    queue.done(&key);
                    queue.add_rate_limited(key);
                }
            }
        }
    };
    join_all((0..workers.max(1)).map(|_| hand())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_worked_on_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_at_work_waits_until_that_work_is_done() {
        let queue = WorkQueue::new();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_comes_at_its_earliest_time() {
        let queue = WorkQueue::new();
        let start = coracle_clock::instant();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(7));
        let key = queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&key);
        assert!(coracle_clock::timeout(Duration::from_secs(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_work_comes_back_with_doubling_delays_until_it_succeeds() {
        let queue = WorkQueue::new();
        queue.add(1);
        let shutdown = CancellationToken::new();
        let start = coracle_clock::instant();
        let times = Mutex::new(Vec::new());
        run_workers("test", &queue, 2, &shutdown, |_| {
            times.lock().unwrap().push(start.elapsed().as_millis());
            let finished = times.lock().unwrap().len() == 5;
            if finished {
                shutdown.cancel();
            }
            async move { if finished { Ok(Requeue::Never) } else { Err("not yet") } }
        })
        .await;
        let mut text = String::new();
        metrics::render(&mut text);
        for expected in [
            "workqueue_adds_total{name=\"test\"} 5\n",
            "workqueue_retries_total{name=\"test\"} 4\n",
            "workqueue_depth{name=\"test\"} 0\n",
            "workqueue_queue_duration_seconds_count{name=\"test\"} 5\n",
            "workqueue_work_duration_seconds_bucket{name=\"test\",le=\"1e-08\"} 4\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        let gaps: Vec<_> = times.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps, [5, 10, 20, 40]);
    }
}
