//! TaintToleration: a node keeps away pods that do not tolerate its taints.

use coracle_client::scheduling::tolerates;
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{
    ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal, Score, default_normalize,
};
use crate::node::{NodeInfo, taints};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) had untolerated taint(s)";

#[derive(Debug)]
pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter, Point::PreScore, Point::Score]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdd, ClusterEvent::NodeTaintChange, ClusterEvent::PodTolerationChange]
    }

    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let Object::Node(old, Some(new)) = &happened.object else { return true };
        let wanted = |node| untolerated(taints(node), pod.tolerations(), forbids).next().is_none();
        wanted(new) && old.as_ref().is_none_or(|old| !wanted(old))
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        Prepared::filter(Tolerations(pod.tolerations()))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Tolerations(pod.tolerations())))
    }
}

/// Whether a taint keeps pods away for sure.
pub(super) fn forbids(taint: &Taint) -> bool {
    matches!(&taint.effect[..], "NoSchedule" | "NoExecute")
}

/// The taints of some kind that nothing tolerates.
pub(super) fn untolerated<'t>(
    taints: &'t [Taint],
    tolerations: &'t [Toleration],
    kind: fn(&Taint) -> bool,
) -> impl Iterator<Item = &'t Taint> {
    let tolerated = |taint: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, taint));
    taints.iter().filter(move |taint| kind(taint) && !tolerated(taint))
}

struct Tolerations<'a>(&'a [Toleration]);

impl Filter for Tolerations<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match untolerated(&node.taints, self.0, forbids).next() {
            None => Ok(()),
            Some(_) => Err(Refusal::unresolvable(REASON)),
        }
    }
}

impl Score for Tolerations<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        untolerated(&node.taints, self.0, |taint| taint.effect == "PreferNoSchedule").count() as i64
    }

    fn normalize(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        default_normalize(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{filtered, node, pod, scored, snapshot};

    #[test]
    fn untolerated_taints_keep_pods_away_or_make_a_node_less_good() {
        let tainted = |effect| node("n").taint("dedicated", "db", effect);
        let tolerant = |effect: &str| {
            pod("p").set(
                "/spec/tolerations",
                json!([{ "key": "dedicated", "operator": "Equal", "value": "db", "effect": effect }]),
            )
        };
        let refused = Err(Refusal::unresolvable(REASON));
        for (effect, pod, expected) in [
            ("NoSchedule", pod("p"), refused.clone()),
            ("NoExecute", pod("p"), refused.clone()),
            ("PreferNoSchedule", pod("p"), Ok(())),
            ("NoSchedule", tolerant("NoSchedule"), Ok(())),
            ("NoSchedule", tolerant(""), Ok(())),
            ("NoSchedule", tolerant("NoExecute"), refused),
        ] {
            assert_eq!(filtered(&TaintToleration, pod, &snapshot(vec![tainted(effect)]), "n"), expected, "{effect}");
        }
    }

    #[test]
    fn of_nodes_that_would_rather_not_the_one_with_fewer_reasons_is_best() {
        let nodes = snapshot(vec![
            node("a"),
            node("b").taint("x", "", "PreferNoSchedule"),
            node("c").taint("x", "", "PreferNoSchedule").taint("y", "", "PreferNoSchedule"),
        ]);
        assert_eq!(scored(&TaintToleration, pod("p"), &nodes), [("a", 100), ("b", 50), ("c", 0)]);
        let tolerant = pod("p").set("/spec/tolerations", json!([{ "operator": "Exists" }]));
        assert_eq!(scored(&TaintToleration, tolerant, &nodes), [("a", 100), ("b", 100), ("c", 100)]);
    }
}
