//! NodeUnschedulable: a cordoned node takes no new pods, unless they tolerate that.

use coracle_client::scheduling::tolerates;
use k8s_openapi::api::core::v1::Taint;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal};

const REASON: &str = "node(s) were unschedulable";
const TAINT: &str = "node.kubernetes.io/unschedulable";

#[derive(Debug)]
pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let taint = Taint { key: TAINT.into(), effect: "NoSchedule".into(), ..Default::default() };
        let tolerated = pod.spec().tolerations.iter().flatten().any(|toleration| tolerates(toleration, &taint));
        Ok((!tolerated).then(|| Box::new(Cordon) as Box<dyn Filter>))
    }
}

struct Cordon;

impl Filter for Cordon {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        if cordoned { Err(Refusal::unresolvable(REASON)) } else { Ok(()) }
    }
}
