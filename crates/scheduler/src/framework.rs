//! The scheduling framework: what a plugin is.
//!
//! A decision is made of small opinions. Each [`Plugin`] holds one: whether a pod may enter the queue,
//! whether a node is possible for it ([`Filter`]), how good the node is ([`Score`]). A plugin looks at
//! the pod and the [`Snapshot`] once per cycle and returns a filter or score prepared for that pod (or
//! none, if it has no opinion), which is then asked about every node.

use std::fmt::Debug;

use crate::cache::{NodeInfo, PodInfo, Snapshot};

/// The best score a node can get from one plugin.
pub const MAX_NODE_SCORE: i64 = 100;

/// Why a node is not possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reasons, as FailedScheduling counts them: `Insufficient cpu`.
    pub reasons: Vec<String>,
    /// Whether the node stays impossible even if pods were removed from it.
    pub unresolvable: bool,
}

impl Refusal {
    /// A refusal that removing pods might lift.
    pub fn unschedulable(reason: impl Into<String>) -> Self {
        Refusal { reasons: vec![reason.into()], unresolvable: false }
    }

    /// A refusal that no removal of pods lifts.
    pub fn unresolvable(reason: impl Into<String>) -> Self {
        Refusal { reasons: vec![reason.into()], unresolvable: true }
    }
}

/// A plugin's opinion on nodes, prepared for one pod.
pub trait Filter {
    /// Whether the pod could run on the node.
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal>;
}

/// A plugin's preference among the possible nodes, prepared for one pod.
pub trait Score {
    /// How good the node is; any scale, higher is better.
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings all nodes' scores to 0..=[`MAX_NODE_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// What a plugin prepared as its filter: nothing (no opinion), a filter, or a refusal of every node at once.
pub type PreFilter<'a> = Result<Option<Box<dyn Filter + 'a>>, Refusal>;

/// What happened in the cluster, as far as it can make a pod schedulable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A node came, or its labels, taints or resources changed.
    NodeChanged,
    /// A pod that has a node came or changed.
    AssignedPodChanged,
    /// A pod that had a node went, or freed resources.
    AssignedPodRemoved,
    /// The pending pod itself changed.
    PodChanged,
    /// A claim, volume or storage class changed.
    StorageChanged,
}

/// One opinion on where pods should run.
pub trait Plugin: Debug + Send + Sync {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// The events that can change a refusal by this plugin.
    fn unblocked_by(&self) -> &'static [ClusterEvent];

    /// Whether the pod may be considered at all; the message goes into its PodScheduled condition.
    fn pre_enqueue(&self, _pod: &PodInfo) -> Result<(), String> {
        Ok(())
    }

    /// The filter for a pod.
    fn filter<'a>(&'a self, _pod: &'a PodInfo, _snapshot: &'a Snapshot) -> PreFilter<'a> {
        Ok(None)
    }

    /// The score for a pod.
    fn score<'a>(&'a self, _pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        None
    }
}

/// Scales scores so that the best is [`MAX_NODE_SCORE`]; with `reverse`, so that the lowest is.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores.iter_mut() {
        *score = match (max, reverse) {
            (0, true) => MAX_NODE_SCORE,
            (0, false) => 0,
            (_, reverse) => {
                let scaled = *score * MAX_NODE_SCORE / max;
                if reverse { MAX_NODE_SCORE - scaled } else { scaled }
            }
        };
    }
}

/// The plugins in upstream's default order, each with its score's weight.
#[derive(Debug)]
pub struct Profile {
    /// Filters are asked in this order; the first refusal counts.
    pub plugins: Vec<(Box<dyn Plugin>, i64)>,
}
