//! Whose turn it is.
//!
//! A pending pod is in one of five places. **Active**: next by QueueSort, then by age. **Backing off**: it failed
//! lately and may try again when its time has come (1 s, doubled, to 10 s), or when no one else is active, unless an
//! error and not the cluster was against it. **Unschedulable**: it failed, and nothing has happened since that could
//! help it; an event that one of the plugins that refused it cares about brings it back, or the passing of five
//! minutes. **Gated**: a plugin keeps it out. **In flight**: it is being decided on, or bound.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::ObjectKey;
use coracle_clock::Instant;

use crate::framework::{ClusterEvent, Happening};
use crate::pod::PodInfo;

/// After so long without a helpful event an unschedulable pod is tried anyway.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// The plugins that keep a pod waiting.
pub type RefusedBy = BTreeSet<&'static str>;

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    rank: i64,
    attempts: u32,
    since: Instant,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Active,
    Backoff {
        until: Instant,
        after_error: bool,
    },
    Unschedulable {
        by: RefusedBy,
        since: Instant,
    },
    Gated {
        by: &'static str,
    },
    /// Remembers which events came since.
    InFlight {
        from: u64,
    },
}

/// Orders active pods: rank first, then who has waited longer.
type Turn = (Reverse<i64>, Instant, ObjectKey);

/// Judges whether an event may help a pod that one of the plugins refused.
pub trait Hints {
    /// Whether the plugin cares about an event at all.
    fn cares(&self, plugin: &'static str, event: ClusterEvent) -> bool;
    /// Whether the plugin finds that it may help.
    fn hint(&self, plugin: &'static str, pod: &PodInfo, happened: &Happening) -> bool;

    /// Whether it may help a pod, by any of the plugins that refused it.
    fn helps(&self, by: &RefusedBy, pod: &PodInfo, happened: &Happening) -> bool {
        by.iter().any(|plugin| {
            happened.events.iter().any(|event| self.cares(plugin, *event)) && self.hint(plugin, pod, happened)
        })
    }
}

/// The scheduling queue.
#[derive(Debug)]
pub struct Queue {
    pods: BTreeMap<ObjectKey, Waiting>,
    active: BTreeSet<Turn>,
    /// By when they are due.
    backoff: BTreeSet<(Instant, ObjectKey)>,
    /// By when they are tried anyway.
    unschedulable: BTreeSet<(Instant, ObjectKey)>,
    /// Unschedulable and gated pods by the plugins that refused them: an event is shown only to those that it may help.
    refused: BTreeMap<&'static str, BTreeSet<ObjectKey>>,
    /// For these pods others are being sent away: until all but the last have been, nothing brings them back.
    held: BTreeSet<ObjectKey>,
    /// What happened since the first pod in flight took off; numbered from `log_from` on.
    log: VecDeque<Happening>,
    log_from: u64,
    in_flight: BTreeSet<(u64, ObjectKey)>,
    initial_backoff: Duration,
    max_backoff: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Queue::new((Duration::from_secs(1), Duration::from_secs(10)))
    }
}

impl Queue {
    /// A queue in which a pod waits so long after its first failure, and at most.
    pub fn new((initial_backoff, max_backoff): (Duration, Duration)) -> Self {
        Queue {
            pods: BTreeMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            refused: BTreeMap::new(),
            held: BTreeSet::new(),
            log: VecDeque::new(),
            log_from: 0,
            in_flight: BTreeSet::new(),
            initial_backoff,
            max_backoff,
        }
    }

    /// A pending pod came; `gate` is the plugin that keeps it out, if one does.
    pub fn add(&mut self, pod: Arc<PodInfo>, rank: i64, gate: Option<&'static str>, now: Instant) {
        let key = pod.key.clone();
        let known = self.pods.remove(&key);
        if let Some(known) = &known {
            self.leave(known);
        }
        let place = gate.map_or(Place::Active, |by| Place::Gated { by });
        let (attempts, since) = known.map_or((0, now), |known| (known.attempts, known.since));
        self.enter(Waiting { pod, rank, attempts, since, place });
    }

    /// A pending pod changed. One at work keeps its place; one that waits comes back if the change may help it.
    pub fn update(&mut self, pod: Arc<PodInfo>, rank: i64, happened: &Happening, hints: &impl Hints, now: Instant) {
        let key = pod.key.clone();
        let Some(mut waiting) = self.take(&key) else { return };
        (waiting.pod, waiting.rank) = (pod, rank);
        if let Place::Unschedulable { by, since } = &waiting.place
            && !self.held.contains(&key)
            && hints.helps(by, &waiting.pod, happened)
        {
            waiting.place = Place::Backoff { until: *since + self.wait(waiting.attempts), after_error: false };
        }
        self.enter(waiting);
        self.promote(now);
    }

