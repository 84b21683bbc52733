//! NodeAffinity: a pod's node selector and node affinity, required and preferred.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal, Score, default_normalize};

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

#[derive(Debug)]
pub(super) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let asks = pod.spec().node_selector.is_some() || required(pod).is_some();
        Ok(asks.then(|| Box::new(Required(pod)) as Box<dyn Filter>))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let affinity = pod.spec().affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_deref()?;
        Some(Box::new(Preferred(preferred)))
    }
}

fn required(pod: &PodInfo) -> Option<&NodeSelector> {
    let affinity = pod.spec().affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether a pod's node selector and required affinity allow a node.
pub fn node_matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let labels = node.labels();
    let selected = pod.spec().node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    selected && required(pod).is_none_or(|selector| selector_matches(selector, node))
}

/// Whether any term of a node selector matches.
pub(super) fn selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

struct Required<'a>(&'a PodInfo);

impl Filter for Required<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node_matches(self.0, node) { Ok(()) } else { Err(Refusal::unresolvable(REASON)) }
    }
}

struct Preferred<'a>(&'a [PreferredSchedulingTerm]);

impl Score for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let matching = self.0.iter().filter(|term| term_matches(&term.preference, node));
        matching.map(|term| i64::from(term.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}

/// A term matches if all its expressions (on labels) and fields (on `metadata.name`) do; an empty one matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let labels = node.labels();
    let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|e| requirement_matches(e, labels.get(&e.key).map(String::as_str)))
        && fields.iter().all(|e| requirement_matches(e, field(&e.key)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = actual.is_some_and(|actual| values.iter().any(|value| value == actual));
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|value| value.parse().ok());
        let actual = actual.and_then(|actual| actual.parse().ok());
        actual.zip(bound).is_some_and(|(actual, bound)| holds(&actual, &bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    #[test]
    fn requirements_know_all_operators() {
        let check = |operator: &str, values: &[&str], actual: Option<&str>| {
            let values = Some(values.iter().map(|value| (*value).to_owned()).collect());
            let requirement = NodeSelectorRequirement { key: "k".into(), operator: operator.into(), values };
            requirement_matches(&requirement, actual)
        };
        assert!(check("In", &["a", "b"], Some("b")));
        assert!(!check("In", &["a"], None));
        assert!(check("NotIn", &["a"], None));
        assert!(check("Exists", &[], Some("")));
        assert!(check("DoesNotExist", &[], None));
        assert!(check("Gt", &["3"], Some("4")));
        assert!(!check("Gt", &["4"], Some("4")));
        assert!(!check("Lt", &["4"], Some("four")));
    }

    #[test]
    fn an_empty_term_matches_nothing() {
        assert!(!term_matches(&NodeSelectorTerm::default(), &node("n").info()));
    }
}
