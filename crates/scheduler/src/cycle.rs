//! One decision, as a pure function: from a pod and a snapshot to a node, or to the reasons against all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::explain::{NodeScore, NodeVerdict, PluginScore, Trace};
use crate::framework::{Filter, Point, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::snapshot::Snapshot;

/// Below so many nodes all are looked at, and so many possible ones are always enough.
const MIN_FEASIBLE: usize = 100;
/// However many nodes there are, so many percent are looked for.
const MIN_PERCENTAGE: usize = 5;

/// A refusal, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The plugin that refused.
    pub plugin: &'static str,
    /// Why.
    pub refusal: Refusal,
}

/// Why no node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// The verdict per node, which is named by its [turn](Snapshot::nth).
    pub refused: Vec<(usize, Refused)>,
    /// Set when a plugin refused the pod before any node was looked at.
    pub before_nodes: Option<Refused>,
    /// The plugins that left only some nodes to be looked at.
    pub narrowed_by: BTreeSet<&'static str>,
    /// What PostFilter said.
    pub post_filter: String,
}

impl FitError {
    /// The plugins that refused, whose events can unblock the pod.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        let refused = self.refused.iter().map(|(_, refused)| refused).chain(&self.before_nodes);
        refused.map(|refused| refused.plugin).chain(self.narrowed_by.iter().copied()).collect()
    }

    /// `0/2 nodes are available: 2 Insufficient cpu.`: the reasons counted and sorted, as upstream words them.
    pub fn message(&self) -> String {
        if self.nodes == 0 && self.before_nodes.is_none() {
            return "no nodes available to schedule pods".into();
        }
        let reasons = match &self.before_nodes {
            Some(refused) => refused.refusal.message(),
            None => {
                let explicit = self.refused.iter().map(|(_, refused)| &refused.refusal);
                let absent = (!self.narrowed_by.is_empty()).then(|| {
                    let plugins = self.narrowed_by.iter().copied().collect::<Vec<_>>().join(" ");
                    format!("node(s) didn't satisfy plugin(s) [{plugins}]")
                });
                let absent =
                    absent.iter().flat_map(|why| std::iter::repeat_n(&why[..], self.nodes - self.refused.len()));
                histogram(explicit.flat_map(|refusal| refusal.reasons.iter().map(AsRef::as_ref)).chain(absent))
            }
        };
        let mut text = no_node_available(self.nodes, &reasons);
        if !self.post_filter.is_empty() {
            text.push(' ');
            text.push_str(&self.post_filter);
        }
        text
    }
}

/// `0/2 nodes are available: 2 Insufficient cpu.`
pub fn no_node_available(nodes: usize, reasons: &str) -> String {
    match reasons {
        "" => format!("0/{nodes} nodes are available"),
        reasons => format!("0/{nodes} nodes are available: {reasons}."),
    }
}

/// `2 Insufficient cpu, 1 node(s) had untolerated taint(s)`: counted reasons, sorted as text.
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<_> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

enum Prepared<'a> {
    Own(Box<dyn Filter + 'a>),
    Shared(&'a (dyn Filter + 'a)),
}

impl<'a> Prepared<'a> {
    fn filter(&self) -> &(dyn Filter + 'a) {
        match self {
            Prepared::Own(own) => own.as_ref(),
            Prepared::Shared(shared) => *shared,
        }
    }
}

/// The filters of a profile, prepared for one pod.
pub struct Filters<'a> {
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    filters: Vec<(&'static str, Prepared<'a>)>,
    only: Option<BTreeSet<String>>,
    narrowed_by: BTreeSet<&'static str>,
}

