//! From samples to usage: processor time is counted, so what is used now is the difference of two samples.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// A container's own start is its first sample once it has run for so long.
const FRESH_CONTAINER: SignedDuration = SignedDuration::from_secs(10);
/// … and unless that is longer ago than this, when there should have been samples.
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_secs(60);

/// What something had used at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Point {
    pub(crate) at: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) cpu_nanos: u64,
    pub(crate) memory_bytes: u64,
}

/// Namespace and name of a pod.
pub(crate) type PodKey = (String, String);

/// What all kubelets said in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Batch {
    pub(crate) nodes: BTreeMap<String, Point>,
    /// By pod, then by container.
    pub(crate) pods: BTreeMap<PodKey, BTreeMap<String, Point>>,
}

/// What something uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Use {
    pub(crate) at: Timestamp,
    pub(crate) window: SignedDuration,
    /// Billionths of a processor.
    pub(crate) cpu_nano_cores: u64,
    pub(crate) memory_bytes: u64,
}

/// The last samples, and what they are compared with.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    last: Batch,
    before: Batch,
}

impl Usage {
    /// Takes a round of samples.
    pub(crate) fn add(&mut self, new: Batch) {
        let nodes = new.nodes.iter().filter_map(|(name, point)| {
            let before = baseline(point, self.last.nodes.get(name), self.before.nodes.get(name))?;
            Some((name.clone(), before))
        });
        let nodes = nodes.collect();
        let pods = new.pods.iter().map(|(key, containers)| {
            let of = |batch: &Batch, name: &str| batch.pods.get(key)?.get(name).copied();
            let before = containers.iter().filter_map(|(name, point)| {
                let before = baseline(point, of(&self.last, name).as_ref(), of(&self.before, name).as_ref())?;
                Some((name.clone(), before))
            });
            (key.clone(), before.collect())
        });
        self.before = Batch { pods: pods.collect(), nodes };
        self.last = new;
    }

    /// What a node uses, if that is known.
    pub(crate) fn node(&self, name: &str) -> Option<Use> {
        used(self.last.nodes.get(name)?, self.before.nodes.get(name)?)
    }

    /// What a pod's containers use; nothing if it is unknown of one of them.
    pub(crate) fn pod(&self, key: &PodKey) -> Option<Vec<(&str, Use)>> {
        let (last, before) = (self.last.pods.get(key)?, self.before.pods.get(key)?);
        last.iter().map(|(name, point)| Some((name.as_str(), used(point, before.get(name)?)?))).collect()
    }
}

/// The point with which a new one is compared: the last of the same life, else that life's beginning.
fn baseline(new: &Point, last: Option<&Point>, before: Option<&Point>) -> Option<Point> {
    let same_life =
        |old: &&Point| new.started.is_none_or(|started| started <= old.at) && old.cpu_nanos <= new.cpu_nanos;
    if let Some(last) = last.filter(same_life) {
        // A kubelet that says the same again has taken no new sample.
        return if last.at < new.at { Some(*last) } else { before.copied() };
    }
    let started = new.started?;
    let age = new.at.duration_since(started);
    let point = Point { at: started, cpu_nanos: 0, ..*new };
    (FRESH_CONTAINER..=LONGEST_WINDOW).contains(&age).then_some(point)
}

fn used(last: &Point, before: &Point) -> Option<Use> {
    let window = last.at.duration_since(before.at);
    let cpu = last.cpu_nanos.checked_sub(before.cpu_nanos)?;
    (window > SignedDuration::ZERO).then(|| Use {
        at: last.at,
        window,
        cpu_nano_cores: (cpu as f64 / window.as_secs_f64()) as u64,
        memory_bytes: last.memory_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(started: i64, at: i64, cpu_seconds: u64) -> Point {
        let [started, at] = [started, at].map(|second| Timestamp::from_second(second).unwrap());
        Point { at, started: Some(started), cpu_nanos: cpu_seconds * 1_000_000_000, memory_bytes: 7 }
    }

    /// What a container uses after these samples, in thousandths of a processor, and over how many seconds.
    fn check(points: &[Point], expected: Option<(u64, i64)>) {
        let (key, mut usage) = (("ns".to_owned(), "pod".to_owned()), Usage::default());
        for point in points {
            let pods = [(key.clone(), [("main".to_owned(), *point)].into())].into();
            usage.add(Batch { pods, ..Batch::default() });
        }
        let found = usage.pod(&key).map(|of| (of[0].1.cpu_nano_cores / 1_000_000, of[0].1.window.as_secs()));
        assert_eq!(found, expected, "{points:?}");
    }

    #[test]
    fn usage_is_the_difference_of_two_samples_of_one_life() {
        check(&[], None);
        check(&[point(0, 100, 50)], None);
        check(&[point(0, 100, 50), point(0, 115, 65)], Some((1000, 15)));
        check(&[point(0, 100, 50), point(0, 115, 65), point(0, 130, 65)], Some((0, 15)));
        // The same sample twice.
        check(&[point(0, 100, 50), point(0, 115, 65), point(0, 115, 65)], Some((1000, 15)));
        // Started again in between: too young, then old enough.
        check(&[point(0, 100, 50), point(110, 115, 1)], None);
        check(&[point(0, 100, 50), point(101, 115, 7)], Some((500, 14)));
        // A new container's first sample.
        check(&[point(85, 100, 3)], Some((200, 15)));
        check(&[point(95, 100, 3)], None);
    }

    #[test]
    fn a_pod_of_which_one_container_is_unknown_is_absent() {
        let key = ("ns".to_owned(), "pod".to_owned());
        let mut usage = Usage::default();
        for (at, names) in [(100, &["a"][..]), (115, &["a", "b"]), (130, &["a", "b"])] {
            let of = names.iter().map(|name| ((*name).to_owned(), point(0, at, 1))).collect();
            usage.add(Batch { pods: [(key.clone(), of)].into(), ..Batch::default() });
            assert_eq!(usage.pod(&key).map(|of| of.len()), (at == 130).then_some(2), "{at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_steady_load_is_measured_as_such(milli in 0_u64..8000, steps in proptest::collection::vec(1_i64..60, 2..8)) {
            let (key, mut usage, mut at) = (("ns".to_owned(), "pod".to_owned()), Usage::default(), 1000);
            for step in steps {
                at += step;
                let point = Point { cpu_nanos: milli * 1_000_000 * at as u64, ..point(0, at, 0) };
                usage.add(Batch { pods: [(key.clone(), [("main".to_owned(), point)].into())].into(), ..Batch::default() });
            }
            let found = usage.pod(&key).unwrap()[0].1.cpu_nano_cores;
            proptest::prop_assert!(found.abs_diff(milli * 1_000_000) <= 1, "{found}");
        }
    }
}
