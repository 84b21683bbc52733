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
use crate::topology::Counts;

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
        let own = pod.affinity.as_deref();
        let counts = |term: &Term| snapshot.counts(&term.key);
        let mut rules = Rules {
            pod,
            snapshot,
            near: own.iter().flat_map(|own| &own.near).map(counts).collect(),
            away: own.iter().flat_map(|own| &own.away).map(counts).collect(),
            kept_out: BTreeMap::new(),
        };
        for alike in snapshot.alikes() {
            rules.count(&alike.pod, alike.nodes.iter().map(|(place, count)| (*place, *count)));
        }
        let silent = rules.near.is_empty() && rules.away.is_empty();
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
        let mut sums = BTreeMap::new();
        for alike in snapshot.alikes() {
            let means = |term: &Term, other: &PodInfo| term.matches(other, &snapshot.namespaces);
            let ours = own.iter().filter(|(term, _)| means(term, &alike.pod)).map(|(term, weight)| (term, *weight));
            let affinity = alike.pod.affinity.as_deref();
            let hard =
                affinity.iter().flat_map(|theirs| &theirs.near).map(|term| (term, self.0.hard_pod_affinity_weight));
            let soft = affinity.iter().flat_map(|theirs| &theirs.preferred).map(|(term, weight)| (term, *weight));
            let theirs = hard.filter(|(_, weight)| *weight > 0).chain(soft).filter(|(term, _)| means(term, pod));
            for (term, weight) in ours.chain(theirs) {
                let counts = by_key(&mut sums, &term.key, snapshot);
                alike.nodes.iter().for_each(|(place, count)| counts.add(*place, count * weight));
            }
        }
        (!sums.is_empty()).then(|| Box::new(Sums(sums.into_values().collect())) as Box<dyn Score>)
    }
}

/// The counts by a key, of several.
fn by_key<'a>(all: &'a mut BTreeMap<String, Counts>, key: &str, snapshot: &Snapshot) -> &'a mut Counts {
    all.entry(key.to_owned()).or_insert_with(|| snapshot.counts(key))
}

/// Whether the node's value of some key has anything counted.
fn inside<'a>(counts: impl IntoIterator<Item = &'a Counts>, node: &NodeInfo) -> bool {
    counts.into_iter().any(|counts| counts.at(node).is_some_and(|count| count > 0))
}

#[derive(Clone)]
struct Rules<'a> {
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    /// Per affinity term how many pods satisfy all of them.
    near: Vec<Counts>,
    /// Per anti-affinity term how many pods are such that this one does not want to be near.
    away: Vec<Counts>,
    /// Per key where pods are that do not want this one near.
    kept_out: BTreeMap<String, Counts>,
}

impl Rules<'_> {
    /// Other pods that are alike, so many on each of the nodes at some places.
    fn count(&mut self, other: &PodInfo, nodes: impl Iterator<Item = (usize, i64)> + Clone) {
        let means = |term: &Term, other: &PodInfo| term.matches(other, &self.snapshot.namespaces);
        let add = |counts: &mut Counts| nodes.clone().for_each(|(place, by)| counts.add(place, by));
        if let Some(own) = &self.pod.affinity {
            // A pod counts for affinity only if it satisfies all terms.
            if own.near.iter().all(|term| means(term, other)) {
                self.near.iter_mut().for_each(add);
            }
            let away = own.away.iter().zip(&mut self.away);
            away.filter(|(term, _)| means(term, other)).for_each(|(_, counts)| add(counts));
        }
        let theirs = other.affinity.iter().flat_map(|affinity| &affinity.away);
        for term in theirs.filter(|term| means(term, self.pod)) {
            add(by_key(&mut self.kept_out, &term.key, self.snapshot));
        }
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let Some(own) = &self.pod.affinity else { return true };
        if !self.near.iter().all(|counts| counts.knows(node)) {
            return false;
        }
        // The first of a group that wants its own kind may go to any node that has the labels.
        self.near.iter().all(|counts| counts.at(node).is_some_and(|count| count > 0)) || {
            let nowhere = self.near.iter().all(|counts| counts.total() == 0);
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
        if inside(self.kept_out.values(), node) {
            return Err(Refusal::unschedulable(REASON_EXISTING));
        }
        Ok(())
    }

    fn imagine(&self) -> Option<Box<dyn Filter + '_>> {
        Some(Box::new(self.clone()))
    }

    fn moved(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.count(pod, std::iter::once((node.place, by)));
    }
}

struct Sums(Vec<Counts>);

impl Score for Sums {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0.iter().filter_map(|counts| counts.at(node)).sum()
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