impl<'a> Filters<'a> {
    /// Lets every plugin look at the pod and the snapshot; fails if one refuses all nodes at once.
    pub fn prepare(profile: &'a Profile, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Result<Self, Refused> {
        let mut all = Filters { pod, snapshot, filters: Vec::new(), only: None, narrowed_by: BTreeSet::new() };
        for plugin in profile.at(Point::Filter) {
            let name = plugin.name();
            let prepared = plugin.filter(pod, snapshot).map_err(|refusal| Refused { plugin: name, refusal })?;
            all.filters.extend(prepared.filter.map(|filter| (name, Prepared::Own(filter))));
            if let Some(only) = prepared.only {
                all.narrowed_by.insert(name);
                let both = all.only.map_or(only.clone(), |known| known.intersection(&only).cloned().collect());
                if both.is_empty() {
                    let plugins: Vec<_> = all.narrowed_by.iter().copied().collect();
                    let reason = match plugins[..] {
                        [one] => format!("node(s) didn't satisfy plugin {one}"),
                        _ => format!("node(s) didn't satisfy plugin(s) [{}] simultaneously", plugins.join(" ")),
                    };
                    return Err(Refused { plugin: name, refusal: Refusal::unresolvable(reason) });
                }
                all.only = Some(both);
            }
        }
        Ok(all)
    }

    /// A copy for which pods can come and go in thought.
    pub fn imagine(&self) -> Filters<'_> {
        let copies = self.filters.iter().map(|(name, prepared)| {
            let filter = prepared.filter();
            (*name, filter.imagine().map_or(Prepared::Shared(filter), Prepared::Own))
        });
        Filters {
            pod: self.pod,
            snapshot: self.snapshot,
            filters: copies.collect(),
            only: None,
            narrowed_by: BTreeSet::new(),
        }
    }

    /// In thought, a pod comes to a node.
    pub fn add(&mut self, node: &mut NodeInfo, pod: &Arc<PodInfo>) {
        self.moved(pod, node, 1);
        node.add(pod.clone());
    }

    /// In thought, a pod leaves a node.
    pub fn remove(&mut self, node: &mut NodeInfo, pod: &PodInfo) {
        node.remove(&pod.key);
        self.moved(pod, node, -1);
    }

    fn moved(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        for (_, filter) in &mut self.filters {
            if let Prepared::Own(filter) = filter {
                filter.moved(pod, node, by);
            }
        }
    }

    /// The first refusal of a node, if any: with the pods for which room was made there, and without them, because
    /// they might never come.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Refused> {
        if let Some(nominated) = self.snapshot.nominated.get(&node.name) {
            let first = |other: &&Arc<PodInfo>| other.priority >= self.pod.priority && other.key != self.pod.key;
            let expected: Vec<_> = nominated.values().filter(first).collect();
            if !expected.is_empty() {
                let (mut filters, mut node) = (self.imagine(), node.clone());
                expected.into_iter().for_each(|other| filters.add(&mut node, other));
                filters.check_as_is(&node)?;
            }
        }
        self.check_as_is(node)
    }

    fn check_as_is(&self, node: &NodeInfo) -> Result<(), Refused> {
        for (plugin, filter) in &self.filters {
            filter.filter().filter(node).map_err(|refusal| Refused { plugin, refusal })?;
        }
        Ok(())
    }
}

/// How nodes are searched for; carried from one decision to the next.
pub struct Search {
    /// Whose turn it is to be looked at first, so that all nodes get their pods.
    pub start: usize,
    /// Chooses among so many equally good nodes, so that equal nodes fill evenly.
    pub tie_break: fn(usize) -> usize,
}

/// How many possible nodes are enough, of so many: all of a few, and fewer percent the more there are.
pub fn enough(nodes: usize, percentage: Option<usize>) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let adaptive = || 50usize.saturating_sub(nodes / 125).max(MIN_PERCENTAGE);
    let percentage = percentage.filter(|percentage| *percentage > 0).unwrap_or_else(adaptive);
    (nodes * percentage.min(100) / 100).max(MIN_FEASIBLE)
}

