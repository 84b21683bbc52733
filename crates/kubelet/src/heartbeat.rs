//! Heartbeats: when a node's lease and status are written although nothing about them is new.
//!
//! A node's lease says every ten seconds that its kubelet lives, and its status says so every five minutes. Of a
//! thousand nodes that are nine million writes a day, each of which tells nothing but the time. As long as a kubelet
//! lives and reaches the API server, what it would have written follows from when it began: so where all kubelets are in
//! one process, they may put that off ([`Heartbeats::when_looked_at`]) until somebody looks.
//!
//! ```text
//! kubelet:  write ─► rest ············ beat ····· beat ····· beat ··┬─► write, with the time of the last beat ─► rest
//! reader:                                                    look ──┘
//! ```
//!
//! Who must know whether a node lives asks [`Heartbeats::last`], which answers what it would have seen. A kubelet that is
//! killed drops its [`rest`](Heartbeats::rest), and with that its last beat stays its last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_clock::{Instant, watch};

/// What tells that a node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Its lease.
    Lease,
    /// Its status.
    Status,
}

/// How heartbeats come. Cloning shares it; by default each is written in its time.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Option<Arc<Shared>>);

struct Shared {
    /// How many look all the time.
    watchers: watch::Sender<usize>,
    hearts: Mutex<BTreeMap<(String, Sign), Heart>>,
    on_stop: Mutex<Option<Listener>>,
}

/// Told of a node whose heartbeats are no longer put off.
type Listener = Box<dyn Fn(&str) + Send>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeats").field("hearts", &self.hearts).finish_non_exhaustive()
    }
}

/// A heart that beats each `period`, as long as somebody holds `looks`.
#[derive(Debug)]
struct Heart {
    last: Instant,
    period: Duration,
    /// How often somebody looked; none: it beats no more, and `last` was its last.
    looks: Option<watch::Sender<u64>>,
}

impl Heart {
    fn beat(&self) -> Instant {
        match &self.looks {
            Some(_) => last_beat(self.last, self.period, coracle_clock::instant()),
            None => self.last,
        }
    }
}

/// The last beat until `now`, of a heart that beats each `period` from `first` on.
fn last_beat(first: Instant, period: Duration, now: Instant) -> Instant {
    let beats = now.saturating_duration_since(first).as_nanos() / period.as_nanos().max(1);
    first + period * u32::try_from(beats).unwrap_or(u32::MAX)
}

/// Somebody who looks all the time: until this is dropped, every heartbeat is written in its time.
#[derive(Debug)]
pub struct Watching(Heartbeats);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watch(|watchers| watchers.saturating_sub(1));
    }
}

/// Lets a heart stop when its kubelet does.
struct Beating<'a>(&'a Shared, (String, Sign));

impl Drop for Beating<'_> {
    fn drop(&mut self) {
        if let Some(heart) = self.0.hearts().get_mut(&self.1) {
            heart.last = heart.beat();
            heart.looks = None;
        }
        if let Some(listener) = self.0.on_stop().as_ref().filter(|_| self.1.1 == Sign::Lease) {
            listener(&self.1.0);
        }
    }
}

