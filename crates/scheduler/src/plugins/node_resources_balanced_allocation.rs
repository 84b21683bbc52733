//! NodeResourcesBalancedAllocation: a node whose CPU and memory fill evenly wastes neither.

use serde::Deserialize;

use super::node_resources_fit::{ResourceSpec, check_weights, cpu_and_memory, used};
use crate::framework::{MAX_NODE_SCORE, Plugin, Point, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Args {
    resources: Vec<ResourceSpec>,
}

impl Default for Args {
    fn default() -> Self {
        Args { resources: cpu_and_memory() }
    }
}

#[derive(Debug)]
pub(super) struct NodeResourcesBalancedAllocation {
    resources: Vec<ResourceSpec>,
}

impl NodeResourcesBalancedAllocation {
    pub(super) fn new(args: Args) -> Result<Self, String> {
        check_weights(&args.resources)?;
        Ok(NodeResourcesBalancedAllocation { resources: args.resources })
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    /// No opinion on a pod that asks for none of the resources.
    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let asks = self.resources.iter().any(|resource| pod.requests.get(&resource.name) > 0);
        asks.then(|| Box::new(Balance { resources: &self.resources, pod }) as Box<dyn Score>)
    }
}

struct Balance<'a> {
    resources: &'a [ResourceSpec],
    pod: &'a PodInfo,
}

impl Score for Balance<'_> {
    /// 100 less the standard deviation of the used fractions, in percent.
    fn score(&self, node: &NodeInfo) -> i64 {
        let fractions = self.resources.iter().filter_map(|resource| {
            let (used, all) = used(&resource.name, self.pod, node, false)?;
            Some((used as f64 / all as f64).min(1.0))
        });
        let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
        let mut two = (0.0, 0.0);
        for fraction in fractions {
            two = (two.1, fraction);
            (count, sum, squares) = (count + 1.0, sum + fraction, squares + fraction * fraction);
        }
        let deviation = match count {
            0.0 | 1.0 => 0.0,
            // The same, without the error of the square root.
            2.0 => ((two.0 - two.1) / 2.0).abs(),
            count => ((squares / count) - (sum / count) * (sum / count)).max(0.0).sqrt(),
        };
        ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod, scored, snapshot};

    #[test]
    fn the_node_that_fills_evenly_is_best() {
        let nodes = snapshot(vec![node("even"), node("odd").with(pod("x").cpu("2")), node("full").cpu("1")]);
        let plugin = NodeResourcesBalancedAllocation::new(Args::default()).unwrap();
        let pod = |memory: &str| pod("p").cpu("1").set("/spec/containers/0/resources/requests/memory", memory.into());
        for (memory, expected) in [
            // 1/4 CPU and 2/8 memory; 3/4 and 2/8; all and 2/8.
            ("2Gi", [("even", 100), ("full", 62), ("odd", 75)]),
            ("4Gi", [("even", 87), ("full", 75), ("odd", 87)]),
        ] {
            assert_eq!(scored(&plugin, pod(memory), &nodes), expected, "{memory}");
        }
    }

    #[test]
    fn three_resources_have_their_standard_deviation() {
        let args = json!({ "resources": [{ "name": "cpu" }, { "name": "memory" }, { "name": "nvidia.com/gpu" }] });
        let plugin = NodeResourcesBalancedAllocation::new(serde_json::from_value(args).unwrap()).unwrap();
        let nodes = snapshot(vec![node("n").resource("nvidia.com/gpu", "1"), node("m")]);
        let pod = pod("p").cpu("2").set(
            "/spec/containers/0/resources/requests",
            json!({ "cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1" }),
        );
        // 0.5, 0.5 and 1: the deviation is 0.2357.
        assert_eq!(scored(&plugin, pod, &nodes), [("m", 100), ("n", 76)]);
    }

    #[test]
    fn a_pod_that_asks_for_nothing_is_no_ones_concern() {
        let plugin = NodeResourcesBalancedAllocation::new(Args::default()).unwrap();
        assert!(plugin.score(&pod("p").info(), &Snapshot::default(), &[]).is_none());
    }
}