/// Decides where a pod goes: the name of the best node. A trace, if there is one, is told everything.
pub fn schedule(
    profile: &Profile,
    pod: &PodInfo,
    snapshot: &Snapshot,
    search: &mut Search,
    mut trace: Option<&mut Trace>,
) -> Result<String, Box<FitError>> {
    let nodes = snapshot.len();
    let filters = Filters::prepare(profile, pod, snapshot).map_err(|refused| FitError {
        nodes,
        before_nodes: Some(refused),
        ..Default::default()
    })?;
    let (feasible, refused) = find(profile, &filters, search);
    if let Some(trace) = trace.as_deref_mut() {
        trace.nodes = nodes;
        trace.refused = refused.iter().map(|(turn, refused)| NodeVerdict::new(snapshot.nth(*turn), refused)).collect();
    }
    match feasible[..] {
        [] => Err(FitError { nodes, refused, narrowed_by: filters.narrowed_by, ..Default::default() }.into()),
        [only] => {
            if let Some(trace) = trace {
                trace.scores = vec![NodeScore { node: only.name.clone(), total: 0, plugins: Vec::new() }];
            }
            Ok(only.name.clone())
        }
        _ => {
            let totals = score(profile, pod, snapshot, &feasible, trace);
            let best = totals.iter().copied().max().unwrap_or_default();
            let winners: Vec<_> = feasible.iter().zip(&totals).filter(|(_, total)| **total == best).collect();
            Ok(winners[(search.tie_break)(winners.len())].0.name.clone())
        }
    }
}

/// The possible nodes, as many as are enough, and the verdicts on those that are not.
fn find<'a>(
    profile: &Profile,
    filters: &Filters<'a>,
    search: &mut Search,
) -> (Vec<&'a NodeInfo>, Vec<(usize, Refused)>) {
    let (snapshot, pod) = (filters.snapshot, filters.pod);
    // Where room was made for the pod it goes first.
    if let Some(node) = pod.nominated_node().and_then(|name| snapshot.node(name))
        && filters.only.as_ref().is_none_or(|only| only.contains(&node.name))
        && filters.check(node).is_ok()
    {
        return (vec![node], Vec::new());
    }
    let (mut feasible, mut refused) = (Vec::new(), Vec::new());
    let nodes = snapshot.len();
    let enough = enough(filters.only.as_ref().map_or(nodes, BTreeSet::len), profile.percentage);
    let mut looked_at = 0;
    let turns: Box<dyn Iterator<Item = usize>> = match &filters.only {
        None => Box::new((0..nodes).map(|n| (search.start + n) % nodes)),
        Some(only) => {
            let mut turns: Vec<_> = only.iter().filter_map(|name| snapshot.turn(name)).collect();
            turns.sort_unstable_by_key(|turn| (turn + nodes - search.start) % nodes);
            Box::new(turns.into_iter())
        }
    };
    for turn in turns {
        if feasible.len() >= enough {
            break;
        }
        looked_at += 1;
        let node = snapshot.nth(turn);
        match filters.check(node) {
            Ok(()) => feasible.push(node),
            Err(why) => refused.push((turn, why)),
        }
    }
    if filters.only.is_none() {
        search.start = (search.start + looked_at) % nodes.max(1);
    }
    (feasible, refused)
}

