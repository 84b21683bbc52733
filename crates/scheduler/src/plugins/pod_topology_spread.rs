//! PodTopologySpread: pods of one kind are to be spread evenly over zones, nodes, or any other label.
//!
//! For each constraint the matching pods are counted per topology value; a node is possible if the
//! pod would not make its value's count exceed the smallest count by more than `maxSkew`.
//!
//! Pods of a ReplicaSet or StatefulSet that name no constraints are spread over nodes and zones as well as may
//! be, as upstream's system defaults have it.

use std::collections::BTreeMap;

use coracle_api::selector::Selector;
use coracle_client::scheduling::tolerates;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::node_matches;
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Refusal, Score};

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

#[derive(Debug)]
pub(super) struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::{AssignedPodChanged, AssignedPodRemoved, NodeChanged, PodChanged};
        &[AssignedPodChanged, AssignedPodRemoved, NodeChanged, PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let spec = pod.spec().topology_spread_constraints.iter().flatten();
        let hard: Vec<_> = spec.filter(|c| c.when_unsatisfiable == "DoNotSchedule").collect();
        let constraints: Vec<_> = hard.iter().map(|c| Constraint::of_spec(c, &hard, pod, snapshot)).collect();
        Ok((!constraints.is_empty()).then(|| Box::new(Spread { constraints }) as Box<dyn Filter>))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let spec = pod.spec().topology_spread_constraints.iter().flatten();
        let soft: Vec<_> = spec.filter(|c| c.when_unsatisfiable == "ScheduleAnyway").collect();
        let constraints: Vec<_> = match pod.spec().topology_spread_constraints.as_deref() {
            None | Some([]) => default_constraints(pod, snapshot),
            Some(_) => soft.iter().map(|c| Constraint::of_spec(c, &soft, pod, snapshot)).collect(),
        };
        (!constraints.is_empty()).then(|| Box::new(Spread { constraints }) as Box<dyn Score>)
    }
}

/// The constraints of pods that name none: topology key and `maxSkew`.
const SYSTEM_DEFAULTS: [(&str, i32); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];
/// Of the defaults those whose key some node has. Pods count together that have one controller: that is what its
/// selector says too.
fn default_constraints(pod: &PodInfo, snapshot: &Snapshot) -> Vec<Constraint> {
    let Some(ours) = &pod.kind else { return vec![] };
    let defaults = SYSTEM_DEFAULTS.iter().map(|(key, max_skew)| {
        let constraint = TopologySpreadConstraint {
            topology_key: (*key).to_owned(),
            max_skew: *max_skew,
            when_unsatisfiable: "ScheduleAnyway".into(),
            ..TopologySpreadConstraint::default()
        };
        let matching = |node: &NodeInfo| node.kinds.get(ours).copied().unwrap_or(0);
        Constraint::count(&constraint, &[&constraint], pod, snapshot, 1, matching)
    });
    defaults.filter(|constraint| !constraint.counts.is_empty()).map(|c| Constraint { optional: true, ..c }).collect()
}

struct Constraint {
    key: String,
    /// Whether nodes without the key are as good as any.
    optional: bool,
    max_skew: i64,
    min_domains: usize,
    /// Whether the pod counts for its own constraint.
    own: i64,
    /// Matching pods per topology value, of the nodes that count.
    counts: BTreeMap<String, i64>,
}

impl Constraint {
    fn of_spec(
        constraint: &TopologySpreadConstraint,
        all: &[&TopologySpreadConstraint],
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> Self {
        let selector = selector(constraint, pod);
        let no_labels = BTreeMap::new();
        let matches = |other: &PodInfo| {
            other.key.namespace == pod.key.namespace
                && other.pod.metadata.deletion_timestamp.is_none()
                && selector.matches(other.pod.metadata.labels.as_ref().unwrap_or(&no_labels))
        };
        let matching = |node: &NodeInfo| node.pods.values().filter(|other| matches(other)).count() as i64;
        Constraint::count(constraint, all, pod, snapshot, i64::from(matches(pod)), matching)
    }

    fn count(
        constraint: &TopologySpreadConstraint,
        all: &[&TopologySpreadConstraint],
        pod: &PodInfo,
        snapshot: &Snapshot,
        own: i64,
        matching: impl Fn(&NodeInfo) -> i64,
    ) -> Self {
        let mut counts = BTreeMap::new();
        for node in snapshot.nodes.values() {
            // A node counts only where all constraints can be told.
            if !all.iter().all(|c| node.labels().contains_key(&c.topology_key)) || !node_counts(constraint, pod, node) {
                continue;
            }
            *counts.entry(node.labels()[&constraint.topology_key].clone()).or_default() += matching(node);
        }
        Constraint {
            key: constraint.topology_key.clone(),
            optional: false,
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            own,
            counts,
        }
    }

    /// With fewer domains than wanted the smallest count is taken as zero.
    fn smallest(&self) -> i64 {
        if self.counts.len() < self.min_domains { 0 } else { self.counts.values().copied().min().unwrap_or(0) }
    }
}

/// The constraint's selector, narrowed by the pod's own values of `matchLabelKeys`.
fn selector(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Selector {
    let Some(base) = &constraint.label_selector else { return Selector::nothing() };
    let mut narrowed: LabelSelector = base.clone();
    let labels = pod.pod.metadata.labels.iter().flatten();
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    for (key, value) in labels.filter(|(key, _)| keys.contains(key)) {
        narrowed.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: key.clone(),
            operator: "In".into(),
            values: Some(vec![value.clone()]),
        });
    }
    Selector::from_label_selector(&narrowed).unwrap_or_else(|_| Selector::nothing())
}