    /// Whether a pod waits here, and which plugin keeps it out if one does.
    pub fn gate(&self, key: &ObjectKey) -> Option<Option<&'static str>> {
        self.pods.get(key).map(|waiting| match waiting.place {
            Place::Gated { by } => Some(by),
            _ => None,
        })
    }

    /// The UID of the pod that has this name here.
    pub fn uid(&self, key: &ObjectKey) -> Option<&str> {
        self.pods.get(key).map(|waiting| waiting.pod.uid())
    }

    /// A pending pod changed in nothing that matters to its turn.
    pub fn renew(&mut self, pod: Arc<PodInfo>) {
        if let Some(waiting) = self.pods.get_mut(&pod.key) {
            waiting.pod = pod;
        }
    }

    /// The pod is gone or has its node.
    pub fn remove(&mut self, key: &ObjectKey) {
        drop(self.take(key));
        self.held.remove(key);
        self.trim();
    }

    /// Pods are being sent away for this one: it waits for that.
    pub fn hold(&mut self, key: &ObjectKey) {
        self.held.insert(key.clone());
    }

    /// All but the last of the pods that were in the way have been sent away.
    pub fn release(&mut self, key: &ObjectKey) {
        self.held.remove(key);
    }

    /// Takes the pod whose turn it is, and which attempt it is; it must be [removed](Queue::remove) or
    /// [failed](Queue::failed) afterwards.
    pub fn pop(&mut self, now: Instant) -> Option<(Arc<PodInfo>, u32)> {
        self.promote(now);
        let key = match self.active.first() {
            Some((.., key)) => key.clone(),
            // Nobody else wants the time.
            None => self.backoff.iter().map(|(_, key)| key).find(|key| !self.erred(key))?.clone(),
        };
        let mut waiting = self.take(&key)?;
        waiting.attempts += 1;
        waiting.place = Place::InFlight { from: self.log_from + self.log.len() as u64 };
        let popped = (waiting.pod.clone(), waiting.attempts);
        self.enter(waiting);
        Some(popped)
    }

    /// The pod could not be placed because these plugins refused it; if none did, because of an error.
    pub fn failed(&mut self, key: &ObjectKey, by: RefusedBy, hints: &impl Hints, now: Instant) {
        let Some(mut waiting) = self.take(key) else { return };
        let Place::InFlight { from } = waiting.place else { return self.enter(waiting) };
        let until = now + self.wait(waiting.attempts);
        let mut missed = self.log.iter().skip(usize::try_from(from.saturating_sub(self.log_from)).unwrap_or(0));
        waiting.place = if by.is_empty() {
            Place::Backoff { until, after_error: true }
        } else if !self.held.contains(key) && missed.any(|happened| hints.helps(&by, &waiting.pod, happened)) {
            Place::Backoff { until, after_error: false }
        } else {
            Place::Unschedulable { by, since: now }
        };
        self.enter(waiting);
        self.trim();
    }

    /// Something happened: pods that it may help come back, at the earliest after their back-off. Those that a plugin
    /// keeps out are handed back: the plugin may let them in now.
    pub fn happened(&mut self, happened: Happening, hints: &impl Hints, now: Instant) -> Vec<Arc<PodInfo>> {
        let caring =
            self.refused.iter().filter(|(plugin, _)| happened.events.iter().any(|event| hints.cares(plugin, *event)));
        let candidates: BTreeSet<&ObjectKey> = caring.flat_map(|(_, keys)| keys).collect();
        let (mut helped, mut gated) = (Vec::new(), Vec::new());
        for key in candidates {
            let Some(Waiting { pod, place, attempts, .. }) = self.pods.get(key) else { continue };
            match place {
                Place::Unschedulable { by, since } if !self.held.contains(key) && hints.helps(by, pod, &happened) => {
                    helped.push((key.clone(), *since + self.wait(*attempts)));
                }
                Place::Gated { by } if hints.helps(&RefusedBy::from([*by]), pod, &happened) => gated.push(pod.clone()),
                _ => {}
            }
        }
        for (key, until) in helped {
            self.put(&key, Place::Backoff { until, after_error: false });
        }
        if !self.in_flight.is_empty() {
            self.log.push_back(happened);
        }
        self.promote(now);
        gated
    }

