//! NodeResourcesFit: what a pod asks for must be free; among nodes where it is, by default the emptier is better.

use std::borrow::Cow;

use coracle_client::scheduling::resources::{CPU, MEMORY, Resources};
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;

use super::dynamic_resources::class_of;
use crate::framework::{
    ClusterEvent, Filter, Happening, MAX_NODE_SCORE, Object, Plugin, Point, PreFilter, Prepared, Refusal, Score,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const TOO_MANY_PODS: &str = "Too many pods";
const INSUFFICIENT_CPU: &str = "Insufficient cpu";
const INSUFFICIENT_MEMORY: &str = "Insufficient memory";
/// Shapes give scores from 0 to 10.
const MAX_SHAPE_SCORE: i64 = 10;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Args {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Strategy,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Strategy {
    #[serde(rename = "type")]
    kind: StrategyType,
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<Ratio>,
}

impl Default for Strategy {
    fn default() -> Self {
        Strategy { kind: StrategyType::LeastAllocated, resources: cpu_and_memory(), requested_to_capacity_ratio: None }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum StrategyType {
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

/// A resource that counts in a score, and how much.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResourceSpec {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) weight: i64,
}

fn one() -> i64 {
    1
}

pub(super) fn cpu_and_memory() -> Vec<ResourceSpec> {
    [CPU, MEMORY].map(|name| ResourceSpec { name: name.into(), weight: 1 }).into()
}

/// # Errors
/// A weight is out of range.
pub(super) fn check_weights(resources: &[ResourceSpec]) -> Result<(), String> {
    match resources.iter().find(|resource| !(1..=100).contains(&resource.weight)) {
        Some(wrong) => Err(format!(
            "resources[{}].weight: Invalid value: {}: not in valid range [1-100]",
            wrong.name, wrong.weight
        )),
        None => Ok(()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<ShapePoint>,
}

/// At so much use, in percent, so good a score.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShapePoint {
    utilization: i64,
    score: i64,
}

#[derive(Debug)]
pub(super) struct NodeResourcesFit {
    ignored: Vec<String>,
    ignored_groups: Vec<String>,
    strategy: Strategy,
}

impl NodeResourcesFit {
    pub(super) fn new(args: Args) -> Result<Self, String> {
        let strategy = args.scoring_strategy;
        check_weights(&strategy.resources)?;
        if strategy.kind == StrategyType::RequestedToCapacityRatio {
            let shape = strategy.requested_to_capacity_ratio.as_ref().map(|ratio| &ratio.shape[..]).unwrap_or_default();
            let rising = shape.windows(2).all(|pair| pair[0].utilization < pair[1].utilization);
            let inside = |point: &ShapePoint| {
                (0..=100).contains(&point.utilization) && (0..=MAX_SHAPE_SCORE).contains(&point.score)
            };
            if shape.is_empty() || !rising || !shape.iter().all(inside) {
                return Err(
                    "scoringStrategy.requestedToCapacityRatio.shape: at least one point, with rising utilization \
                            from 0 to 100 and scores from 0 to 10"
                        .into(),
                );
            }
        }
        Ok(NodeResourcesFit { ignored: args.ignored_resources, ignored_groups: args.ignored_resource_groups, strategy })
    }

    fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map(|(group, _)| group);
        self.ignored.iter().any(|name| name == resource)
            || group.is_some_and(|group| self.ignored_groups.iter().any(|name| name == group))
    }

    fn fit<'a>(&self, pod: &'a PodInfo) -> Fit<'a> {
        let wanted = pod.requests.iter().filter(|(name, wanted)| *wanted > 0 && !self.ignores(name));
        Fit { wanted: wanted.collect(), backed: Vec::new() }
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[AssignedPodDelete, AssignedPodScaleDown, PodScaleDown, NodeAdd, NodeAllocatableChange]
    }

    /// A pod that goes or shrinks helps if it gives back something of what is wanted; a node if it is large enough.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let fit = self.fit(pod);
        match &happened.object {
            Object::Node(old, Some(new)) => {
                let allocatable = |node: &Node| {
                    let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
                    list.map(Resources::from_list).unwrap_or_default()
                };
                let now = allocatable(new);
                let grew = old.as_ref().is_none_or(|old| {
                    let before = allocatable(old);
                    now.pods() > before.pods() || fit.wanted.iter().any(|(name, _)| now.get(name) > before.get(name))
                });
                // What the node does not offer may be met by devices.
                let by_devices = |name: &str| name.contains('/') && !now.has(name);
                grew && fit.wanted.iter().all(|(name, wanted)| *wanted <= now.get(name) || by_devices(name))
            }
            Object::Pod(Some(old), new) if happened.events.contains(&ClusterEvent::AssignedPodScaleDown) => {
                let now = |name: &str| new.as_ref().map_or(0, |new| new.requests.get(name));
                fit.wanted.iter().any(|(name, _)| now(name) < old.requests.get(name))
            }
            _ => true,
        }
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let mut fit = self.fit(pod);
        fit.backed =
            fit.wanted.iter().map(|(name, _)| *name).filter(|name| class_of(name, snapshot).is_some()).collect();
        Prepared::filter(fit)
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Room { strategy: &self.strategy, pod }))
    }
}

