//! Taint eviction: pods leave nodes with NoExecute taints that they do not tolerate (any longer).
//!
//! Watches pods and nodes; a key is a pod, and a node's change is that of all its pods. Most pods tolerate an
//! unreachable node for five minutes, so a key is usually put back for then.

use std::time::Duration;

use coracle_client::scheduling::tolerates;
use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::node_lifecycle::{BY_NODE, index_by_node};
use crate::pods;

const NAME: &str = "taint-eviction-controller";

/// How much longer the pod may stay: none is forever, zero is no longer.
fn may_stay(tolerations: &[Toleration], taints: &[Taint], now: Timestamp) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let tolerating: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if tolerating.is_empty() {
            return Some(Duration::ZERO);
        }
        let Some(seconds) = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let until = since + Duration::from_secs(seconds.max(0).unsigned_abs());
        let left = pods::until(until, now);
        shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
    }
    shortest
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = TaintEviction {
        pods: context.informer(),
        nodes: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
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
    client: Client,
    recorder: EventRecorder,
}

impl TaintEviction {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(pod) = self.pods.get(&key).filter(|pod| !pods::is_terminating(pod)) else { return Ok(Requeue::Never) };
        let node = self.nodes.get(&ObjectKey::new("", pods::node_name(&pod)));
        let taints = node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        match may_stay(tolerations, &taints, coracle_clock::now()) {
            None => Ok(Requeue::Never),
            Some(left) if !left.is_zero() => Ok(Requeue::After(left)),
            Some(_) => self.evict(&key, &pod).await,
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<Requeue> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.event(&object_reference(pod), EventType::Normal, "TaintManagerEviction", message);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(coracle_clock::now_seconds()),
        });
        let patch =
            Patch::Strategic(json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } }));
        api.patch_status(&key.name, &PatchParams::default(), &patch).await.ignore_not_found()?;
        let params = DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
        api.delete(&key.name, &params).await.ignore_not_found()?;
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (tolerations, taints, expected) in [
            (vec![], vec![], None),
            (vec![], vec![taint("x", "NoSchedule")], None),
            (vec![], vec![unreachable.clone()], Some(0)),
            (vec![toleration(five_minutes.clone())], vec![unreachable.clone()], Some(240)),
            (vec![toleration(five_minutes)], vec![unreachable.clone(), taint("x", "NoExecute")], Some(0)),
            (vec![toleration(json!({ "operator": "Exists" }))], vec![unreachable], None),
            (vec![toleration(json!({ "key": "x", "value": "y" }))], vec![taint("x", "NoExecute")], Some(0)),
        ] {
            let stay = may_stay(&tolerations, &taints, now);
            assert_eq!(stay, expected.map(Duration::from_secs), "{tolerations:?} {taints:?}");
        }
    }
}
