//! Exponential back-off with memory: how long to wait before something that failed is tried again.
//!
//! Crashed containers and failing image pulls wait 10 s, then 20 s, 40 s and so on up to 5 min. What has been well
//! for twice the longest wait (10 min) starts from the beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

/// The first wait.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub const MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    last_try: Timestamp,
}

/// A wait that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The whole wait, as messages state it.
    pub delay: Duration,
    /// When it is over.
    pub until: Timestamp,
}

/// The waits of many things, each by a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entries: BTreeMap<String, Entry>,
}

impl Backoff {
    /// The wait that `key` is in at `now`, after it failed at `failed_at`. `None` means: try.
    pub fn waiting(&self, key: &str, failed_at: Timestamp, now: Timestamp) -> Option<Waiting> {
        let entry = self.entries.get(key)?;
        if expired(entry, failed_at) {
            return None;
        }
        let until = failed_at + entry.delay;
        (now < until).then_some(Waiting { delay: entry.delay, until })
    }

    /// Notes that `key`, which failed at `failed_at`, is tried again at `now`; the next wait is twice as long.
    pub fn tried(&mut self, key: &str, failed_at: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !expired(entry, failed_at) => (entry.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { delay, last_try: now });
    }

    /// Forgets `key`.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Forgets every key that begins with `prefix`.
    pub fn forget_prefix(&mut self, prefix: &str) {
        self.entries.retain(|key, _| !key.starts_with(prefix));
    }
}

fn expired(entry: &Entry, failed_at: Timestamp) -> bool {
    Duration::try_from(failed_at.duration_since(entry.last_try)).is_ok_and(|well_for| well_for > MAX * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        assert_eq!(backoff.waiting("c", at(now), at(now)), None, "the first restart is immediate");
        let mut waits = Vec::new();
        for _ in 0..8 {
            backoff.tried("c", at(now), at(now));
            now += 1; // it crashes one second after it was started
            let wait = backoff.waiting("c", at(now), at(now)).unwrap();
            waits.push(wait.delay.as_secs());
            assert_eq!(wait.until, at(now) + wait.delay);
            now += i64::try_from(wait.delay.as_secs()).unwrap();
            assert_eq!(backoff.waiting("c", at(now - 10), at(now + 300)), None, "over is over");
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_health_reset_the_wait() {
        let mut backoff = Backoff::default();
        backoff.tried("c", at(0), at(0));
        backoff.tried("c", at(10), at(10));
        assert_eq!(backoff.waiting("c", at(11), at(11)).unwrap().delay.as_secs(), 20);
        assert_eq!(backoff.waiting("c", at(10 + 601), at(10 + 601)), None);
        backoff.tried("c", at(611), at(611));
        assert_eq!(backoff.waiting("c", at(612), at(612)).unwrap().delay.as_secs(), 10);
    }
}
