//! NodeUnschedulable: a cordoned node takes no new pods, unless they tolerate that.

use coracle_client::scheduling::tolerates;
use k8s_openapi::api::core::v1::Taint;

use crate::framework::{ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal};
use crate::node::{NodeInfo, is_cordoned};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) were unschedulable";
const TAINT: &str = "node.kubernetes.io/unschedulable";

#[derive(Debug)]
pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdd, ClusterEvent::NodeTaintChange, ClusterEvent::PodTolerationChange]
    }

    fn hint(&self, _: &PodInfo, happened: &Happening) -> bool {
        let Object::Node(old, Some(new)) = &happened.object else { return true };
        !is_cordoned(new) && old.as_ref().is_none_or(|old| is_cordoned(old))
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let taint = Taint { key: TAINT.into(), effect: "NoSchedule".into(), ..Default::default() };
        let tolerated = pod.tolerations().iter().any(|toleration| tolerates(toleration, &taint));
        if tolerated { Prepared::none() } else { Prepared::filter(Cordon) }
    }
}

struct Cordon;

impl Filter for Cordon {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.cordoned { Err(Refusal::unresolvable(REASON)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{filtered, node, pod, snapshot};

    #[test]
    fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
        let nodes = snapshot(vec![node("open"), node("closed").set("/spec/unschedulable", true.into())]);
        let tolerant =
            pod("p").set("/spec/tolerations", json!([{ "key": TAINT, "operator": "Exists", "effect": "NoSchedule" }]));
        for (pod, on, expected) in [
            (pod("p"), "open", Ok(())),
            (pod("p"), "closed", Err(Refusal::unresolvable(REASON))),
            (tolerant, "closed", Ok(())),
        ] {
            assert_eq!(filtered(&NodeUnschedulable, pod, &nodes, on), expected);
        }
    }

    #[test]
    fn only_a_node_that_opens_helps() {
        let open = node("n").info().node;
        let closed = node("n").set("/spec/unschedulable", true.into()).info().node;
        for (old, new, expected) in
            [(None, &open, true), (None, &closed, false), (Some(&closed), &open, true), (Some(&open), &open, false)]
        {
            let happened = Happening {
                events: vec![ClusterEvent::NodeTaintChange],
                object: Object::Node(old.cloned(), Some(new.clone())),
            };
            assert_eq!(NodeUnschedulable.hint(&pod("p").info(), &happened), expected);
        }
    }
}
