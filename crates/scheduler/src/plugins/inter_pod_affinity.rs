//! InterPodAffinity: pods that want to be near others, or away from them.
//!
//! A term names pods (label selector, namespaces) and a topology key: "near" means a node with the same
//! value of that key. The anti-affinity of pods that already run counts too: who came first may keep others away.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::framework::{
    ClusterEvent, Filter, Happening, MAX_NODE_SCORE, Object, Plugin, Point, PreFilter, Prepared, Refusal, Score,
};
use crate::node::{self, NodeInfo};
use crate::pod::{PodInfo, Term};
use crate::snapshot::Snapshot;

const REASON_AFFINITY: &str = "node(s) didn't match pod affinity rules";
const REASON_ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const REASON_EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Args {
    /// What the required affinity of a running pod is worth to a newcomer that it means.
    hard_pod_affinity_weight: i64,
    /// Whether the wishes of running pods count for newcomers that have none.
    ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for Args {
    fn default() -> Self {
        Args { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

#[derive(Debug)]
pub(super) struct InterPodAffinity(Args);

impl InterPodAffinity {
    pub(super) fn new(args: Args) -> Result<Self, String> {
        match args.hard_pod_affinity_weight {
            0..=100 => Ok(InterPodAffinity(args)),
            weight => Err(format!("hardPodAffinityWeight: Invalid value: {weight}: not in valid range [0-100]")),
        }
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[AssignedPodAdd, AssignedPodLabelChange, AssignedPodDelete, PodLabelChange, NodeAdd, NodeLabelChange]
    }

    /// A pod helps if it comes and is wanted, or goes and was in the way; a node if it has the labels that count.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let (none, away) = (BTreeMap::new(), pod.affinity.as_ref().map(|own| &own.away[..]).unwrap_or_default());
        let near = pod.affinity.as_ref().map(|own| &own.near[..]).unwrap_or_default();
        match &happened.object {
            Object::Pod(old, new) => {
                // A namespace's labels are not known here: a term with a namespace selector may mean any pod.
                let means = |term: &Term, other: &PodInfo| term.selects_namespaces() || term.matches(other, &none);
                let wanted = |other: &PodInfo| near.iter().any(|term| means(term, other));
                let unwanted = |other: &PodInfo| away.iter().any(|term| means(term, other));
                let keeps_out = |other: &PodInfo| {
                    let theirs = other.affinity.iter().flat_map(|affinity| &affinity.away);
                    theirs.into_iter().any(|term| means(term, pod))
                };
                new.as_deref().is_some_and(wanted)
                    || old.as_deref().is_some_and(|old| unwanted(old) || keeps_out(old))
                    // The first of its kind may go where none is any more.
                    || new.is_none() && near.iter().all(|term| means(term, pod)) && old.as_deref().is_some_and(wanted)
            }
            Object::Node(_, Some(node)) => {
                let labels = node::labels(node);
                near.iter().all(|term| labels.contains_key(&term.key))
            }
            _ => true,
        }
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let mut rules = Rules { pod, snapshot, near: vec![], away: Counts::new(), kept_out: Counts::new() };
        if let Some(own) = &pod.affinity {
            rules.near = vec![BTreeMap::new(); own.near.len()];
            if !own.near.is_empty() || !own.away.is_empty() {
                for node in snapshot.nodes() {
                    node.pods.values().for_each(|other| rules.count_own(other, node, 1));
                }
            }
        }
        for node in snapshot.nodes_with_affinity() {
            node.with_affinity.values().for_each(|other| rules.count_theirs(other, node, 1));
        }
        let silent = rules.near.is_empty() && pod.affinity.as_ref().is_none_or(|own| own.away.is_empty());
        if silent && rules.kept_out.is_empty() && snapshot.nominated.is_empty() {
            return Prepared::none();
        }
        Prepared::filter(rules)
    }

    fn score<'a>(
        &'a self,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let own = pod.affinity.as_ref().map(|own| &own.preferred[..]).unwrap_or_default();
        if own.is_empty() && self.0.ignore_preferred_terms_of_existing_pods {
            return None;
        }
        let mut sums = Counts::new();
        let mut credit = |term: &Term, node: &NodeInfo, weight: i64| count(&mut sums, &term.key, node, weight);
        if !own.is_empty() {
            for node in snapshot.nodes() {
                for other in node.pods.values() {
                    let matching = own.iter().filter(|(term, _)| term.matches(other, &snapshot.namespaces));
                    matching.for_each(|(term, weight)| credit(term, node, *weight));
                }
            }
        }
        for node in snapshot.nodes_with_affinity() {
            for theirs in node.with_affinity.values().filter_map(|other| other.affinity.as_ref()) {
                let hard = theirs.near.iter().map(|term| (term, self.0.hard_pod_affinity_weight));
                let soft = theirs.preferred.iter().map(|(term, weight)| (term, *weight));
                let all = hard.filter(|(_, weight)| *weight > 0).chain(soft);
                let matching = all.filter(|(term, _)| term.matches(pod, &snapshot.namespaces));
                matching.for_each(|(term, weight)| credit(term, node, weight));
            }
        }
        (!sums.is_empty()).then(|| Box::new(Sums(sums)) as Box<dyn Score>)
    }
}

/// Per topology key and value a number.
type Counts = BTreeMap<String, BTreeMap<String, i64>>;

fn count(counts: &mut Counts, key: &str, node: &NodeInfo, by: i64) {
    let Some(value) = node.labels().get(key) else { return };
    if !counts.contains_key(key) {
        counts.insert(key.to_owned(), BTreeMap::new());
    }
    if let Some(values) = counts.get_mut(key) {
        add(values, value, by);
    }
}

fn add(values: &mut BTreeMap<String, i64>, value: &str, by: i64) {
    match values.get_mut(value) {
        Some(count) => *count += by,
        None => drop(values.insert(value.to_owned(), by)),
    }
}

/// Whether the node's value of some key has anything counted.
fn inside(counts: &Counts, node: &NodeInfo) -> bool {
    counts.iter().any(|(key, values)| {
        let here = node.labels().get(key).and_then(|value| values.get(value));
        here.is_some_and(|count| *count > 0)
    })
}

#[derive(Clone)]
struct Rules<'a> {
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    /// Per affinity term how many pods satisfy all of them, per value of the term's key.
    near: Vec<BTreeMap<String, i64>>,
    /// Where pods are that this one does not want to be near.
    away: Counts,
    /// Where pods are that do not want this one near.
    kept_out: Counts,
}

impl Rules<'_> {
    /// Another pod, as far as this one's terms mean it.
    fn count_own(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let Some(own) = &self.pod.affinity else { return };
        let matches = |term: &Term| term.matches(other, &self.snapshot.namespaces);
        // A pod counts for affinity only if it satisfies all terms.
        if !own.near.is_empty() && own.near.iter().all(matches) {
            for (term, values) in own.near.iter().zip(&mut self.near) {
                if let Some(value) = node.labels().get(&term.key) {
                    add(values, value, by);
                }
            }
        }
        for term in own.away.iter().filter(|term| matches(term)) {
            count(&mut self.away, &term.key, node, by);
        }
    }

    /// Another pod, as far as its terms mean this one.
    fn count_theirs(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        let theirs = other.affinity.iter().flat_map(|affinity| &affinity.away);
        for term in theirs.filter(|term| term.matches(self.pod, &self.snapshot.namespaces)) {
            count(&mut self.kept_out, &term.key, node, by);
        }
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let Some(own) = &self.pod.affinity else { return true };
        let mut satisfied = true;
        for (term, values) in own.near.iter().zip(&self.near) {
            let Some(value) = node.labels().get(&term.key) else { return false };
            satisfied &= values.get(value).is_some_and(|count| *count > 0);
        }
        // The first of a group that wants its own kind may go to any node that has the labels.
        satisfied || {
            let nowhere = self.near.iter().all(|values| values.values().all(|count| *count <= 0));
            nowhere && own.near.iter().all(|term| term.matches(self.pod, &self.snapshot.namespaces))
        }
    }
}

