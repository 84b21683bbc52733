//! NodeResourcesBalancedAllocation: a node whose CPU and memory fill evenly wastes neither.

use coracle_client::scheduling::resources::{CPU, MEMORY};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, MAX_NODE_SCORE, Plugin, Score};

#[derive(Debug)]
pub(super) struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[]
    }

    /// No opinion on a pod that asks for nothing.
    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let asks = pod.requests.iter().any(|(_, amount)| amount > 0);
        asks.then(|| Box::new(Balance(pod)) as Box<dyn Score>)
    }
}

struct Balance<'a>(&'a PodInfo);

impl Score for Balance<'_> {
    /// 100 less the standard deviation of the used fractions, in percent; of two fractions that is half their distance.
    fn score(&self, node: &NodeInfo) -> i64 {
        let fraction = |name: &str| {
            let capacity = node.allocatable.get(name) as f64;
            let used = (node.requested.get(name) + self.0.requests.get(name)) as f64;
            if capacity > 0.0 { (used / capacity).min(1.0) } else { 0.0 }
        };
        let deviation = ((fraction(CPU) - fraction(MEMORY)) / 2.0).abs();
        ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
    }
}
