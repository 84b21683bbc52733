//! InterPodAffinity: pods that want to be near others, or away from them.
//!
//! A term names pods (label selector, namespaces) and a topology key: "near" means a node with the same
//! value of that key. The anti-affinity of pods that already run counts too: who came first may keep others away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_api::selector::Selector;
use k8s_openapi::api::core::v1::{PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, MAX_NODE_SCORE, Plugin, PreFilter, Refusal, Score};

const REASON_AFFINITY: &str = "node(s) didn't match pod affinity rules";
const REASON_ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const REASON_EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
/// What the required affinity of a running pod is worth to a newcomer that matches it.
const HARD_AFFINITY_WEIGHT: i64 = 1;

#[derive(Debug)]
pub(super) struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::{AssignedPodChanged, AssignedPodRemoved, NodeChanged, PodChanged};
        &[AssignedPodChanged, AssignedPodRemoved, NodeChanged, PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let near = Term::all(required(pod, Kind::Affinity), pod);
        let away = Term::all(required(pod, Kind::AntiAffinity), pod);
        let mut rules = Rules { near: Vec::new(), away: BTreeSet::new(), kept_out: BTreeSet::new() };
        rules.near = near.iter().map(|term| (term.key.clone(), BTreeSet::new())).collect();
        for node in snapshot.nodes.values() {
            for other in of_interest(pod, node) {
                // All affinity terms are satisfied by the same pods, as upstream counts them.
                if !near.is_empty() && near.iter().all(|term| term.matches(other, snapshot)) {
                    for (key, values) in &mut rules.near {
                        values.extend(node.labels().get(key).cloned());
                    }
                }
                let place = |term: &Term| Some((term.key.clone(), node.labels().get(&term.key)?.clone()));
                rules.away.extend(away.iter().filter(|term| term.matches(other, snapshot)).filter_map(place));
                let theirs = Term::all(required(other, Kind::AntiAffinity), other);
                rules.kept_out.extend(theirs.iter().filter(|term| term.matches(pod, snapshot)).filter_map(place));
            }
        }
        // The first of a group that wants its own kind may go anywhere.
        let nowhere = rules.near.iter().all(|(_, values)| values.is_empty());
        let first = nowhere && near.iter().all(|term| term.matches(pod, snapshot));
        if first {
            rules.near.clear();
        }
        let opinion = !(rules.near.is_empty() && rules.away.is_empty() && rules.kept_out.is_empty());
        Ok(opinion.then(|| Box::new(rules) as Box<dyn Filter>))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let own = weighted(pod);
        let mut sums = BTreeMap::new();
        for node in snapshot.nodes.values() {
            for other in of_interest(pod, node) {
                let mut credit = |term: &Term, weight: i64, matches: bool| {
                    if let Some(value) = node.labels().get(&term.key).filter(|_| matches) {
                        *sums.entry((term.key.clone(), value.clone())).or_default() += weight;
                    }
                };
                for (term, weight) in &own {
                    credit(term, *weight, term.matches(other, snapshot));
                }
                for (term, weight) in weighted(other) {
                    credit(&term, weight, term.matches(pod, snapshot));
                }
                for term in Term::all(required(other, Kind::Affinity), other) {
                    credit(&term, HARD_AFFINITY_WEIGHT, term.matches(pod, snapshot));
                }
            }
        }
        (!sums.is_empty()).then(|| Box::new(Sums(sums)) as Box<dyn Score>)
    }
}

/// The pods of a node that matter to a pod: all if it has wishes of its own, else those that have.
fn of_interest<'a>(pod: &PodInfo, node: &'a NodeInfo) -> impl Iterator<Item = &'a Arc<PodInfo>> {
    if pod.has_affinity() { node.pods.values() } else { node.with_affinity.values() }
}

#[derive(Clone, Copy)]
enum Kind {
    Affinity,
    AntiAffinity,
}

fn required(pod: &PodInfo, kind: Kind) -> &[PodAffinityTerm] {
    let Some(affinity) = &pod.spec().affinity else { return &[] };
    let terms = match kind {
        Kind::Affinity => {
            affinity.pod_affinity.as_ref().map(|a| &a.required_during_scheduling_ignored_during_execution)
        }
        Kind::AntiAffinity => {
            affinity.pod_anti_affinity.as_ref().map(|a| &a.required_during_scheduling_ignored_during_execution)
        }
    };
    terms.and_then(|terms| terms.as_deref()).unwrap_or_default()
}

/// A pod's preferences: what to be near with positive, what to be away from with negative weight.
fn weighted(pod: &PodInfo) -> Vec<(Term, i64)> {
    let Some(affinity) = &pod.spec().affinity else { return Vec::new() };
    let near = affinity.pod_affinity.as_ref();
    let near = near.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let away = affinity.pod_anti_affinity.as_ref();
    let away = away.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let terms = |list: Option<&[WeightedPodAffinityTerm]>, sign: i64| {
        let list = list.unwrap_or_default().iter();
        list.map(|w| (Term::new(&w.pod_affinity_term, pod), sign * i64::from(w.weight))).collect::<Vec<_>>()
    };
    let mut all = terms(near, 1);
    all.extend(terms(away, -1));
    all
}

