//! What became of requests: how many, how long, with which answers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Steps of latency in each doubling: what is told is at most a thirty-second off.
const STEPS: u64 = 32;

/// A count of requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers by status.
    answers: BTreeMap<u16, u64>,
    /// What went wrong otherwise.
    failures: BTreeMap<String, u64>,
    /// How many answers took how long, by [`slot`].
    times: BTreeMap<u64, u64>,
    longest: Duration,
}

/// The slot of a time, finer for short ones.
fn slot(time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let doublings = (micros / STEPS).checked_ilog2().unwrap_or(0);
    u64::from(doublings) * STEPS + (micros >> doublings)
}

/// The longest time in a slot.
fn time(slot: u64) -> Duration {
    let doublings = (slot / STEPS).saturating_sub(1);
    let micros = ((slot - doublings * STEPS + 1) << doublings) - 1;
    Duration::from_micros(micros)
}

impl Tally {
    /// Counts a request.
    pub fn note(&mut self, outcome: Result<u16, String>, took: Duration) {
        match outcome {
            Ok(status) => {
                *self.answers.entry(status).or_default() += 1;
                *self.times.entry(slot(took)).or_default() += 1;
                self.longest = self.longest.max(took);
            }
            Err(why) => *self.failures.entry(why).or_default() += 1,
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Tally) {
        fn merge<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
            from.into_iter().for_each(|(key, count)| *into.entry(key).or_default() += count);
        }
        merge(&mut self.answers, other.answers);
        merge(&mut self.failures, other.failures);
        merge(&mut self.times, other.times);
        self.longest = self.longest.max(other.longest);
    }

    fn count(&self) -> u64 {
        self.answers.values().sum()
    }

    /// The time that so many of a hundred answers did not exceed.
    fn percentile(&self, percent: u64) -> Duration {
        let mut left = (self.count() * percent).div_ceil(100);
        let reached = self.times.iter().find(|(_, count)| {
            left = left.saturating_sub(**count);
            left == 0
        });
        reached.map_or(Duration::ZERO, |(slot, _)| time(*slot).min(self.longest))
    }

    /// `200: 97, 503: 3, connection refused: 1`.
    fn outcomes(&self) -> String {
        let answers = self.answers.iter().map(|(status, count)| format!("{status}: {count}"));
        let failures = self.failures.iter().map(|(why, count)| format!("{why}: {count}"));
        answers.chain(failures).collect::<Vec<_>>().join(", ")
    }

    /// What happened in a while, as one line.
    pub fn line(&self, took: Duration) -> String {
        let rate = self.count() as f64 / took.as_secs_f64().max(1e-9);
        let (half, most) = (milliseconds(self.percentile(50)), milliseconds(self.percentile(99)));
        format!("{rate:>7.0} requests/s   p50 {half:>8}   p99 {most:>8}   {}", self.outcomes())
    }

    /// What happened at all.
    pub fn summary(&self, took: Duration) -> String {
        let (count, seconds) = (self.count(), took.as_secs_f64());
        let mut text =
            format!("{count} requests answered in {seconds:.1} s, {:.0}/s\n", count as f64 / seconds.max(1e-9));
        let times = [50, 90, 99].map(|percent| format!("p{percent} {}", milliseconds(self.percentile(percent))));
        // Written to a string, which cannot fail.
        let _ = writeln!(text, "latency: {}, longest {}", times.join(", "), milliseconds(self.longest));
        let _ = writeln!(text, "outcomes: {}", self.outcomes());
        text
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_to_a_thirty_second() {
        for micros in (0..200).chain([1000, 12_345, 999_999, 60_000_000]) {
            let told = u64::try_from(time(slot(Duration::from_micros(micros))).as_micros()).unwrap();
            assert!((micros..=micros + micros / STEPS + 1).contains(&told), "{micros} told as {told}");
        }
    }

    #[test]
    fn the_summary_has_rates_latencies_and_outcomes() {
        let mut tally = Tally::default();
        for millis in 1..=100 {
            let status = if millis == 100 { 503 } else { 200 };
            tally.note(Ok(status), Duration::from_millis(millis));
        }
        let mut other = Tally::default();
        other.note(Err("connection refused".into()), Duration::ZERO);
        tally.add(other);
        let text = tally.summary(Duration::from_secs(10));
        assert!(text.starts_with("100 requests answered in 10.0 s, 10/s\nlatency: p50 50."), "{text}");
        assert!(text.ends_with("longest 100.0 ms\noutcomes: 200: 99, 503: 1, connection refused: 1\n"), "{text}");
        assert_eq!(Tally::default().percentile(99), Duration::ZERO);
    }
}