impl Filter for Rules<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.is_near(node) {
            return Err(Refusal::unresolvable(REASON_AFFINITY));
        }
        if inside(&self.away, node) {
            return Err(Refusal::unschedulable(REASON_ANTI_AFFINITY));
        }
        if inside(&self.kept_out, node) {
            return Err(Refusal::unschedulable(REASON_EXISTING));
        }
        Ok(())
    }

    fn imagine(&self) -> Option<Box<dyn Filter + '_>> {
        Some(Box::new(self.clone()))
    }

    fn moved(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.count_own(pod, node, by);
        self.count_theirs(pod, node, by);
    }
}

struct Sums(Counts);

impl Score for Sums {
    fn score(&self, node: &NodeInfo) -> i64 {
        let here = self.0.iter().filter_map(|(key, values)| values.get(node.labels().get(key)?));
        here.sum()
    }

    fn normalize(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        let (Some(min), Some(max)) = (scores.iter().copied().min(), scores.iter().copied().max()) else { return };
        for score in scores {
            let share = if max == min { 0.0 } else { (*score - min) as f64 / (max - min) as f64 };
            *score = (MAX_NODE_SCORE as f64 * share) as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, scored, snapshot};

    const NEAR: &str = "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    const AWAY: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    const LIKES: &str = "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    const DISLIKES: &str = "/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution";

    fn plugin() -> InterPodAffinity {
        InterPodAffinity::new(Args::default()).unwrap()
    }

    fn term(app: &str) -> Value {
        json!({ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": app } } })
    }

    fn web(name: &str) -> TestPod {
        pod(name).label("app", "web")
    }

    fn db(name: &str) -> TestPod {
        pod(name).label("app", "db")
    }

    /// Zones 1 (a with db, b) and 2 (c), and d without a zone.
    fn zones(on_a: TestPod) -> Snapshot {
        snapshot(vec![
            node("a").label("zone", "1").with(on_a),
            node("b").label("zone", "1"),
            node("c").label("zone", "2"),
            node("d"),
        ])
    }

    fn verdicts(pod: TestPod, nodes: &Snapshot) -> Vec<Result<(), Refusal>> {
        ["a", "b", "c", "d"].map(|on| filtered(&plugin(), pod.clone(), nodes, on)).into()
    }

    #[test]
    fn affinity_wants_the_zone_of_its_friends() {
        let no = || Err(Refusal::unresolvable(REASON_AFFINITY));
        let near = |terms: Value| web("p").set(NEAR, terms);
        let namespaces = json!({ "topologyKey": "zone", "labelSelector": {}, "namespaces": ["other"] });
        let narrowed = json!({ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "db" } }, "matchLabelKeys": ["rev"] });
        for (pod, expected) in [
            (near(json!([term("db")])), [Ok(()), Ok(()), no(), no()]),
            (near(json!([term("other")])), [no(), no(), no(), no()]),
            // One pod must satisfy all terms.
            (near(json!([term("db"), term("web")])), [no(), no(), no(), no()]),
            (near(json!([namespaces])), [no(), no(), no(), no()]),
            (near(json!([narrowed])).label("rev", "2"), [no(), no(), no(), no()]),
            (near(json!([narrowed])).label("rev", "1"), [Ok(()), Ok(()), no(), no()]),
            // The first of its kind goes anywhere where there is a zone.
            (near(json!([term("web")])), [Ok(()), Ok(()), Ok(()), no()]),
        ] {
            assert_eq!(verdicts(pod.clone(), &zones(db("x").label("rev", "1"))), expected, "{pod:?}");
        }
    }

    #[test]
    fn a_namespace_selector_means_pods_of_all_namespaces_with_the_labels() {
        let mut nodes = zones(db("x").set("/metadata/namespace", "prod".into()));
        nodes.namespaces.insert("prod".into(), BTreeMap::from([("team".into(), "a".into())]));
        let no = || Err(Refusal::unresolvable(REASON_AFFINITY));
        for (selector, expected) in [
            (json!({ "matchLabels": { "team": "a" } }), [Ok(()), Ok(()), no(), no()]),
            (json!({ "matchLabels": { "team": "b" } }), [no(), no(), no(), no()]),
            (json!({}), [Ok(()), Ok(()), no(), no()]),
        ] {
            let mut term = term("db");
            term["namespaceSelector"] = selector;
            assert_eq!(verdicts(web("p").set(NEAR, json!([term])), &nodes), expected);
        }
    }

    #[test]
    fn anti_affinity_holds_both_ways() {
        let lonely = |name| db(name).set(AWAY, json!([term("web")]));
        let near_web = || Err(Refusal::unschedulable(REASON_ANTI_AFFINITY));
        let kept_out = || Err(Refusal::unschedulable(REASON_EXISTING));
        for (on_a, pod, expected) in [
            (web("x"), lonely("p"), [near_web(), near_web(), Ok(()), Ok(())]),
            (lonely("x"), web("p"), [kept_out(), kept_out(), Ok(()), Ok(())]),
            (lonely("x"), db("p"), [Ok(()), Ok(()), Ok(()), Ok(())]),
        ] {
            assert_eq!(verdicts(pod, &zones(on_a)), expected);
        }
    }

    #[test]
    fn wishes_add_up_from_both_sides() {
        let wish = |app: &str, weight: i64| json!([{ "weight": weight, "podAffinityTerm": term(app) }]);
        let flat = [("a", 0), ("b", 0), ("c", 0), ("d", 0)];
        let there = [("a", 100), ("b", 100), ("c", 0), ("d", 0)];
        let elsewhere = [("a", 0), ("b", 0), ("c", 100), ("d", 100)];
        for (on_a, pod, expected) in [
            (db("x"), web("p").set(LIKES, wish("db", 5)), Some(there)),
            (db("x"), web("p").set(DISLIKES, wish("db", 5)), Some(elsewhere)),
            (db("x").set(LIKES, wish("web", 5)), web("p"), Some(there)),
            (db("x").set(DISLIKES, wish("web", 5)), web("p"), Some(elsewhere)),
            (db("x").set(NEAR, json!([term("web")])), web("p"), Some(there)),
            (db("x").set(LIKES, wish("web", 5)), web("p").set(DISLIKES, wish("db", 5)), Some(flat)),
            (db("x"), web("p"), None),
        ] {
            let nodes = zones(on_a);
            let scores = scored(&plugin(), pod, &nodes);
            assert_eq!(scores, expected.map(Vec::from).unwrap_or_default());
        }
    }

    #[test]
    fn only_pods_that_matter_help() {
        let happened = |old: Option<TestPod>, new: Option<TestPod>| Happening {
            events: vec![ClusterEvent::AssignedPodAdd],
            object: Object::Pod(old.map(|pod| Arc::new(pod.info())), new.map(|pod| Arc::new(pod.info()))),
        };
        let near = web("p").set(NEAR, json!([term("db")])).info();
        let away = web("p").set(AWAY, json!([term("db")])).info();
        for (pod, old, new, expected) in [
            (&near, None, Some(db("x")), true),
            (&near, None, Some(web("x")), false),
            (&away, Some(db("x")), None, true),
            (&away, Some(web("x")), None, false),
            (&near, Some(web("x").set(AWAY, json!([term("web")]))), None, true),
        ] {
            assert_eq!(plugin().hint(pod, &happened(old, new)), expected);
        }
    }
}
