//! Whose turn it is.
//!
//! A pending pod is in one of three places. **Active**: next by priority, then by age. **Backing
//! off**: it failed lately and may try again when its time has come (1 s, doubled, to 10 s).
//! **Unschedulable**: it failed, and nothing has happened since that could help it; an event that one
//! of the plugins that refused it cares about brings it back, or the passing of five minutes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::ObjectKey;
use coracle_clock::Instant;

use crate::cache::PodInfo;
use crate::framework::ClusterEvent;

const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// After so long without a helpful event an unschedulable pod is tried anyway.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    attempts: u32,
    since: Instant,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Active,
    Backoff {
        until: Instant,
    },
    Unschedulable {
        events: Vec<ClusterEvent>,
        since: Instant,
    },
    /// In the scheduler's hands; remembers events that come meanwhile.
    InFlight {
        events: Vec<ClusterEvent>,
    },
}

/// Orders active pods: priority first, then who has waited longer.
type Turn = (Reverse<i32>, Instant, ObjectKey);

/// The scheduling queue.
#[derive(Debug, Default)]
pub struct Queue {
    pods: BTreeMap<ObjectKey, Waiting>,
    active: BTreeSet<Turn>,
    /// Those that are not active. There may be very many that are, and nothing that happens concerns them.
    others: BTreeSet<ObjectKey>,
}

fn turn(waiting: &Waiting) -> Turn {
    (Reverse(waiting.pod.priority), waiting.since, waiting.pod.key.clone())
}

impl Queue {
    /// A pending pod came, or changed. A pod at work keeps its place.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        match self.pods.get_mut(&pod.key) {
            Some(waiting) => {
                let key = pod.key.clone();
                if matches!(waiting.place, Place::Active) {
                    self.active.remove(&turn(waiting));
                    waiting.pod = pod;
                    self.active.insert(turn(waiting));
                } else {
                    waiting.pod = pod;
                }
                self.wake(&key, ClusterEvent::PodChanged, now);
            }
            None => {
                let waiting = Waiting { pod, attempts: 0, since: now, place: Place::Active };
                self.active.insert(turn(&waiting));
                self.pods.insert(waiting.pod.key.clone(), waiting);
            }
        }
    }

    /// A pending pod changed in nothing that matters to its turn.
    pub fn renew(&mut self, pod: Arc<PodInfo>) {
        if let Some(waiting) = self.pods.get_mut(&pod.key) {
            waiting.pod = pod;
        }
    }

    /// The pod is gone or has its node.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(waiting) = self.pods.remove(key) {
            self.active.remove(&turn(&waiting));
            self.others.remove(key);
        }
    }

    /// Takes the pod whose turn it is; it must be [removed](Queue::remove) or [failed](Queue::failed) afterwards.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.promote(now);
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InFlight { events: Vec::new() };
        waiting.attempts += 1;
        let pod = waiting.pod.clone();
        self.others.insert(key);
        Some(pod)
    }

    /// The pod could not be placed; `events` are those that may help it. No events: try again after back-off.
    pub fn failed(&mut self, key: &ObjectKey, events: Vec<ClusterEvent>, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let missed = match &waiting.place {
            Place::InFlight { events: seen } => seen.iter().any(|event| events.contains(event)),
            _ => false,
        };
        let until = now + backoff(waiting.attempts);
        waiting.place = if missed || events.is_empty() {
            Place::Backoff { until }
        } else {
            Place::Unschedulable { events, since: now }
        };
    }

    /// Something happened: pods that it may help come back, at the earliest after their back-off.
    pub fn happened(&mut self, event: ClusterEvent, now: Instant) {
        for key in self.others.clone() {
            self.wake(&key, event, now);
        }
    }

    /// When a pod that is now waiting will be due, if none is due already.
    pub fn next_due(&self) -> Option<Instant> {
        let due = |waiting: &Waiting| match waiting.place {
            Place::Backoff { until } => Some(until),
            Place::Unschedulable { since, .. } => Some(since + MAX_UNSCHEDULABLE),
            Place::Active | Place::InFlight { .. } => None,
        };
        self.others.iter().filter_map(|key| due(self.pods.get(key)?)).min()
    }

    fn wake(&mut self, key: &ObjectKey, event: ClusterEvent, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        match &mut waiting.place {
            Place::InFlight { events } if !events.contains(&event) => events.push(event),
            Place::Unschedulable { events, since } if events.contains(&event) => {
                let until = *since + backoff(waiting.attempts);
                waiting.place = Place::Backoff { until };
                self.promote(now);
            }
            _ => {}
        }
    }

    fn promote(&mut self, now: Instant) {
        let Queue { pods, active, others } = self;
        others.retain(|key| {
            let Some(waiting) = pods.get_mut(key) else { return false };
            let due = match waiting.place {
                Place::Backoff { until } => until <= now,
                Place::Unschedulable { since, .. } => since + MAX_UNSCHEDULABLE <= now,
                Place::Active | Place::InFlight { .. } => false,
            };
            if due {
                waiting.place = Place::Active;
                active.insert(turn(waiting));
            }
            !due
        });
    }
}

fn backoff(attempts: u32) -> Duration {
    (INITIAL_BACKOFF * 2u32.pow(attempts.saturating_sub(1).min(10))).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|p| p.key.name.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn priority_goes_first_then_age() {
        let (mut queue, now) = (Queue::default(), coracle_clock::instant());
        queue.set(Arc::new(pod("old").info()), now);
        queue.set(Arc::new(pod("new").info()), now + Duration::from_secs(1));
        queue.set(Arc::new(pod("urgent").priority(5).info()), now + Duration::from_secs(2));
        assert_eq!(names(&mut queue, now), ["urgent", "old", "new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_waits_for_an_event_that_can_help_and_for_its_backoff() {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        let p = pod("p").info();
        queue.set(Arc::new(p.clone()), start);
        queue.pop(start).unwrap();
        queue.failed(&p.key, vec![ClusterEvent::NodeChanged], start);
        queue.happened(ClusterEvent::StorageChanged, start);
        assert!(queue.pop(start + Duration::from_secs(5)).is_none());
        queue.happened(ClusterEvent::NodeChanged, start);
        assert!(queue.pop(start + Duration::from_millis(999)).is_none());
        assert!(queue.pop(start + Duration::from_secs(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_attempt_is_not_lost() {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        let p = pod("p").info();
        queue.set(Arc::new(p.clone()), start);
        queue.pop(start).unwrap();
        queue.happened(ClusterEvent::NodeChanged, start);
        queue.failed(&p.key, vec![ClusterEvent::NodeChanged], start);
        assert_eq!(queue.next_due(), Some(start + Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_five_minutes_it_is_tried_anyway() {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        let p = pod("p").info();
        queue.set(Arc::new(p.clone()), start);
        queue.pop(start).unwrap();
        queue.failed(&p.key, vec![ClusterEvent::NodeChanged], start);
        assert!(queue.pop(start + Duration::from_secs(299)).is_none());
        assert!(queue.pop(start + Duration::from_secs(300)).is_some());
    }
}