struct Fit<'a> {
    wanted: Vec<(&'a str, i64)>,
    /// For these DynamicResources finds devices where the node does not offer them.
    backed: Vec<&'a str>,
}

impl Filter for Fit<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let mut refusal = Refusal { reasons: Vec::new(), unresolvable: false };
        if node.pods.len() as i64 + 1 > node.allocatable.pods() {
            refusal.reasons.push(TOO_MANY_PODS.into());
        }
        for (name, wanted) in &self.wanted {
            let allocatable = node.allocatable.get(name);
            if self.backed.contains(name) && !node.allocatable.has(name) {
                continue;
            }
            if *wanted > allocatable - node.requested.get(name) {
                refusal.reasons.push(match *name {
                    CPU => Cow::Borrowed(INSUFFICIENT_CPU),
                    MEMORY => Cow::Borrowed(INSUFFICIENT_MEMORY),
                    name => format!("Insufficient {name}").into(),
                });
                // More than the whole node: removing pods would not help.
                refusal.unresolvable |= *wanted > allocatable;
            }
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }
}

/// Of a resource, what is used of a node if the pod comes, and what there is; none if the resource does not count:
/// the node has none, or it is no one's default and the pod does not ask for it.
pub(super) fn used(resource: &str, pod: &PodInfo, node: &NodeInfo, nonzero: bool) -> Option<(i64, i64)> {
    let (used, all) = match (resource, nonzero) {
        (CPU, true) => (node.nonzero.0 + pod.nonzero.0, node.allocatable.cpu()),
        (MEMORY, true) => (node.nonzero.1 + pod.nonzero.1, node.allocatable.memory()),
        _ => {
            let asked = pod.requests.get(resource);
            let scalar = !matches!(resource, CPU | MEMORY | "ephemeral-storage");
            if asked == 0 && scalar {
                return None;
            }
            (node.requested.get(resource) + asked, node.allocatable.get(resource))
        }
    };
    (all != 0).then_some((used, all))
}

struct Room<'a> {
    strategy: &'a Strategy,
    pod: &'a PodInfo,
}

impl Score for Room<'_> {
    /// The weighted mean over resources; one that does not count does not weigh either.
    fn score(&self, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for resource in &self.strategy.resources {
            let Some((used, all)) = used(&resource.name, self.pod, node, true) else { continue };
            let score = match self.strategy.kind {
                StrategyType::LeastAllocated => (all - used).max(0) * MAX_NODE_SCORE / all,
                StrategyType::MostAllocated => used.min(all) * MAX_NODE_SCORE / all,
                StrategyType::RequestedToCapacityRatio => {
                    let percent = if used > all { 100 } else { used * 100 / all };
                    let shape = self.strategy.requested_to_capacity_ratio.as_ref().map(|ratio| &ratio.shape[..]);
                    match on_line(shape.unwrap_or_default(), percent) {
                        0 => continue,
                        score => score,
                    }
                }
            };
            sum += score * resource.weight;
            weights += resource.weight;
        }
        match (weights, self.strategy.kind) {
            (0, _) => 0,
            (weights, StrategyType::RequestedToCapacityRatio) => (sum as f64 / weights as f64).round() as i64,
            (weights, _) => sum / weights,
        }
    }
}

