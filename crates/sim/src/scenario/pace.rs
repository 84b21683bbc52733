//! How fast virtual time passes beside the machine's: as fast as it can, so many times as fast, or not at all for a while.
//!
//! The clock of a simulation jumps to whatever comes next as soon as nobody has anything to do. It holds still while
//! something outside is waited for, so a simulation that is to be slow waits outside, between short stretches of time;
//! meanwhile whoever speaks to its API server is answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Cluster;
use crate::line::Requests;

/// The longest stretch that passes at once, in the machine's time.
const STRETCH: Duration = Duration::from_millis(50);

/// A speed.
#[derive(Debug, Default)]
pub struct Pace {
    /// Times as fast as the machine's clock; `None` is as fast as it can.
    pub factor: Option<f64>,
    /// When, in the scenario's time, it stands still until [`Pace::resume`] returns.
    pub pause_at: Option<Duration>,
    /// Blocks as long as the pause lasts.
    pub resume: Option<fn(Duration)>,
    /// For whoever follows from outside.
    pub watch: Watch,
}

/// How far a simulation is, for other threads.
#[derive(Clone, Default)]
pub struct Watch {
    moment_ms: Arc<AtomicU64>,
    requests: Arc<Mutex<Option<Requests>>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.moment()).finish()
    }
}

impl Watch {
    /// The moment that is being played, from the scenario's beginning.
    pub fn moment(&self) -> Duration {
        Duration::from_millis(self.moment_ms.load(Ordering::Relaxed))
    }

    /// The request that the cluster's API server got last: who, what, which.
    pub fn last_request(&self) -> String {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let last = requests.as_ref().map(|asked| asked.lock().unwrap_or_else(PoisonError::into_inner).last.clone());
        last.filter(|last| !last.is_empty()).unwrap_or_else(|| "its start".into())
    }

    pub(super) fn begin(&self, cluster: &Cluster) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster.asked());
    }
}

impl Pace {
    /// Lets time pass until a moment of the scenario.
    pub(super) async fn until(&mut self, cluster: &Cluster, start: coracle_clock::Instant, moment: Duration) {
        self.watch.moment_ms.store(moment.as_millis() as u64, Ordering::Relaxed);
        if let Some((pause, resume)) = self.pause_at.zip(self.resume).filter(|(pause, _)| *pause <= moment) {
            self.pause_at = None;
            coracle_clock::sleep_until(start + pause).await;
            // While time stands nothing can be written: whoever looks at heartbeats then must find them.
            let _watching = cluster.heartbeats.watched();
            cluster.heartbeats.look(None).await;
            // The clock stands as long as a blocking task runs.
            let _ = tokio::task::spawn_blocking(move || resume(pause)).await;
        }
        let Some(factor) = self.factor else { return coracle_clock::sleep_until(start + moment).await };
        while start.elapsed() < moment {
            let left = moment - start.elapsed();
            let stretch = left.min(STRETCH.mul_f64(factor));
            let outside = stretch.div_f64(factor);
            let _ = tokio::task::spawn_blocking(move || wait_outside(outside)).await;
            coracle_clock::sleep(stretch).await;
        }
    }
}

/// Waits in the machine's time.
#[allow(clippy::disallowed_methods)] // to hold the simulation's clock is its very purpose
fn wait_outside(time: Duration) {
    std::thread::sleep(time);
}