/// A term of `owner`, ready to be matched.
struct Term {
    key: String,
    selector: Selector,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
}

impl Term {
    fn all(terms: &[PodAffinityTerm], owner: &PodInfo) -> Vec<Term> {
        terms.iter().map(|term| Term::new(term, owner)).collect()
    }

    fn new(term: &PodAffinityTerm, owner: &PodInfo) -> Term {
        let parse =
            |selector: &LabelSelector| Selector::from_label_selector(selector).unwrap_or_else(|_| Selector::nothing());
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        // Without namespaces and selector a term means the owner's namespace.
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(owner.key.namespace.clone());
        }
        Term {
            key: term.topology_key.clone(),
            selector: narrowed(term, owner).as_ref().map_or_else(Selector::nothing, parse),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(parse),
        }
    }

    fn matches(&self, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        let none = BTreeMap::new();
        let namespace = &pod.key.namespace;
        let selected = |selector: &Selector| selector.matches(snapshot.namespaces.get(namespace).unwrap_or(&none));
        (self.namespaces.contains(namespace) || self.namespace_selector.as_ref().is_some_and(selected))
            && self.selector.matches(pod.pod.metadata.labels.as_ref().unwrap_or(&none))
    }
}

/// The term's selector with the owner's own values of `matchLabelKeys` and against those of `mismatchLabelKeys`.
fn narrowed(term: &PodAffinityTerm, owner: &PodInfo) -> Option<LabelSelector> {
    let mut selector = term.label_selector.clone()?;
    let labels = owner.pod.metadata.labels.clone().unwrap_or_default();
    for (keys, operator) in [(&term.match_label_keys, "In"), (&term.mismatch_label_keys, "NotIn")] {
        for (key, value) in keys.iter().flatten().filter_map(|key| Some((key, labels.get(key)?))) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.into(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    Some(selector)
}

struct Rules {
    /// Per affinity term its key and the values where it is satisfied.
    near: Vec<(String, BTreeSet<String>)>,
    /// Topology key and value where the pod does not want to be.
    away: BTreeSet<(String, String)>,
    /// Topology key and value where running pods do not want it.
    kept_out: BTreeSet<(String, String)>,
}

impl Filter for Rules {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let labels = node.labels();
        if !self.near.iter().all(|(key, values)| labels.get(key).is_some_and(|value| values.contains(value))) {
            return Err(Refusal::unresolvable(REASON_AFFINITY));
        }
        let inside = |places: &BTreeSet<(String, String)>| places.iter().any(|(k, v)| labels.get(k) == Some(v));
        if inside(&self.away) {
            return Err(Refusal::unschedulable(REASON_ANTI_AFFINITY));
        }
        if inside(&self.kept_out) {
            return Err(Refusal::unschedulable(REASON_EXISTING));
        }
        Ok(())
    }
}

struct Sums(BTreeMap<(String, String), i64>);

impl Score for Sums {
    fn score(&self, node: &NodeInfo) -> i64 {
        let here = self.0.iter().filter(|((key, value), _)| node.labels().get(key) == Some(value));
        here.map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (Some(min), Some(max)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            *score = if max == min { 0 } else { MAX_NODE_SCORE * (*score - min) / (max - min) };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestPod, node, pod, snapshot};

    fn rule(app: &str) -> Value {
        json!({ "requiredDuringSchedulingIgnoredDuringExecution": [
            { "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": app } } }
        ] })
    }

    fn verdict(pod: TestPod, nodes: &Snapshot, name: &str) -> Result<(), Refusal> {
        let pod = pod.info();
        InterPodAffinity.filter(&pod, nodes).unwrap().map_or(Ok(()), |filter| filter.filter(&nodes.nodes[name]))
    }

    #[test]
    fn affinity_wants_the_zone_of_its_friends() {
        let nodes = snapshot(vec![
            node("a").label("zone", "1").with(pod("db").label("app", "db")),
            node("b").label("zone", "1"),
            node("c").label("zone", "2"),
        ]);
        let near = pod("p").set("/spec/affinity/podAffinity", rule("db"));
        assert_eq!(verdict(near.clone(), &nodes, "b"), Ok(()));
        assert_eq!(verdict(near, &nodes, "c"), Err(Refusal::unresolvable(REASON_AFFINITY)));
    }

    #[test]
    fn the_first_of_its_kind_may_go_anywhere() {
        let nodes = snapshot(vec![node("a").label("zone", "1")]);
        let first = pod("p").label("app", "db").set("/spec/affinity/podAffinity", rule("db"));
        assert_eq!(verdict(first, &nodes, "a"), Ok(()));
    }

    #[test]
    fn anti_affinity_holds_both_ways() {
        let lonely = pod("lonely").label("app", "x").set("/spec/affinity/podAntiAffinity", rule("web"));
        let nodes = snapshot(vec![
            node("a").label("zone", "1").with(lonely.clone()),
            node("b").label("zone", "2").with(pod("w").label("app", "web")),
        ]);
        assert_eq!(verdict(lonely, &nodes, "b"), Err(Refusal::unschedulable(REASON_ANTI_AFFINITY)));
        let web = pod("p").label("app", "web");
        assert_eq!(verdict(web, &nodes, "a"), Err(Refusal::unschedulable(REASON_EXISTING)));
    }
}