impl Shared {
    fn hearts(&self) -> MutexGuard<'_, BTreeMap<(String, Sign), Heart>> {
        self.hearts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_stop(&self) -> MutexGuard<'_, Option<Listener>> {
        self.on_stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeats {
    /// Heartbeats that are written when somebody looks.
    pub fn when_looked_at() -> Heartbeats {
        let (watchers, hearts, on_stop) = (watch::Sender::new(0), Mutex::default(), Mutex::default());
        Heartbeats(Some(Arc::new(Shared { watchers, hearts, on_stop })))
    }

    /// Whether they are written only when somebody looks.
    pub fn are_put_off(&self) -> bool {
        self.0.is_some()
    }

    /// Rests from one heartbeat until the next that is to be written, and answers when that was due. The last was written
    /// at `last`.
    pub async fn rest(&self, node: &str, sign: Sign, last: Instant, period: Duration) -> Instant {
        let Some(shared) = &self.0 else {
            coracle_clock::sleep_until(last + period).await;
            // Later, if the machine slept.
            return coracle_clock::instant();
        };
        let (looks, mut looked) = watch::channel(0);
        let key = (node.to_owned(), sign);
        shared.hearts().insert(key.clone(), Heart { last, period, looks: Some(looks) });
        let _beating = Beating(shared, key);
        let mut watchers = shared.watchers.subscribe();
        loop {
            let beat = last_beat(last, period, coracle_clock::instant());
            let watched = *watchers.borrow_and_update() > 0;
            if beat > last && (watched || *looked.borrow() > 0) {
                return beat;
            }
            tokio::select! {
                biased;
                _ = watchers.changed() => {}
                _ = looked.changed() => {}
                () = coracle_clock::sleep_until(beat + period), if watched => {}
            }
        }
    }

    /// Lets what is put off be written, of one node or of all. Returns when it is, or when a moment has passed.
    pub async fn look(&self, node: Option<&str>) {
        const MOMENT: Duration = Duration::from_millis(100);
        let Some(shared) = &self.0 else { return };
        let due = |(key, heart): &(&(String, Sign), &Heart)| {
            node.is_none_or(|node| key.0 == node) && heart.looks.is_some() && heart.beat() > heart.last
        };
        let asked: Vec<_> = {
            let hearts = shared.hearts();
            let asked = hearts.iter().filter(due);
            asked.filter_map(|(key, heart)| heart.looks.as_ref().map(|looks| (key.clone(), looks.clone()))).collect()
        };
        for (_, looks) in &asked {
            looks.send_if_modified(|looks| {
                *looks += 1;
                true
            });
        }
        if asked.is_empty() {
            return;
        }
        let start = coracle_clock::instant();
        let rests = |key: &(String, Sign)| shared.hearts().get(key).is_some_and(|heart| heart.looks.is_some());
        // Whoever was asked rests no more until it has written.
        while start.elapsed() < MOMENT {
            coracle_clock::sleep(Duration::from_millis(1)).await;
            if asked.iter().all(|(key, _)| rests(key)) {
                return;
            }
        }
    }

    /// From now on every heartbeat is written in its time, as long as what is returned is held.
    #[must_use]
    pub fn watched(&self) -> Watching {
        self.watch(|watchers| watchers + 1);
        Watching(self.clone())
    }

    fn watch(&self, change: impl FnOnce(usize) -> usize) {
        if let Some(shared) = &self.0 {
            shared.watchers.send_if_modified(|watchers| {
                let before = std::mem::replace(watchers, change(*watchers));
                (before == 0) != (*watchers == 0)
            });
        }
    }

    /// When a node's lease was last put off, and whether it still is.
    pub fn last(&self, node: &str) -> Option<(Instant, bool)> {
        let hearts = self.0.as_ref()?.hearts();
        hearts.get(&(node.to_owned(), Sign::Lease)).map(|heart| (heart.beat(), heart.looks.is_some()))
    }

    /// Tells somebody of each node whose lease is no longer put off; there is one such listener at most.
    pub fn on_stop(&self, listener: impl Fn(&str) + Send + 'static) {
        if let Some(shared) = &self.0 {
            *shared.on_stop() = Some(Box::new(listener));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    async fn write_for_ever(heartbeats: Heartbeats, written: Arc<Mutex<Vec<u64>>>, start: Instant) {
        let mut last = start;
        loop {
            last = heartbeats.rest("n", Sign::Lease, last, PERIOD).await;
            written.lock().unwrap().push((last - start).as_secs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_are_written_in_time_or_when_somebody_looks() {
        for (heartbeats, in_time) in [(Heartbeats::default(), true), (Heartbeats::when_looked_at(), false)] {
            let (start, written) = (coracle_clock::instant(), Arc::default());
            let kubelet = tokio::spawn(write_for_ever(heartbeats.clone(), Arc::clone(&written), start));
            let at = |second| coracle_clock::sleep_until(start + Duration::from_secs(second));
            let taken = || std::mem::take(&mut *written.lock().unwrap());
            at(35).await;
            assert_eq!(taken(), if in_time { vec![10, 20, 30] } else { vec![] });
            heartbeats.look(Some("other")).await;
            heartbeats.look(Some("n")).await;
            heartbeats.look(None).await;
            assert_eq!(taken(), if in_time { vec![] } else { vec![30] }, "the last beat, and once");
            at(55).await;
            let watching = heartbeats.watched();
            at(75).await;
            assert_eq!(taken(), if in_time { vec![40, 50, 60, 70] } else { vec![50, 60, 70] });
            drop(watching);
            at(95).await;
            let last = |second, beats| (!in_time).then(|| (start + Duration::from_secs(second), beats));
            assert_eq!((taken().is_empty(), heartbeats.last("n")), (!in_time, last(90, true)));
            let stopped: Arc<Mutex<Vec<String>>> = Arc::default();
            let listener = Arc::clone(&stopped);
            heartbeats.on_stop(move |node| listener.lock().unwrap().push(node.to_owned()));
            kubelet.abort();
            at(115).await;
            assert_eq!(heartbeats.last("n"), last(90, false), "the dead have no pulse");
            assert_eq!(stopped.lock().unwrap().len(), usize::from(!in_time));
        }
    }
}