/// The weighted sum of all plugins' scores, per feasible node.
fn score<'a>(
    profile: &'a Profile,
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    feasible: &[&'a NodeInfo],
    trace: Option<&mut Trace>,
) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    let mut told = Vec::new();
    for (plugin, weight) in profile.scores() {
        let Some(score) = plugin.score(pod, snapshot, feasible) else { continue };
        let mut scores: Vec<i64> = feasible.iter().map(|node| score.score(node)).collect();
        let raw = trace.is_some().then(|| scores.clone());
        score.normalize(&mut scores, feasible);
        for (total, own) in totals.iter_mut().zip(&scores) {
            *total += own * weight;
        }
        told.extend(raw.map(|raw| (plugin.name(), weight, raw, scores)));
    }
    if let Some(trace) = trace {
        let all = feasible.iter().enumerate().map(|(at, node)| NodeScore {
            node: node.name.clone(),
            total: totals[at],
            plugins: told
                .iter()
                .map(|(plugin, weight, raw, normalized)| PluginScore {
                    plugin: (*plugin).into(),
                    raw: raw[at],
                    normalized: normalized[at],
                    weight: *weight,
                })
                .collect(),
        });
        trace.scores = all.collect();
        trace.scores.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.node.cmp(&b.node)));
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::default_profile;
    use crate::testing::{decide, first, node, pod, snapshot};

    fn refusal(pod: crate::testing::TestPod, nodes: &Snapshot) -> String {
        decide(pod, nodes).unwrap_err().message()
    }

    #[test]
    fn the_message_counts_reasons_as_upstream_does() {
        let nodes = snapshot(vec![
            node("a").cpu("1"),
            node("b").cpu("1"),
            node("c").cpu("8").taint("dedicated", "db", "NoSchedule"),
        ]);
        assert_eq!(
            refusal(pod("p").cpu("4"), &nodes),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
    }

    #[test]
    fn without_nodes_the_message_says_so() {
        assert_eq!(refusal(pod("p"), &Snapshot::default()), "no nodes available to schedule pods");
    }

    #[test]
    fn nodes_that_are_not_looked_at_are_counted_by_whom() {
        let nodes = snapshot(vec![node("a").cpu("1"), node("b"), node("c")]);
        let on = |names: &[&str]| {
            serde_json::json!({ "nodeSelectorTerms": [{ "matchFields": [
                { "key": "metadata.name", "operator": "In", "values": names }] }] })
        };
        let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        assert_eq!(
            refusal(pod("p").cpu("2").set(required, on(&["a"])), &nodes),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
        );
    }

    #[test]
    fn the_emptier_of_two_nodes_wins() {
        let nodes = snapshot(vec![node("a").cpu("4").with(pod("x").cpu("2")), node("b").cpu("4")]);
        assert_eq!(decide(pod("p").cpu("1"), &nodes).unwrap(), "b");
    }

    #[test]
    fn the_tie_break_chooses_among_equals() {
        let nodes = snapshot(vec![node("a"), node("b"), node("c")]);
        let (profile, pod) = (default_profile(), pod("p").info());
        for (tie_break, expected) in [(first as fn(usize) -> usize, "a"), (|_| 1, "b"), (|_| 2, "c")] {
            let mut search = Search { start: 0, tie_break };
            assert_eq!(schedule(&profile, &pod, &nodes, &mut search, None).unwrap(), expected);
        }
    }

    #[test]
    fn the_more_nodes_there_are_the_smaller_a_part_is_enough() {
        for (nodes, percentage, expected) in [
            (10, None, 10),
            (99, None, 99),
            (100, None, 100),
            (1000, None, 420),
            (5000, None, 500),
            (6000, None, 300),
            (15000, None, 750),
            (1000, Some(0), 420),
            (1000, Some(40), 400),
            (1000, Some(1), 100),
            (1000, Some(100), 1000),
        ] {
            assert_eq!(enough(nodes, percentage), expected, "{nodes} {percentage:?}");
        }
    }

    #[test]
    fn the_next_search_starts_where_the_last_one_ended() {
        let nodes = snapshot((0..200).map(|n| node(&format!("n{n:03}"))).collect());
        let (profile, pod) = (default_profile(), pod("p").info());
        let mut search = Search { start: 0, tie_break: first };
        let mut decide = || schedule(&profile, &pod, &nodes, &mut search, None).unwrap();
        assert_eq!([decide(), decide(), decide()], ["n000", "n100", "n000"]);
    }

    #[test]
    fn where_room_was_made_the_pod_goes_first_and_others_of_less_importance_do_not() {
        let mut nodes = snapshot(vec![node("a").cpu("2"), node("b").cpu("2").with(pod("x").cpu("1"))]);
        let nominated = pod("p").cpu("1").priority(5).set("/status/nominatedNodeName", "b".into());
        nodes
            .nominated
            .entry("a".into())
            .or_default()
            .insert(coracle_client::ObjectKey::new("default", "q"), Arc::new(pod("q").cpu("2").priority(3).info()));
        assert_eq!(decide(nominated, &nodes).unwrap(), "b");
        assert_eq!(decide(pod("lower").cpu("1").priority(1), &nodes).unwrap(), "b");
        assert_eq!(decide(pod("higher").cpu("1").priority(9), &nodes).unwrap(), "a");
    }
}
