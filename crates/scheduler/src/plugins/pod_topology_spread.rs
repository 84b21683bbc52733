//! PodTopologySpread: pods of one kind are to be spread evenly over zones, nodes, or any other label.
//!
//! For each constraint the matching pods are counted per topology value; a node is possible if the
//! pod would not make its value's count exceed the smallest count by more than `maxSkew`.
//!
//! Pods of a ReplicaSet or StatefulSet, or of a Service, that name no constraints are spread over nodes and zones as
//! well as may be, as upstream's system defaults have it.

use std::collections::BTreeMap;

use coracle_api::selector::Selector;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use serde::Deserialize;

use super::node_affinity::node_matches;
use super::taint_toleration::{forbids, untolerated};
use crate::framework::{
    ClusterEvent, Filter, Happening, MAX_NODE_SCORE, Object, Plugin, Point, PreFilter, Prepared, Refusal, Score,
};
use crate::node::{self, HOSTNAME, NodeInfo, ZONE};
use crate::pod::{PodInfo, narrowed, parsed};
use crate::snapshot::Snapshot;
use crate::topology::Counts;

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
const HARD: &str = "DoNotSchedule";
const SOFT: &str = "ScheduleAnyway";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Args {
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: DefaultingType,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
enum DefaultingType {
    #[default]
    System,
    List,
}

#[derive(Debug)]
pub(super) struct PodTopologySpread {
    /// The constraints of pods that name none.
    defaults: Vec<TopologySpreadConstraint>,
    /// Whether these are upstream's, for which a node needs no labels.
    system: bool,
}

impl PodTopologySpread {
    pub(super) fn new(args: Args) -> Result<Self, String> {
        let system = args.defaulting_type == DefaultingType::System;
        if system && !args.default_constraints.is_empty() {
            return Err("defaultConstraints: when .defaultingType is System, must be empty".into());
        }
        if args.default_constraints.iter().any(|constraint| constraint.label_selector.is_some()) {
            return Err("defaultConstraints.labelSelector: Forbidden: constraint must not define a selector, as they \
                        deduced for each pod"
                .into());
        }
        let soft = |(key, max_skew): (&str, i32)| TopologySpreadConstraint {
            topology_key: key.to_owned(),
            max_skew,
            when_unsatisfiable: SOFT.into(),
            ..Default::default()
        };
        let defaults = if system { [(HOSTNAME, 3), (ZONE, 5)].map(soft).into() } else { args.default_constraints };
        Ok(PodTopologySpread { defaults, system })
    }

    /// The pod's constraints of one strength, or the defaults if it names none at all.
    fn constraints<'a>(&'a self, pod: &'a PodInfo, snapshot: &Snapshot, strength: &str) -> Vec<Constraint<'a>> {
        let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or_default();
        if !own.is_empty() {
            let wanted = own.iter().filter(|constraint| constraint.when_unsatisfiable == strength);
            return wanted.map(|spec| Constraint { spec, who: Who::Selected(selector(spec, pod)) }).collect();
        }
        let wanted = self.defaults.iter().filter(|constraint| constraint.when_unsatisfiable == strength);
        let Some(who) = kin(pod, snapshot) else { return Vec::new() };
        wanted.map(|spec| Constraint { spec, who: who.clone() }).collect()
    }
}

/// Whom a pod is spread among if it does not say so: the pods of its controller, or those of its Services.
fn kin(pod: &PodInfo, snapshot: &Snapshot) -> Option<Who> {
    if let Some(kind) = &pod.kind {
        return Some(Who::Kind(kind.clone()));
    }
    let mut merged = BTreeMap::new();
    for service in snapshot.services.of_namespace(&pod.key.namespace) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let ours = |selector: &&BTreeMap<String, String>| {
            !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        };
        merged.extend(selector.filter(ours).into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    }
    (!merged.is_empty()).then(|| Who::Selected(Selector::from_map(&merged)))
}

/// Which pods count for a constraint.
#[derive(Clone, Debug)]
enum Who {
    Selected(Selector),
    /// The pods of one controller; each node counts them all the time.
    Kind(String),
}

#[derive(Clone)]
struct Constraint<'a> {
    spec: &'a TopologySpreadConstraint,
    who: Who,
}

