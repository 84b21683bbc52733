//! Preemption: when no node fits, whom would removing less important pods help?
//!
//! For every node that was refused for want of room, all pods of lower priority are taken off in
//! thought. If the pod then fits, the taken ones are put back one by one, most important first, as
//! long as it still fits; who could not be put back is a *victim*. The node whose victims matter least wins.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::ObjectKey;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::cycle::{Filters, FitError, histogram};
use crate::framework::Profile;

/// A node made possible, and who must go.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// The pods to remove, most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Finds the node whose victims matter least; or says why there is none, as the end of FailedScheduling's message.
pub fn preempt(profile: &Profile, pod: &PodInfo, snapshot: &Snapshot, error: &FitError) -> Result<Candidate, String> {
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    if error.before_nodes.is_some() {
        return Err(explain(error.nodes, std::iter::repeat_n(NOT_HELPFUL, error.nodes)));
    }
    let mut candidates = Vec::new();
    let mut reasons = Vec::new();
    for (name, refused) in &error.refused {
        let Some(node) = snapshot.nodes.get(name).filter(|_| !refused.refusal.unresolvable) else {
            reasons.push(NOT_HELPFUL);
            continue;
        };
        match victims(profile, pod, snapshot, node) {
            Some(victims) => candidates.push(Candidate { node: name.clone(), victims }),
            None => reasons.push(NO_VICTIMS),
        }
    }
    // Fewest important victims: lowest highest priority, then lowest sum, then fewest, then the node's name.
    candidates
        .into_iter()
        .min_by_key(|candidate| {
            let priorities = || candidate.victims.iter().map(|victim| i64::from(victim.priority));
            (priorities().max(), priorities().map(|p| p + (1 << 31)).sum::<i64>(), candidate.victims.len())
        })
        .ok_or_else(|| explain(error.nodes, reasons.into_iter()))
}

fn explain<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!("preemption: 0/{nodes} nodes are available");
    let counted = histogram(reasons);
    if !counted.is_empty() {
        text.push_str(&format!(": {counted}"));
    }
    text + "."
}

fn victims(profile: &Profile, pod: &PodInfo, snapshot: &Snapshot, node: &NodeInfo) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<_> = node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let fits = |node: &NodeInfo| {
        // Spread and affinity look at all nodes, so the thought-of node goes into a snapshot of its own.
        let mut nodes: BTreeMap<_, _> = snapshot.nodes.clone();
        nodes.insert(node.name.clone(), Arc::new(node.clone()));
        let imagined = Snapshot { nodes, namespaces: snapshot.namespaces.clone() };
        Filters::prepare(profile, pod, &imagined).is_ok_and(|filters| filters.check(node).is_ok())
    };
    let mut imagined = node.clone();
    for other in &lower {
        imagined.remove(&other.key);
    }
    if !fits(&imagined) {
        return None;
    }
    lower.sort_by(|a, b| importance(b).cmp(&importance(a)));
    lower.retain(|other| {
        imagined.add(other.clone());
        let victim = !fits(&imagined);
        if victim {
            imagined.remove(&other.key);
        }
        victim
    });
    (!lower.is_empty()).then_some(lower)
}

/// Higher priority first, then who has been running longer.
fn importance(pod: &PodInfo) -> (i32, std::cmp::Reverse<Option<jiff::Timestamp>>, &ObjectKey) {
    let started = pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    (pod.priority, std::cmp::Reverse(started), &pod.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::schedule;
    use crate::plugins::default_profile;
    use crate::testing::{node, pod, snapshot};

    fn outcome(pod: PodInfo, nodes: Snapshot) -> Result<(String, Vec<String>), String> {
        let profile = default_profile();
        let error = schedule(&profile, &pod, &nodes, |_| 0).unwrap_err();
        preempt(&profile, &pod, &nodes, &error)
            .map(|c| (c.node, c.victims.iter().map(|v| v.key.name.clone()).collect()))
    }

    #[test]
    fn only_as_many_pods_go_as_must() {
        let nodes = snapshot(vec![
            node("a").cpu("4").with(pod("small").cpu("1").priority(1)).with(pod("large").cpu("3").priority(0)),
        ]);
        let (node, victims) = outcome(pod("p").cpu("2").priority(10).info(), nodes).unwrap();
        assert_eq!((node.as_str(), victims), ("a", vec!["large".to_owned()]));
    }

    #[test]
    fn the_node_whose_victims_matter_least_wins() {
        let nodes = snapshot(vec![
            node("a").cpu("2").with(pod("x").cpu("2").priority(5)),
            node("b").cpu("2").with(pod("y").cpu("2").priority(1)),
        ]);
        assert_eq!(outcome(pod("p").cpu("2").priority(10).info(), nodes).unwrap().0, "b");
    }

    #[test]
    fn equals_are_never_pushed_out() {
        let nodes = snapshot(vec![node("a").cpu("2").with(pod("x").cpu("2"))]);
        assert_eq!(
            outcome(pod("p").cpu("2").info(), nodes).unwrap_err(),
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn a_node_that_is_wrong_whatever_runs_on_it_is_not_considered() {
        let nodes = snapshot(vec![node("a").taint("k", "v", "NoSchedule").with(pod("x").cpu("1"))]);
        assert_eq!(
            outcome(pod("p").priority(10).info(), nodes).unwrap_err(),
            "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
    }
}
