//! NodeResourcesFit: what a pod asks for must be free; among nodes where it is, the emptier is better.

use coracle_client::scheduling::resources::{CPU, MEMORY, PODS};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Refusal, Score};

const TOO_MANY_PODS: &str = "Too many pods";

#[derive(Debug)]
pub(super) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::AssignedPodRemoved, ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        Ok(Some(Box::new(Fit(pod))))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Fit(pod)))
    }
}

struct Fit<'a>(&'a PodInfo);

impl Filter for Fit<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let mut refusal = Refusal { reasons: Vec::new(), unresolvable: false };
        if node.pods.len() as i64 + 1 > node.allocatable.get(PODS) {
            refusal.reasons.push(TOO_MANY_PODS.into());
        }
        for (name, wanted) in self.0.requests.iter().filter(|(_, wanted)| *wanted > 0) {
            let allocatable = node.allocatable.get(name);
            if wanted > allocatable - node.requested.get(name) {
                refusal.reasons.push(format!("Insufficient {name}"));
                // More than the whole node: removing pods would not help.
                refusal.unresolvable |= wanted > allocatable;
            }
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }
}

impl Score for Fit<'_> {
    /// LeastAllocated: the mean of the free parts of CPU and memory.
    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |capacity: i64, used: i64| match capacity {
            0 => None,
            _ if used > capacity => Some(0),
            _ => Some((capacity - used) * MAX_NODE_SCORE / capacity),
        };
        let parts = [
            free(node.allocatable.get(CPU), node.nonzero.0 + self.0.nonzero.0),
            free(node.allocatable.get(MEMORY), node.nonzero.1 + self.0.nonzero.1),
        ];
        let known: Vec<i64> = parts.into_iter().flatten().collect();
        if known.is_empty() { 0 } else { known.iter().sum::<i64>() / known.len() as i64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    fn reasons(node: &NodeInfo, cpu: &str) -> Option<Refusal> {
        let (pod, snapshot) = (pod("p").cpu(cpu).info(), Snapshot::default());
        NodeResourcesFit.filter(&pod, &snapshot).unwrap().unwrap().filter(node).err()
    }

    #[test]
    fn room_is_allocatable_less_what_is_requested() {
        let node = node("n").cpu("2").with(pod("x").cpu("1500m")).info();
        assert_eq!(reasons(&node, "500m"), None);
        assert_eq!(reasons(&node, "501m"), Some(Refusal::unschedulable("Insufficient cpu")));
        assert_eq!(reasons(&node, "3"), Some(Refusal::unresolvable("Insufficient cpu")));
    }

    #[test]
    fn a_node_takes_only_so_many_pods() {
        let node = node("n").max_pods("1").with(pod("x")).info();
        assert_eq!(reasons(&node, "0"), Some(Refusal::unschedulable(TOO_MANY_PODS)));
    }
}