/// The inclusion policies: by default a node counts if the pod's affinity allows it, whatever its taints.
fn node_counts(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    let honours = |policy: &Option<String>, default: &str| policy.as_deref().unwrap_or(default) == "Honor";
    if honours(&constraint.node_affinity_policy, "Honor") && !node_matches(pod, node) {
        return false;
    }
    let mut taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerated = |taint| pod.spec().tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint));
    !honours(&constraint.node_taints_policy, "Ignore")
        || taints.all(|taint| taint.effect == "PreferNoSchedule" || tolerated(taint))
}

struct Spread {
    constraints: Vec<Constraint>,
}

impl Filter for Spread {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for constraint in &self.constraints {
            let Some(value) = node.labels().get(&constraint.key) else {
                return Err(Refusal::unresolvable(REASON_NO_LABEL));
            };
            let count = constraint.counts.get(value).copied().unwrap_or(0);
            if count + constraint.own - constraint.smallest() > constraint.max_skew {
                return Err(Refusal::unschedulable(REASON));
            }
        }
        Ok(())
    }
}

impl Score for Spread {
    /// The pods already there; a topology with more values weighs more. `normalize` turns it over.
    fn score(&self, node: &NodeInfo) -> i64 {
        let weigh = |constraint: &Constraint| {
            let Some(value) = node.labels().get(&constraint.key) else {
                return if constraint.optional { 0.0 } else { f64::from(u16::MAX) };
            };
            let weight = (constraint.counts.len() as f64 + 2.0).ln();
            constraint.counts.get(value).copied().unwrap_or(0) as f64 * weight + (constraint.max_skew - 1) as f64
        };
        self.constraints.iter().map(weigh).sum::<f64>().round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (Some(min), Some(max)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            *score = if max == 0 { MAX_NODE_SCORE } else { MAX_NODE_SCORE * (max + min - *score) / max };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{TestPod, node, pod, snapshot};

    fn web(name: &str) -> TestPod {
        pod(name).label("app", "web").set(
            "/spec/topologySpreadConstraints",
            json!([{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                     "labelSelector": { "matchLabels": { "app": "web" } } }]),
        )
    }

    #[test]
    fn pods_of_one_controller_prefer_the_node_that_has_fewer_of_them() {
        let owned = |name: &str, uid: &str| {
            let owner =
                json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true }]);
            pod(name).set("/metadata/ownerReferences", owner)
        };
        let host = |name: &str| node(name).label("kubernetes.io/hostname", name);
        let nodes =
            snapshot(vec![host("a").with(owned("x", "1")), host("b").with(owned("y", "2")).with(owned("z", "2"))]);
        let pod = owned("p", "1").info();
        let score = PodTopologySpread.score(&pod, &nodes).unwrap();
        let mut scores = ["a", "b"].map(|node| score.score(&nodes.nodes[node]));
        score.normalize(&mut scores);
        assert!(scores[0] < scores[1], "{scores:?}");
        assert!(PodTopologySpread.score(&crate::testing::pod("lone").info(), &nodes).is_none());
    }

    #[test]
    fn a_zone_that_is_ahead_takes_no_more() {
        let nodes =
            snapshot(vec![node("a").label("zone", "1").with(web("x")), node("b").label("zone", "2"), node("c")]);
        let pod = web("p").info();
        let filter = PodTopologySpread.filter(&pod, &nodes).unwrap().unwrap();
        assert_eq!(filter.filter(&nodes.nodes["a"]), Err(Refusal::unschedulable(REASON)));
        assert_eq!(filter.filter(&nodes.nodes["b"]), Ok(()));
        assert_eq!(filter.filter(&nodes.nodes["c"]), Err(Refusal::unresolvable(REASON_NO_LABEL)));
    }
}