    /// Brings a pod back at once, after its back-off.
    pub fn activate(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(Waiting { place: Place::Unschedulable { since, .. }, attempts, .. }) = self.pods.get(key) {
            let until = *since + self.wait(*attempts);
            self.put(key, Place::Backoff { until, after_error: false });
            self.promote(now);
        }
    }

    /// When a pod that is now waiting will be due, if none is due already.
    pub fn next_due(&self) -> Option<Instant> {
        [self.backoff.first(), self.unschedulable.first()].into_iter().flatten().map(|(due, _)| *due).min()
    }

    fn erred(&self, key: &ObjectKey) -> bool {
        matches!(self.pods.get(key), Some(Waiting { place: Place::Backoff { after_error: true, .. }, .. }))
    }

    fn wait(&self, attempts: u32) -> Duration {
        (self.initial_backoff * 2u32.pow(attempts.saturating_sub(1).min(16))).min(self.max_backoff)
    }

    /// Moves those whose time has come to the active ones.
    fn promote(&mut self, now: Instant) {
        for due in [&self.backoff, &self.unschedulable]
            .map(|set| set.range(..=(now, max_key())).map(|(_, key)| key.clone()).collect::<Vec<_>>())
            .concat()
        {
            self.put(&due, Place::Active);
        }
    }

