//! Waiting for the real world.

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Polls until `look` finds something, and returns it.
///
/// # Panics
/// After `seconds`, naming `what` was waited for.
#[allow(clippy::disallowed_methods)] // real processes take real time, and this thread has nothing else to do
pub fn wait_until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(seconds), "waited {seconds} s in vain: {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Polls until `look` says yes.
///
/// # Panics
/// After `seconds`, naming `what` was waited for.
pub fn eventually(what: &str, seconds: u64, mut look: impl FnMut() -> bool) {
    wait_until(what, seconds, || look().then_some(()));
}
