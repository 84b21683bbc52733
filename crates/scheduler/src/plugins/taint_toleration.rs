//! TaintToleration: a node keeps away pods that do not tolerate its taints.

use coracle_client::scheduling::tolerates;
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal, Score, default_normalize};

const REASON: &str = "node(s) had untolerated taint(s)";

#[derive(Debug)]
pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        Ok(Some(Box::new(Tolerations(pod.spec().tolerations.as_deref().unwrap_or_default()))))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Tolerations(pod.spec().tolerations.as_deref().unwrap_or_default())))
    }
}

struct Tolerations<'a>(&'a [Toleration]);

impl Tolerations<'_> {
    fn untolerated<'n>(&self, node: &'n NodeInfo, effects: &'n [&str]) -> impl Iterator<Item = &'n Taint> {
        let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let tolerations = self.0.to_vec();
        taints
            .filter(move |taint| effects.contains(&taint.effect.as_str()))
            .filter(move |taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

impl Filter for Tolerations<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match self.untolerated(node, &["NoSchedule", "NoExecute"]).next() {
            None => Ok(()),
            Some(_) => Err(Refusal::unresolvable(REASON)),
        }
    }
}

impl Score for Tolerations<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.untolerated(node, &["PreferNoSchedule"]).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, true);
    }
}