impl Constraint<'_> {
    fn key(&self) -> &str {
        &self.spec.topology_key
    }

    fn counts(&self, other: &PodInfo, pod: &PodInfo) -> bool {
        match &self.who {
            Who::Kind(kind) => other.kind.as_ref() == Some(kind),
            Who::Selected(selector) => {
                other.key.namespace == pod.key.namespace && !other.is_terminating() && selector.matches(other.labels())
            }
        }
    }

    /// The inclusion policies: by default a node counts if the pod's affinity allows it, whatever its taints.
    fn includes(&self, node: &NodeInfo, pod: &PodInfo) -> bool {
        let honours = |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
        (!honours(&self.spec.node_affinity_policy, "Honor") || node_matches(pod, node))
            && (!honours(&self.spec.node_taints_policy, "Ignore")
                || untolerated(&node.taints, pod.tolerations(), forbids).next().is_none())
    }
}

/// The constraint's selector, narrowed by the pod's own values of `matchLabelKeys`.
fn selector(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Selector {
    let base = constraint.label_selector.clone();
    let narrowed = base.map(|base| narrowed(base, pod.labels(), &constraint.match_label_keys, "In"));
    narrowed.as_ref().map_or_else(Selector::nothing, parsed)
}

fn has_keys(counts: &[Counts], node: &NodeInfo) -> bool {
    counts.iter().all(|counts| counts.knows(node))
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[
            AssignedPodAdd,
            AssignedPodLabelChange,
            AssignedPodDelete,
            PodLabelChange,
            NodeAdd,
            NodeDelete,
            NodeLabelChange,
            NodeTaintChange,
        ]
    }

    /// A pod helps if it counts or counted; a node if it has, or had, all keys.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let own = pod.spec().topology_spread_constraints.as_deref().unwrap_or_default();
        let hard: Vec<_> = own.iter().filter(|constraint| constraint.when_unsatisfiable == HARD).collect();
        match &happened.object {
            _ if hard.is_empty() => true,
            Object::Pod(old, new) => {
                let counts = |other: &PodInfo| {
                    other.key.namespace == pod.key.namespace
                        && hard.iter().any(|constraint| selector(constraint, pod).matches(other.labels()))
                };
                old.as_deref().is_some_and(counts) || new.as_deref().is_some_and(counts)
            }
            Object::Node(old, new) => {
                let all = |node: &k8s_openapi::api::core::v1::Node| {
                    hard.iter().all(|constraint| node::labels(node).contains_key(&constraint.topology_key))
                };
                old.as_deref().is_some_and(all) || new.as_deref().is_some_and(all)
            }
            _ => true,
        }
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let constraints = self.constraints(pod, snapshot, HARD);
        if constraints.is_empty() {
            return Prepared::none();
        }
        let mut counts: Vec<_> = constraints.iter().map(|constraint| snapshot.counts(constraint.key())).collect();
        let nodes: Vec<_> = snapshot.nodes().filter(|node| has_keys(&counts, node)).collect();
        for (constraint, counts) in constraints.iter().zip(&mut counts) {
            let mut counts_here = vec![false; snapshot.len()];
            for node in nodes.iter().filter(|node| constraint.includes(node, pod)) {
                counts_here[node.place] = true;
                counts.add(node.place, 0);
            }
            for alike in snapshot.alikes().filter(|alike| constraint.counts(&alike.pod, pod)) {
                let nodes = alike.nodes.iter().filter(|(place, _)| counts_here[**place]);
                nodes.for_each(|(place, more)| counts.add(*place, *more));
            }
        }
        let mut skew = Skew { pod, constraints, counts, smallest: Vec::new() };
        skew.settle();
        Prepared::filter(skew)
    }

    fn score<'a>(
        &'a self,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
        nodes: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let constraints = self.constraints(pod, snapshot, SOFT);
        if constraints.is_empty() {
            return None;
        }
        let defaulted = pod.spec().topology_spread_constraints.as_ref().is_none_or(Vec::is_empty);
        let keys_needed = !(defaulted && self.system);
        let mut counts: Vec<_> = constraints.iter().map(|constraint| snapshot.counts(constraint.key())).collect();
        let mut on_node = Vec::new();
        // Only values of possible nodes are of interest.
        let considered = |node: &NodeInfo, counts: &[Counts]| !keys_needed || has_keys(counts, node);
        let possible: Vec<_> = nodes.iter().filter(|node| considered(node, &counts)).collect();
        let mut weights = Vec::new();
        for at in 0..constraints.len() {
            let constraint = &constraints[at];
            let alikes = snapshot.alikes().filter(|alike| constraint.counts(&alike.pod, pod));
            let there = alikes.flat_map(|alike| &alike.nodes);
            let size = if constraint.key() == HOSTNAME {
                on_node = vec![0; snapshot.len()];
                there.for_each(|(place, more)| on_node[*place] += more);
                possible.len()
            } else {
                possible.iter().for_each(|node| counts[at].add(node.place, 0));
                let size = counts[at].iter().count();
                for (place, more) in there {
                    let node = snapshot.at(*place);
                    if counts[at].at(node).is_some() && considered(node, &counts) && constraint.includes(node, pod) {
                        counts[at].add(*place, *more);
                    }
                }
                size
            };
            // A topology with more values weighs more, or few zones would count for more than many nodes.
            weights.push((size as f64 + 2.0).ln());
        }
        Some(Box::new(Spread { constraints, counts, on_node, weights, keys_needed }))
    }
}