/// The score at some use on the line through the points, level before the first and after the last.
fn on_line(shape: &[ShapePoint], percent: i64) -> i64 {
    const SCALE: i64 = MAX_NODE_SCORE / MAX_SHAPE_SCORE;
    match shape.iter().position(|point| percent <= point.utilization) {
        Some(0) => shape[0].score * SCALE,
        Some(at) => {
            let (from, to) = (&shape[at - 1], &shape[at]);
            let rise = (to.score - from.score) * SCALE;
            from.score * SCALE + rise * (percent - from.utilization) / (to.utilization - from.utilization)
        }
        None => shape.last().map_or(0, |last| last.score * SCALE),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, scored, snapshot};

    fn plugin(args: Value) -> NodeResourcesFit {
        NodeResourcesFit::new(serde_json::from_value(args).unwrap()).unwrap()
    }

    fn asking(resource: &str, amount: &str) -> TestPod {
        let field = resource.replace('~', "~0").replace('/', "~1");
        pod("p").set(&format!("/spec/containers/0/resources/requests/{field}"), amount.into())
    }

    #[test]
    fn room_is_allocatable_less_what_is_requested() {
        let gpu = "nvidia.com/gpu";
        let nodes = snapshot(vec![
            node("n").cpu("2").resource(gpu, "2").with(pod("x").cpu("1500m")).with(asking(gpu, "1").named("y")),
        ]);
        let room = |reason: &'static str| Err(Refusal::unschedulable(reason));
        let never = |reason: &'static str| Err(Refusal::unresolvable(reason));
        for (resource, amount, expected) in [
            ("cpu", "0", Ok(())),
            ("cpu", "500m", Ok(())),
            ("cpu", "501m", room(INSUFFICIENT_CPU)),
            ("cpu", "3", never(INSUFFICIENT_CPU)),
            ("memory", "9Gi", never(INSUFFICIENT_MEMORY)),
            ("ephemeral-storage", "1Gi", never("Insufficient ephemeral-storage")),
            (gpu, "1", Ok(())),
            (gpu, "2", room("Insufficient nvidia.com/gpu")),
            ("example.com/none", "1", never("Insufficient example.com/none")),
        ] {
            assert_eq!(
                filtered(&plugin(json!({})), asking(resource, amount), &nodes, "n"),
                expected,
                "{resource} {amount}"
            );
        }
        let ignoring =
            plugin(json!({ "ignoredResources": ["example.com/one"], "ignoredResourceGroups": ["example.org"] }));
        for resource in ["example.com/one", "example.org/two"] {
            assert_eq!(filtered(&ignoring, asking(resource, "1"), &nodes, "n"), Ok(()));
        }
    }

    #[test]
    fn a_node_takes_only_so_many_pods() {
        let nodes = snapshot(vec![node("n").max_pods("1").with(pod("x"))]);
        assert_eq!(filtered(&plugin(json!({})), pod("p"), &nodes, "n"), Err(Refusal::unschedulable(TOO_MANY_PODS)));
    }

    /// The pod asks for 1 CPU and 1 GiB; a has 4 CPUs and 8 GiB free, b is half full, c has no memory to offer.
    #[test]
    fn strategies_score_what_is_used_or_free() {
        let nodes = snapshot(vec![
            node("a"),
            node("b").with(pod("x").cpu("2").set("/spec/containers/0/resources/requests/memory", "4Gi".into())),
            node("c").resource("memory", "0"),
        ]);
        let ratio = |shape: Value| {
            json!({ "scoringStrategy": {
            "type": "RequestedToCapacityRatio", "requestedToCapacityRatio": { "shape": shape } } })
        };
        let rising = json!([{ "utilization": 0, "score": 0 }, { "utilization": 100, "score": 10 }]);
        let falling = json!([{ "utilization": 0, "score": 10 }, { "utilization": 50, "score": 0 }]);
        let cpu_only = json!([{ "name": "cpu", "weight": 5 }, { "name": "nvidia.com/gpu", "weight": 9 }]);
        for (args, expected) in [
            // (75 + 87) / 2, (25 + 37) / 2, 75 alone.
            (json!({}), [("a", 81), ("b", 31), ("c", 75)]),
            (json!({ "scoringStrategy": { "type": "MostAllocated" } }), [("a", 18), ("b", 68), ("c", 25)]),
            (json!({ "scoringStrategy": { "resources": cpu_only } }), [("a", 75), ("b", 25), ("c", 75)]),
            // CPU 25 %, memory 12 %; 75 % and 62 %.
            (ratio(rising), [("a", 19), ("b", 69), ("c", 25)]),
            // 50 and 76; what scores nothing does not count.
            (ratio(falling), [("a", 63), ("b", 0), ("c", 50)]),
        ] {
            let pod = pod("p").cpu("1").set("/spec/containers/0/resources/requests/memory", "1Gi".into());
            assert_eq!(scored(&plugin(args.clone()), pod, &nodes), expected, "{args}");
        }
    }

    #[test]
    fn a_shape_or_weight_that_cannot_be_is_refused() {
        for args in [
            json!({ "scoringStrategy": { "type": "RequestedToCapacityRatio" } }),
            json!({ "scoringStrategy": { "resources": [{ "name": "cpu", "weight": 101 }] } }),
        ] {
            assert!(NodeResourcesFit::new(serde_json::from_value(args).unwrap()).is_err());
        }
    }

    #[test]
    fn a_node_helps_if_it_is_large_enough_and_grew() {
        let (small, large) = (node("n").cpu("1").info().node, node("n").cpu("4").info().node);
        let pod = pod("p").cpu("2").info();
        for (old, new, expected) in
            [(None, &small, false), (None, &large, true), (Some(&small), &large, true), (Some(&large), &large, false)]
        {
            let happened = Happening {
                events: vec![ClusterEvent::NodeAllocatableChange],
                object: Object::Node(old.cloned(), Some(new.clone())),
            };
            assert_eq!(plugin(json!({})).hint(&pod, &happened), expected);
        }
    }
}
