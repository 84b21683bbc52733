//! NodeAffinity: a pod's node selector and node affinity, required and preferred; and what the profile adds for
//! all pods (`addedAffinity`).

use std::collections::BTreeSet;

use coracle_client::scheduling;
use k8s_openapi::api::core::v1::{self, NodeSelector, PreferredSchedulingTerm};
use serde::Deserialize;

use crate::framework::{
    ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal, Score, default_normalize,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";
const REASON_ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";
const REASON_CONFLICT: &str = "pod affinity terms conflict";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    #[serde(default)]
    added_affinity: Option<v1::NodeAffinity>,
}

#[derive(Debug)]
pub(super) struct NodeAffinity {
    added: v1::NodeAffinity,
}

impl NodeAffinity {
    pub(super) fn new(args: Args) -> Self {
        NodeAffinity { added: args.added_affinity.unwrap_or_default() }
    }

    fn enforced(&self) -> Option<&NodeSelector> {
        self.added.required_during_scheduling_ignored_during_execution.as_ref()
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdd, ClusterEvent::NodeLabelChange]
    }

    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let Object::Node(old, Some(new)) = &happened.object else { return true };
        let wanted = |node| {
            self.enforced().is_none_or(|enforced| scheduling::selector_matches(enforced, node))
                && scheduling::node_matches(pod.spec(), node)
        };
        wanted(new) && old.as_ref().is_none_or(|old| !wanted(old))
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let required = required(pod);
        if required.is_none() && self.enforced().is_none() && pod.spec().node_selector.is_none() {
            return Prepared::none();
        }
        let only = match required.map(named_nodes) {
            Some(Some(names)) if names.is_empty() => return Err(Refusal::unresolvable(REASON_CONFLICT)),
            named => named.flatten(),
        };
        Ok(Prepared { filter: Some(Box::new(Required { enforced: self.enforced(), pod })), only })
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let own = affinity(pod).and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let added = self.added.preferred_during_scheduling_ignored_during_execution.as_ref();
        let terms: Vec<_> = own.into_iter().chain(added).flatten().collect();
        (!terms.is_empty()).then(|| Box::new(Preferred(terms)) as Box<dyn Score>)
    }
}

fn affinity(pod: &PodInfo) -> Option<&v1::NodeAffinity> {
    pod.spec().affinity.as_ref()?.node_affinity.as_ref()
}

fn required(pod: &PodInfo) -> Option<&NodeSelector> {
    affinity(pod)?.required_during_scheduling_ignored_during_execution.as_ref()
}

/// Whether a pod's node selector and required affinity allow a node.
pub(super) fn node_matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    scheduling::node_matches(pod.spec(), &node.node)
}

/// The nodes that a selector names, if each of its terms names some: then no others need to be looked at.
fn named_nodes(selector: &NodeSelector) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for term in &selector.node_selector_terms {
        let fields = term.match_fields.iter().flatten();
        let names = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
        let names = names.map(|field| field.values.iter().flatten().cloned().collect::<BTreeSet<_>>());
        all.extend(names.reduce(|a, b| a.intersection(&b).cloned().collect())?);
    }
    (!selector.node_selector_terms.is_empty()).then_some(all)
}

struct Required<'a> {
    enforced: Option<&'a NodeSelector>,
    pod: &'a PodInfo,
}

impl Filter for Required<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.enforced.is_none_or(|enforced| scheduling::selector_matches(enforced, &node.node)) {
            return Err(Refusal::unresolvable(REASON_ENFORCED));
        }
        if node_matches(self.pod, node) { Ok(()) } else { Err(Refusal::unresolvable(REASON)) }
    }
}

struct Preferred<'a>(Vec<&'a PreferredSchedulingTerm>);

impl Score for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let matching = self.0.iter().filter(|term| scheduling::term_matches(&term.preference, &node.node));
        matching.map(|term| i64::from(term.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        default_normalize(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, scored, snapshot};

    const REQUIRED: &str = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";

    fn plugin(args: Value) -> NodeAffinity {
        NodeAffinity::new(serde_json::from_value(args).unwrap())
    }

    fn term(key: &str, values: &[&str]) -> Value {
        json!({ "matchExpressions": [{ "key": key, "operator": "In", "values": values }] })
    }

    fn named(values: &[&[&str]]) -> TestPod {
        let fields = |names: &&[&str]| json!({ "key": "metadata.name", "operator": "In", "values": names });
        let fields: Vec<_> = values.iter().map(fields).collect();
        pod("p").set(REQUIRED, json!({ "nodeSelectorTerms": [{ "matchFields": fields }] }))
    }

    #[test]
    fn a_pod_goes_where_its_selector_and_any_term_of_its_affinity_allow() {
        let nodes = snapshot(vec![node("n").label("disk", "ssd").label("zone", "a")]);
        let refused = Err(Refusal::unresolvable(REASON));
        let selector = |value: &str| pod("p").set("/spec/nodeSelector", json!({ "disk": value }));
        let terms = |terms: Value| pod("p").set(REQUIRED, json!({ "nodeSelectorTerms": terms }));
        for (pod, expected) in [
            (pod("p"), Ok(())),
            (selector("ssd"), Ok(())),
            (selector("hdd"), refused.clone()),
            (terms(json!([term("disk", &["hdd"]), term("zone", &["a"])])), Ok(())),
            (terms(json!([term("disk", &["hdd"])])), refused.clone()),
            (terms(json!([{}])), refused.clone()),
            (selector("ssd").set(REQUIRED, json!({ "nodeSelectorTerms": [term("zone", &["b"])] })), refused),
            (named(&[&["n"]]), Ok(())),
            (named(&[&["n"], &["m"]]), Err(Refusal::unresolvable(REASON_CONFLICT))),
        ] {
            assert_eq!(filtered(&plugin(json!({})), pod.clone(), &nodes, "n"), expected, "{pod:?}");
        }
    }

    #[test]
    fn terms_that_all_name_nodes_leave_only_these_to_be_looked_at() {
        let (plugin, snapshot) = (plugin(json!({})), Snapshot::default());
        let only = |pod: TestPod| plugin.filter(&pod.info(), &snapshot).ok().and_then(|prepared| prepared.only);
        assert_eq!(only(named(&[&["a", "b"], &["b", "c"]])), Some(BTreeSet::from(["b".to_owned()])));
        assert_eq!(only(pod("p").set(REQUIRED, json!({ "nodeSelectorTerms": [term("zone", &["a"])] }))), None);
    }

    #[test]
    fn a_profile_can_add_affinity_to_all_pods() {
        let added = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term("pool", &["a"])] } });
        let plugin = plugin(json!({ "addedAffinity": added }));
        let nodes = snapshot(vec![node("in").label("pool", "a"), node("out")]);
        assert_eq!(filtered(&plugin, pod("p"), &nodes, "in"), Ok(()));
        assert_eq!(filtered(&plugin, pod("p"), &nodes, "out"), Err(Refusal::unresolvable(REASON_ENFORCED)));
    }

    #[test]
    fn preferred_terms_add_up() {
        let nodes = snapshot(vec![
            node("a").label("disk", "ssd").label("zone", "1"),
            node("b").label("disk", "ssd"),
            node("c"),
        ]);
        let preferred = json!([
            { "weight": 6, "preference": term("disk", &["ssd"]) }, { "weight": 2, "preference": term("zone", &["1"]) },
            { "weight": 50, "preference": {} },
        ]);
        let pod =
            pod("p").set("/spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution", preferred);
        assert_eq!(scored(&plugin(json!({})), pod, &nodes), [("a", 100), ("b", 75), ("c", 0)]);
    }
}