    fn put(&mut self, key: &ObjectKey, place: Place) {
        if let Some(mut waiting) = self.take(key) {
            waiting.place = place;
            self.enter(waiting);
        }
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Waiting> {
        let waiting = self.pods.remove(key)?;
        self.leave(&waiting);
        Some(waiting)
    }

    fn leave(&mut self, waiting: &Waiting) {
        let key = waiting.pod.key.clone();
        match &waiting.place {
            Place::Active => drop(self.active.remove(&(Reverse(waiting.rank), waiting.since, key))),
            Place::Backoff { until, .. } => drop(self.backoff.remove(&(*until, key))),
            Place::Unschedulable { by, since } => {
                for plugin in by {
                    if let Some(keys) = self.refused.get_mut(plugin) {
                        keys.remove(&key);
                    }
                }
                self.unschedulable.remove(&(*since + MAX_UNSCHEDULABLE, key));
            }
            Place::Gated { by } => {
                if let Some(keys) = self.refused.get_mut(by) {
                    keys.remove(&key);
                }
            }
            Place::InFlight { from } => drop(self.in_flight.remove(&(*from, key))),
        }
    }

    fn enter(&mut self, waiting: Waiting) {
        let key = waiting.pod.key.clone();
        match &waiting.place {
            Place::Active => drop(self.active.insert((Reverse(waiting.rank), waiting.since, key.clone()))),
            Place::Backoff { until, .. } => drop(self.backoff.insert((*until, key.clone()))),
            Place::Unschedulable { by, since } => {
                for plugin in by {
                    self.refused.entry(plugin).or_default().insert(key.clone());
                }
                self.unschedulable.insert((*since + MAX_UNSCHEDULABLE, key.clone()));
            }
            Place::Gated { by } => drop(self.refused.entry(by).or_default().insert(key.clone())),
            Place::InFlight { from } => drop(self.in_flight.insert((*from, key.clone()))),
        }
        self.pods.insert(key, waiting);
    }

    /// Forgets what happened before the first pod in flight took off.
    fn trim(&mut self) {
        let from = self.in_flight.first().map_or(self.log_from + self.log.len() as u64, |(from, _)| *from);
        while self.log_from < from {
            self.log.pop_front();
            self.log_from += 1;
        }
    }
}

/// No key is greater.
fn max_key() -> ObjectKey {
    ObjectKey::new("\u{10ffff}", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Object;
    use crate::testing::pod;

    /// Plugins named after the event that they care about.
    struct Test;

    impl Hints for Test {
        fn cares(&self, plugin: &'static str, event: ClusterEvent) -> bool {
            plugin == format!("{event:?}")
        }

        fn hint(&self, _: &'static str, pod: &PodInfo, _: &Happening) -> bool {
            pod.key.name != "hopeless"
        }
    }

    fn event(event: ClusterEvent) -> Happening {
        Happening { events: vec![event], object: Object::Other }
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// A queue whose only pod failed at the start, refused by a plugin that cares about new nodes.
    fn failed(name: &str) -> (Queue, ObjectKey, Instant) {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        let pod = Arc::new(pod(name).info());
        let key = pod.key.clone();
        queue.add(pod, 0, None, start);
        queue.pop(start).unwrap();
        queue.failed(&key, ["NodeAdd"].into(), &Test, start);
        (queue, key, start)
    }

    /// Somebody who always wants the time, so that nobody leaves back-off early.
    fn busy(queue: &mut Queue, now: Instant) {
        queue.add(Arc::new(pod("busy").priority(-1).info()), -1, None, now);
    }

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|(pod, _)| pod.key.name.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn rank_goes_first_then_age() {
        let (mut queue, now) = (Queue::default(), coracle_clock::instant());
        for (name, rank, at) in [("old", 0, 0), ("new", 0, 1), ("urgent", 5, 2)] {
            queue.add(Arc::new(pod(name).info()), rank, None, now + seconds(at));
        }
        assert_eq!(names(&mut queue, now), ["urgent", "old", "new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_waits_for_an_event_that_can_help_and_for_its_backoff() {
        let (mut queue, _, start) = failed("p");
        busy(&mut queue, start);
        queue.happened(event(ClusterEvent::StorageClassAdd), &Test, start);
        assert_eq!(names(&mut queue, start + seconds(5)), ["busy"]);
        let (mut queue, _, start) = failed("p");
        queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        busy(&mut queue, start);
        assert_eq!(queue.pop(start + Duration::from_millis(999)).unwrap().0.key.name, "busy");
        assert_eq!(queue.pop(start + seconds(1)).unwrap().1, 2, "the second attempt");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_backs_off_from_an_idle_scheduler_but_after_an_error() {
        let (mut queue, key, start) = failed("p");
        queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        assert_eq!(names(&mut queue, start), ["p"]);
        queue.failed(&key, RefusedBy::new(), &Test, start);
        assert_eq!(queue.next_due(), Some(start + seconds(2)));
        assert!(queue.pop(start + seconds(1)).is_none());
        assert!(queue.pop(start + seconds(2)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_doubles_to_ten_seconds() {
        let (mut queue, key, mut now) = failed("p");
        for expected in [2, 4, 8, 10, 10] {
            queue.activate(&key, now);
            now = queue.next_due().unwrap_or(now);
            queue.pop(now).unwrap();
            queue.failed(&key, RefusedBy::new(), &Test, now);
            assert_eq!(queue.next_due(), Some(now + seconds(expected)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_may_find_that_the_event_does_not_help() {
        let (mut queue, _, start) = failed("hopeless");
        queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        assert!(queue.pop(start + seconds(5)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_attempt_is_not_lost() {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        let p = Arc::new(pod("p").info());
        queue.add(p.clone(), 0, None, start);
        queue.pop(start).unwrap();
        queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        queue.failed(&p.key, ["NodeAdd"].into(), &Test, start);
        assert_eq!(queue.next_due(), Some(start + seconds(1)));
        assert!(queue.log.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn after_five_minutes_it_is_tried_anyway() {
        let (mut queue, _, start) = failed("p");
        assert!(queue.pop(start + seconds(299)).is_none());
        assert!(queue.pop(start + seconds(300)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gated_pod_comes_only_when_it_is_let_in() {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        let p = Arc::new(pod("p").info());
        queue.add(p.clone(), 0, Some("SchedulingGates"), start);
        assert_eq!(queue.gate(&p.key), Some(Some("SchedulingGates")));
        assert!(queue.pop(start + seconds(1000)).is_none());
        queue.add(p, 0, None, start);
        assert_eq!(names(&mut queue, start), ["p"]);
    }

    #[test]
    fn a_pod_for_which_others_go_waits_until_the_last_has_been_sent_away() {
        let (mut queue, key, start) = failed("p");
        queue.hold(&key);
        queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        assert!(queue.pop(start + seconds(20)).is_none());
        queue.release(&key);
        queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        assert_eq!(queue.pop(start + seconds(20)).map(|(pod, _)| pod.key.clone()), Some(key));
    }

    #[test]
    fn a_gated_pod_is_shown_to_its_gate_again_when_an_event_may_help() {
        let (mut queue, start) = (Queue::default(), coracle_clock::instant());
        queue.add(Arc::new(pod("p").info()), 0, Some("NodeAdd"), start);
        assert!(queue.pop(start).is_none());
        assert!(queue.happened(event(ClusterEvent::StorageClassAdd), &Test, start).is_empty());
        let gated = queue.happened(event(ClusterEvent::NodeAdd), &Test, start);
        assert_eq!(gated.len(), 1);
        queue.add(gated[0].clone(), 0, None, start);
        assert!(queue.pop(start).is_some());
        assert!(queue.happened(event(ClusterEvent::NodeAdd), &Test, start).is_empty());
    }
}
