//! NodeAffinity: a pod's node selector and node affinity, required and preferred.

use coracle_client::scheduling;
use k8s_openapi::api::core::v1::PreferredSchedulingTerm;

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
        let affinity = pod.spec().affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let asks = pod.spec().node_selector.is_some() || affinity.is_some();
        Ok(asks.then(|| Box::new(Required(pod)) as Box<dyn Filter>))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let affinity = pod.spec().affinity.as_ref()?.node_affinity.as_ref()?;
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_deref()?;
        Some(Box::new(Preferred(preferred)))
    }
}

/// Whether a pod's node selector and required affinity allow a node.
pub fn node_matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    scheduling::node_matches(pod.spec(), &node.node)
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
        let matching = self.0.iter().filter(|term| scheduling::term_matches(&term.preference, &node.node));
        matching.map(|term| i64::from(term.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, false);
    }
}