#[derive(Clone)]
struct Skew<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Constraint<'a>>,
    /// Per constraint the matching pods per topology value, of the nodes that count.
    counts: Vec<Counts>,
    /// The smallest of them.
    smallest: Vec<i64>,
}

impl Skew<'_> {
    /// With fewer domains than wanted the smallest count is taken as zero.
    fn settle(&mut self) {
        let smallest = self.constraints.iter().zip(&self.counts).map(|(constraint, counts)| {
            let domains = constraint.spec.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
            if counts.iter().count() < domains { 0 } else { counts.iter().min().unwrap_or(0) }
        });
        self.smallest = smallest.collect();
    }
}

impl Filter for Skew<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for ((constraint, counts), smallest) in self.constraints.iter().zip(&self.counts).zip(&self.smallest) {
            if !counts.knows(node) {
                return Err(Refusal::unresolvable(REASON_NO_LABEL));
            }
            let here = counts.at(node).unwrap_or(0);
            let own = i64::from(constraint.counts(self.pod, self.pod));
            if here + own - smallest > i64::from(constraint.spec.max_skew) {
                return Err(Refusal::unschedulable(REASON));
            }
        }
        Ok(())
    }

    fn imagine(&self) -> Option<Box<dyn Filter + '_>> {
        Some(Box::new(self.clone()))
    }

    fn moved(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if !has_keys(&self.counts, node) {
            return;
        }
        for (constraint, counts) in self.constraints.iter().zip(&mut self.counts) {
            if constraint.includes(node, self.pod) && constraint.counts(other, self.pod) {
                counts.add(node.place, by);
            }
        }
        self.settle();
    }
}

struct Spread<'a> {
    constraints: Vec<Constraint<'a>>,
    counts: Vec<Counts>,
    /// The pods at each place, for the constraint that counts per node.
    on_node: Vec<i64>,
    weights: Vec<f64>,
    keys_needed: bool,
}

impl Spread<'_> {
    fn ignores(&self, node: &NodeInfo) -> bool {
        self.keys_needed && !has_keys(&self.counts, node)
    }
}

