//! Pods that rules about other pods cannot tell apart, and how many of them each node has.
//!
//! Affinity and topology spread look at other pods' namespaces, labels, controllers and own affinities, which the pods
//! of one Deployment have in common. A rule is held against one of each sort, not against every pod.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pod::PodInfo;

/// A pod as rules about other pods see it.
#[derive(Clone, Debug)]
struct Seen(Arc<PodInfo>);

impl Seen {
    fn traits(&self) -> impl Ord + '_ {
        let pod = &self.0;
        (&pod.key.namespace, &pod.kind, pod.is_terminating(), pod.labels(), &pod.affinity)
    }
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Seen {}

impl PartialOrd for Seen {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seen {
    fn cmp(&self, other: &Self) -> Ordering {
        self.traits().cmp(&other.traits())
    }
}

/// Pods that are seen as one.
#[derive(Debug)]
pub struct Alike {
    /// One that is, or was, among them: what is true of it is true of all.
    pub pod: Arc<PodInfo>,
    /// How many are on the node at each place, where there are any.
    pub nodes: BTreeMap<usize, i64>,
}

/// All pods on nodes.
#[derive(Debug, Default)]
pub struct Alikes {
    places: BTreeMap<Seen, usize>,
    all: Vec<Alike>,
    /// Where nobody is any more.
    free: Vec<usize>,
}

impl Alikes {
    /// Each sort of pods that there is.
    pub fn iter(&self) -> impl Iterator<Item = &Alike> {
        self.all.iter().filter(|alike| !alike.nodes.is_empty())
    }

    /// One more on a node.
    pub fn add(&mut self, pod: &Arc<PodInfo>, node: usize) {
        let seen = Seen(pod.clone());
        let place = self.places.get(&seen).copied().unwrap_or_else(|| {
            let new = Alike { pod: pod.clone(), nodes: BTreeMap::new() };
            let place = self.free.pop().unwrap_or(self.all.len());
            match self.all.get_mut(place) {
                Some(free) => *free = new,
                None => self.all.push(new),
            }
            self.places.insert(seen, place);
            place
        });
        *self.all[place].nodes.entry(node).or_default() += 1;
    }

    /// One less.
    pub fn remove(&mut self, pod: &Arc<PodInfo>, node: usize) {
        let seen = Seen(pod.clone());
        let Some(place) = self.places.get(&seen).copied() else { return };
        let nodes = &mut self.all[place].nodes;
        if let Some(count) = nodes.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(&node);
            }
        }
        if nodes.is_empty() {
            self.places.remove(&seen);
            self.free.push(place);
        }
    }
}
