//! One decision, as a pure function: from a pod and a snapshot to a node, or to the reasons against all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{Filter, Profile, Refusal};

/// The verdict on one node that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The plugin that refused it.
    pub plugin: &'static str,
    /// Why.
    pub refusal: Refusal,
}

/// Why no node fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// The verdict per node.
    pub refused: BTreeMap<String, Refused>,
    /// Set when a plugin refused the pod before any node was looked at.
    pub before_nodes: Option<Refused>,
}

impl FitError {
    /// The plugins that refused, whose events can unblock the pod.
    pub fn plugins(&self) -> BTreeSet<&'static str> {
        self.refused.values().chain(&self.before_nodes).map(|refused| refused.plugin).collect()
    }

    /// `0/2 nodes are available: 2 Insufficient cpu.`: the reasons counted and sorted, as upstream words them.
    pub fn message(&self) -> String {
        let mut text = format!("0/{} nodes are available", self.nodes);
        let reasons = match &self.before_nodes {
            Some(refused) => refused.refusal.reasons.join(", "),
            None => {
                let verdicts = self.refused.values().map(|refused| &refused.refusal);
                histogram(verdicts.flat_map(|refusal| refusal.reasons.iter().map(String::as_str)))
            }
        };
        if !reasons.is_empty() {
            text.push_str(": ");
            text.push_str(&reasons);
            text.push('.');
        }
        text
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

/// The filters of a profile, prepared for one pod.
pub struct Filters<'a>(Vec<(&'static str, Box<dyn Filter + 'a>)>);

impl<'a> Filters<'a> {
    /// Lets every plugin look at the pod and the snapshot; fails if one refuses all nodes at once.
    pub fn prepare(profile: &'a Profile, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Result<Self, Refused> {
        let mut filters = Vec::new();
        for (plugin, _) in &profile.plugins {
            match plugin.filter(pod, snapshot) {
                Ok(Some(filter)) => filters.push((plugin.name(), filter)),
                Ok(None) => {}
                Err(refusal) => return Err(Refused { plugin: plugin.name(), refusal }),
            }
        }
        Ok(Filters(filters))
    }

    /// The first refusal of a node, if any.
    pub fn check(&self, node: &NodeInfo) -> Result<(), Refused> {
        for (plugin, filter) in &self.0 {
            filter.filter(node).map_err(|refusal| Refused { plugin, refusal })?;
        }
        Ok(())
    }
}

/// Decides where a pod goes: the name of the best node.
///
/// Among equally good nodes `tie_break` (below its argument) chooses, so that equal nodes fill evenly.
pub fn schedule(
    profile: &Profile,
    pod: &PodInfo,
    snapshot: &Snapshot,
    tie_break: impl Fn(usize) -> usize,
) -> Result<String, FitError> {
    let filters = Filters::prepare(profile, pod, snapshot).map_err(|refused| FitError {
        nodes: snapshot.nodes.len(),
        before_nodes: Some(refused),
        ..Default::default()
    })?;
    let mut refused = BTreeMap::new();
    let mut feasible = Vec::new();
    for node in snapshot.nodes.values() {
        match filters.check(node) {
            Ok(()) => feasible.push(node.as_ref()),
            Err(why) => drop(refused.insert(node.name.clone(), why)),
        }
    }
    match feasible[..] {
        [] => Err(FitError { nodes: snapshot.nodes.len(), refused, before_nodes: None }),
        [only] => Ok(only.name.clone()),
        _ => {
            let totals = score(profile, pod, snapshot, &feasible);
            let best = totals.iter().copied().max().unwrap_or_default();
            let winners: Vec<_> = feasible.iter().zip(&totals).filter(|(_, total)| **total == best).collect();
            Ok(winners[tie_break(winners.len())].0.name.clone())
        }
    }
}

/// The weighted sum of all plugins' scores, per feasible node.
fn score(profile: &Profile, pod: &PodInfo, snapshot: &Snapshot, feasible: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    for (plugin, weight) in &profile.plugins {
        let Some(score) = plugin.score(pod, snapshot) else { continue };
        let mut scores: Vec<i64> = feasible.iter().map(|node| score.score(node)).collect();
        score.normalize(&mut scores);
        for (total, own) in totals.iter_mut().zip(scores) {
            *total += own * weight;
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::default_profile;
    use crate::testing::{node, pod, snapshot};

    #[test]
    fn the_message_counts_reasons_as_upstream_does() {
        let nodes = snapshot(vec![
            node("a").cpu("1"),
            node("b").cpu("1"),
            node("c").cpu("8").taint("dedicated", "db", "NoSchedule"),
        ]);
        let profile = default_profile();
        let error = schedule(&profile, &pod("p").cpu("4").info(), &nodes, |_| 0).unwrap_err();
        assert_eq!(error.message(), "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.");
    }

    #[test]
    fn without_nodes_the_message_says_so() {
        let error = schedule(&default_profile(), &pod("p").info(), &Snapshot::default(), |_| 0).unwrap_err();
        assert_eq!(error.message(), "0/0 nodes are available");
    }

    #[test]
    fn the_emptier_of_two_nodes_wins() {
        let nodes = snapshot(vec![node("a").cpu("4").with(pod("x").cpu("2")), node("b").cpu("4")]);
        assert_eq!(schedule(&default_profile(), &pod("p").cpu("1").info(), &nodes, |_| 0).unwrap(), "b");
    }

    #[test]
    fn the_tie_break_chooses_among_equals() {
        let nodes = snapshot(vec![node("a"), node("b"), node("c")]);
        for (choice, expected) in [(0, "a"), (1, "b"), (2, "c")] {
            assert_eq!(schedule(&default_profile(), &pod("p").info(), &nodes, |_| choice).unwrap(), expected);
        }
    }
}