impl Score for Spread<'_> {
    /// The pods already there; `normalize` turns it over.
    fn score(&self, node: &NodeInfo) -> i64 {
        if self.ignores(node) {
            return 0;
        }
        let parts = self.constraints.iter().zip(&self.counts).zip(&self.weights).filter_map(
            |((constraint, counts), weight)| {
                let count = match constraint.key() {
                    _ if !counts.knows(node) => return None,
                    HOSTNAME => self.on_node[node.place],
                    _ => counts.at(node).unwrap_or(0),
                };
                Some(count as f64 * weight + f64::from(constraint.spec.max_skew - 1))
            },
        );
        parts.sum::<f64>().round() as i64
    }

    fn normalize(&self, scores: &mut [i64], nodes: &[&NodeInfo]) {
        let known = || scores.iter().zip(nodes).filter(|(_, node)| !self.ignores(node)).map(|(score, _)| *score);
        let (min, max) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for (score, node) in scores.iter_mut().zip(nodes) {
            *score = match max {
                _ if self.ignores(node) => 0,
                0 => MAX_NODE_SCORE,
                max => MAX_NODE_SCORE * (max + min - *score) / max,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestNode, TestPod, filtered, node, pod, scored, snapshot};

    const CONSTRAINTS: &str = "/spec/topologySpreadConstraints";

    fn plugin() -> PodTopologySpread {
        PodTopologySpread::new(Args::default()).unwrap()
    }

    fn web(name: &str) -> TestPod {
        pod(name).label("app", "web")
    }

    fn constraint(key: &str, more: Value) -> Value {
        let mut all = json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": HARD,
                              "labelSelector": { "matchLabels": { "app": "web" } } });
        more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
        all
    }

    fn zone(name: &str, zone: &str) -> TestNode {
        node(name).label("zone", zone)
    }

    /// Two pods in zone 1, one in zone 2, none in zone 3, which is tainted and of another disk; d has no zone.
    fn cluster() -> Snapshot {
        snapshot(vec![
            zone("a", "1").with(web("w1")).with(web("w2")).label("disk", "ssd"),
            zone("b", "2").with(web("w3")).with(pod("other")).label("disk", "ssd"),
            zone("c", "3").taint("k", "v", "NoSchedule"),
            node("d"),
        ])
    }

    #[test]
    fn a_value_that_is_ahead_takes_no_more() {
        let skew = || Err(Refusal::unschedulable(REASON));
        let label = || Err(Refusal::unresolvable(REASON_NO_LABEL));
        let on_ssd = |pod: TestPod| pod.set("/spec/nodeSelector", json!({ "disk": "ssd" }));
        let with = |more: Value| web("p").set(CONSTRAINTS, json!([constraint("zone", more)]));
        for (what, pod, expected) in [
            ("the third zone is empty", with(json!({})), [skew(), skew(), Ok(()), label()]),
            ("more skew is allowed", with(json!({ "maxSkew": 2 })), [skew(), Ok(()), Ok(()), label()]),
            (
                "the pod itself does not count",
                pod("p").set(CONSTRAINTS, json!([constraint("zone", json!({}))])),
                [skew(), Ok(()), Ok(()), label()],
            ),
            ("nodes that the pod cannot have do not count", on_ssd(with(json!({}))), [skew(), Ok(()), Ok(()), label()]),
            (
                "unless they shall",
                on_ssd(with(json!({ "nodeAffinityPolicy": "Ignore" }))),
                [skew(), skew(), Ok(()), label()],
            ),
            (
                "tainted nodes count unless they shall not",
                with(json!({ "nodeTaintsPolicy": "Honor" })),
                [skew(), Ok(()), Ok(()), label()],
            ),
            (
                "too few domains make the smallest zero",
                on_ssd(with(json!({ "minDomains": 3 }))),
                [skew(), skew(), Ok(()), label()],
            ),
            ("enough do not", on_ssd(with(json!({ "minDomains": 2 }))), [skew(), Ok(()), Ok(()), label()]),
            (
                "only pods of the same revision count",
                with(json!({ "matchLabelKeys": ["rev"] })).label("rev", "2"),
                [Ok(()), Ok(()), Ok(()), label()],
            ),
            ("no selector counts none", with(json!({ "labelSelector": null })), [Ok(()), Ok(()), Ok(()), label()]),
        ] {
            let verdicts = ["a", "b", "c", "d"].map(|on| filtered(&plugin(), pod.clone(), &cluster(), on));
            assert_eq!(verdicts, expected, "{what}");
        }
    }

    #[test]
    fn terminating_pods_do_not_count() {
        let leaving = web("w").set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z".into());
        let nodes = snapshot(vec![zone("a", "1").with(leaving), zone("b", "2")]);
        let pod = web("p").set(CONSTRAINTS, json!([constraint("zone", json!({}))]));
        assert_eq!(filtered(&plugin(), pod, &nodes, "a"), Ok(()));
    }

    #[test]
    fn soft_constraints_prefer_the_value_that_is_behind() {
        let soft =
            |key: &str| web("p").set(CONSTRAINTS, json!([constraint(key, json!({ "whenUnsatisfiable": SOFT }))]));
        // Weights: ln(3 + 2) for three zones, ln(4 + 2) for four nodes; d has no zone.
        assert_eq!(scored(&plugin(), soft("zone"), &cluster()), [("a", 0), ("b", 33), ("c", 100), ("d", 0)]);
        assert_eq!(scored(&plugin(), soft(HOSTNAME), &cluster()), [("a", 0), ("b", 50), ("c", 100), ("d", 100)]);
    }

    #[test]
    fn pods_of_one_controller_or_service_prefer_the_node_that_has_fewer_of_them() {
        let owned = |name: &str, uid: &str| {
            let owner =
                json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true }]);
            pod(name).set("/metadata/ownerReferences", owner)
        };
        let mut nodes = snapshot(vec![
            node("a").with(owned("x", "1")),
            node("b").with(owned("y", "2")).with(owned("z", "2")).with(web("w")),
        ]);
        let prefers = |pod: TestPod, nodes: &Snapshot| {
            let scores = scored(&plugin(), pod, nodes);
            scores.iter().max_by_key(|(_, score)| *score).map(|(node, _)| (*node).to_owned())
        };
        assert_eq!(prefers(owned("p", "1"), &nodes).as_deref(), Some("b"));
        assert_eq!(prefers(owned("p", "2"), &nodes).as_deref(), Some("a"));
        assert_eq!(prefers(web("p"), &nodes), None);
        let service: k8s_openapi::api::core::v1::Service =
            serde_json::from_value(json!({ "spec": { "selector": { "app": "web" } } })).unwrap();
        nodes.services.set(coracle_client::ObjectKey::new("default", "web"), Some(service.into()));
        assert_eq!(prefers(web("p"), &nodes).as_deref(), Some("a"));
        assert_eq!(prefers(pod("p"), &nodes), None);
    }

    #[test]
    fn a_profile_can_have_its_own_defaults() {
        let args = json!({ "defaultingType": "List", "defaultConstraints": [
            { "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": HARD }] });
        let listed = PodTopologySpread::new(serde_json::from_value(args).unwrap()).unwrap();
        let owner = json!([{ "apiVersion": "v1", "kind": "StatefulSet", "name": "s", "uid": "1", "controller": true }]);
        let owned = |name: &str| pod(name).set("/metadata/ownerReferences", owner.clone());
        let nodes = snapshot(vec![zone("a", "1").with(owned("x")), zone("b", "2")]);
        assert_eq!(filtered(&listed, owned("p"), &nodes, "a"), Err(Refusal::unschedulable(REASON)));
        assert_eq!(filtered(&listed, owned("p"), &nodes, "b"), Ok(()));
        let wrong =
            json!({ "defaultConstraints": [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": HARD }] });
        assert!(PodTopologySpread::new(serde_json::from_value(wrong).unwrap()).is_err());
    }
}
