//! Taint eviction from nodes.
//!
//! Watches pods and nodes; a key is a pod, and a node's change is that of all its pods. Most pods tolerate an
//! unreachable node for five minutes, so a key is usually put back for then.

use std::time::Duration;

use coracle_client::scheduling::tolerates;
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::ResourceExt;

use super::{Evictor, Words};
use crate::context::{Context, enqueue_changes};
use crate::error::Result;
use crate::node_lifecycle::{BY_NODE, index_by_node};
use crate::pods;

const NAME: &str = "taint-eviction-controller";

/// How much longer the pod may stay: none is forever, zero is no longer. Taints that do not say when they were added
/// count from `since`.
fn may_stay(tolerations: &[Toleration], taints: &[Taint], since: Timestamp, now: Timestamp) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let tolerating: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if tolerating.is_empty() {
            return Some(Duration::ZERO);
        }
        let Some(seconds) = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(since, |time| time.0);
        let until = pods::later(since, seconds.max(0));
        let left = pods::until(until, now);
        shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
    }
    shortest
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let words = Words {
        event: "TaintManagerEviction",
        marking: "Marking for deletion Pod {}",
        cancelling: "Cancelling deletion of Pod {}",
        reason: "DeletionByTaintManager",
        message: "Taint manager: deleting due to NoExecute taint",
    };
    let controller = TaintEviction {
        pods: context.informer(),
        nodes: context.informer(),
        evictor: Evictor::new(&context, NAME, words),
    };
    index_by_node(&controller.pods);
    enqueue_changes(&controller.pods, &queue);
    let (pods, to) = (controller.pods.clone(), queue.clone());
    controller.nodes.on_change(move |change| {
        let taints = |node: &std::sync::Arc<Node>| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        if change.old.and_then(taints) != change.new.and_then(taints) {
            let all = pods.by_index(BY_NODE, &change.object().name_any());
            all.iter().for_each(|pod| to.add(ObjectKey::of(pod.as_ref())));
        }
    });
    controller.pods.wait_for_sync().await;
    controller.nodes.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

struct TaintEviction {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    evictor: Evictor,
}

impl TaintEviction {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(pod) = self.pods.get(&key).filter(|pod| !pods::is_terminating(pod)) else {
            self.evictor.forget(&key);
            return Ok(Requeue::Never);
        };
        let node = self.nodes.get(&ObjectKey::new("", pods::node_name(&pod)));
        let taints = node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let left = may_stay(tolerations, &taints, self.evictor.since(&key), coracle_clock::now());
        self.evictor.settle(&key, &pod, left).await
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixed_point::rest;

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = |key: &str, effect: &str| -> Taint {
            serde_json::from_value(json!({ "key": key, "effect": effect, "timeAdded": "2026-01-01T00:00:00Z" }))
                .unwrap()
        };
        let toleration = |value| -> Toleration { serde_json::from_value(value).unwrap() };
        let unreachable = taint("node.kubernetes.io/unreachable", "NoExecute");
        let five_minutes = json!({ "key": "node.kubernetes.io/unreachable", "operator": "Exists",
                                   "effect": "NoExecute", "tolerationSeconds": 300 });
        let for_ever = json!({ "operator": "Exists", "tolerationSeconds": i64::MAX });
        let years = may_stay(&[toleration(for_ever)], std::slice::from_ref(&unreachable), now, now)
            .map(|stay| stay.as_secs() / 31_556_952);
        assert_eq!(years, Some(7973));
        for (tolerations, taints, expected) in [
            (vec![], vec![], None),
            (vec![], vec![taint("x", "NoSchedule")], None),
            (vec![], vec![unreachable.clone()], Some(0)),
            (vec![toleration(five_minutes.clone())], vec![unreachable.clone()], Some(240)),
            (vec![toleration(five_minutes)], vec![unreachable.clone(), taint("x", "NoExecute")], Some(0)),
            (vec![toleration(json!({ "operator": "Exists" }))], vec![unreachable], None),
            (vec![toleration(json!({ "key": "x", "value": "y" }))], vec![taint("x", "NoExecute")], Some(0)),
        ] {
            let stay = may_stay(&tolerations, &taints, now, now);
            assert_eq!(stay, expected.map(Duration::from_secs), "{tolerations:?} {taints:?}");
        }
    }

    proptest! {
        /// Looked at whenever it was said to be, a pod stays or goes, and after few looks.
        #[test]
        fn from_any_taints_and_tolerations_a_pod_comes_to_stay_or_to_go(
            taints in proptest::collection::vec(("a|b", "NoExecute|NoSchedule", proptest::option::of(0..100i64)), 0..4),
            tolerations in proptest::collection::vec((proptest::option::of("a|b"), proptest::option::of(-5..500i64)), 0..4),
        ) {
            let at = |second| Timestamp::from_second(second).unwrap();
            let taints: Vec<Taint> = taints.iter().map(|(key, effect, added)| {
                let (key, effect) = (key.clone(), effect.clone());
                Taint { key, effect, value: None, time_added: added.map(|second| Time(at(second))) }
            }).collect();
            let tolerations: Vec<Toleration> = tolerations.iter().map(|(key, toleration_seconds)| Toleration {
                key: key.clone(), operator: Some("Exists".into()), toleration_seconds: *toleration_seconds, ..Toleration::default()
            }).collect();
            let (mut looks, since) = (0, at(50));
            let (gone, last) = rest((false, since), |(gone, now)| {
                looks += 1;
                match may_stay(&tolerations, &taints, since, *now) {
                    _ if *gone => (true, *now),
                    None => (false, *now),
                    Some(left) => (left.is_zero(), *now + left),
                }
            });
            prop_assert!(looks <= 4, "{looks} looks");
            let outstays = |taint: &Taint| {
                let mut tolerating = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
                let tolerated = tolerating.peek().is_some();
                !tolerated || tolerating.any(|toleration| toleration.toleration_seconds.is_some())
            };
            prop_assert_eq!(gone, taints.iter().filter(|taint| taint.effect == "NoExecute").any(outstays));
            prop_assert!(last <= at(600));
        }
    }
}
