//! Pod garbage collector: pods that nobody will finish.
//!
//! Three kinds: pods bound to a node that is no more, pods deleted before they were bound, and finished pods beyond
//! a threshold, oldest first. Watches pods and nodes; there is one key, and it is put back while there is something
//! to wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::Context;
use crate::error::{IgnoreNotFound, Result};
use crate::pods;

const NAME: &str = "pod-garbage-collector-controller";
/// How often finished pods are counted.
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing before its pods go.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Which finished pods are too many: the oldest.
fn surplus(all: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let finished = all.iter().filter(|pod| pods::is_finished(pod) && !pods::is_terminating(pod));
    let mut finished: Vec<_> = finished.cloned().collect();
    finished.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
    finished.truncate(finished.len().saturating_sub(threshold));
    finished
}

fn is_never_bound(pod: &Pod) -> bool {
    pods::is_terminating(pod) && pods::node_name(pod).is_empty()
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let collector = PodCollector {
        pods: context.informer(),
        nodes: context.informer(),
        missing: Mutex::default(),
        context: context.clone(),
    };
    let key = || ObjectKey::default();
    let (nodes, to) = (collector.nodes.clone(), queue.clone());
    collector.pods.on_change(move |change| {
        let of_missing_node = |pod: &Arc<Pod>| {
            let node = pods::node_name(pod);
            !node.is_empty() && nodes.has_synced() && nodes.get(&ObjectKey::new("", node)).is_none()
        };
        let Some(pod) = change.new else { return };
        if is_never_bound(pod) || of_missing_node(pod) {
            to.add(key());
        } else if pods::is_finished(pod) && !pods::is_terminating(pod) {
            // There is no hurry: one look for all that finish.
            to.add_after(key(), PERIOD);
        }
    });
    let to = queue.clone();
    collector.nodes.on_change(move |change| {
        if change.new.is_none() {
            to.add(key());
        }
    });
    collector.pods.wait_for_sync().await;
    collector.nodes.wait_for_sync().await;
    queue.add(key());
    context.work(NAME, &queue, |_| collector.collect()).await;
}

struct PodCollector {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when nodes that pods are bound to have been missing.
    missing: Mutex<BTreeMap<String, coracle_clock::Instant>>,
    context: Context,
}

impl PodCollector {
    async fn collect(&self) -> Result<Requeue> {
        let all = self.pods.list();
        for pod in all.iter().filter(|pod| is_never_bound(pod)) {
            self.delete(pod, None).await?;
        }
        for pod in surplus(&all, self.context.config.terminated_pod_gc_threshold) {
            self.delete(&pod, None).await?;
        }
        let (gone, waiting) = self.missing_nodes(&all);
        for pod in all.iter().filter(|pod| gone.contains(&pods::node_name(pod).to_owned())) {
            // Data may hang on this: ask the API itself.
            let node = Api::<Node>::all(self.context.client.clone()).get_opt(pods::node_name(pod)).await?;
            if node.is_none() {
                self.delete(pod, Some("PodGC: node no longer exists")).await?;
            }
        }
        Ok(waiting.map_or(Requeue::Never, Requeue::After))
    }

    /// The nodes that have been missing for long enough, and when the next one will have been.
    fn missing_nodes(&self, all: &[Arc<Pod>]) -> (Vec<String>, Option<Duration>) {
        let now = coracle_clock::instant();
        let mut missing: BTreeSet<_> = all.iter().map(|pod| pods::node_name(pod)).collect();
        missing.retain(|node| !node.is_empty() && self.nodes.get(&ObjectKey::new("", *node)).is_none());
        let missing: BTreeSet<_> = missing.into_iter().map(ToOwned::to_owned).collect();
        let mut since = self.missing.lock().expect("no code panics while it holds the missing nodes");
        since.retain(|node, _| missing.contains(node));
        let (mut gone, mut next) = (Vec::new(), None);
        for node in missing {
            let left = QUARANTINE.saturating_sub(since.entry(node.clone()).or_insert(now).elapsed());
            if left.is_zero() {
                gone.push(node);
            } else {
                next = Some(next.map_or(left, |next: Duration| next.min(left)));
            }
        }
        (gone, next)
    }

    /// Removes the pod at once. With a reason, it is marked as failed by disruption first.
    async fn delete(&self, pod: &Pod, reason: Option<&str>) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        if let Some(message) = reason.filter(|_| !pods::is_finished(pod)) {
            let now = Time(coracle_clock::now_seconds());
            let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                                    "message": message, "lastTransitionTime": now });
            let status = json!({ "phase": "Failed", "conditions": [condition] });
            let patch = Patch::Strategic(json!({ "metadata": { "uid": pod.uid() }, "status": status }));
            api.patch_status(&name, &PatchParams::default(), &patch).await.ignore_not_found()?;
        }
        let uid = Preconditions { uid: pod.uid(), resource_version: None };
        api.delete(&name, &DeleteParams::default().grace_period(0).preconditions(uid)).await.ignore_not_found()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_finished_pods_beyond_the_threshold_go() {
        let pod = |name: &str, phase: &str, day: u8| -> Arc<Pod> {
            let created = format!("2026-01-0{day}T00:00:00Z");
            let value =
                json!({ "metadata": { "name": name, "creationTimestamp": created }, "status": { "phase": phase } });
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let all =
            [pod("new", "Failed", 5), pod("old", "Succeeded", 1), pod("runs", "Running", 1), pod("mid", "Failed", 3)];
        let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
        assert_eq!(names(surplus(&all, 1)), ["old", "mid"]);
        assert!(surplus(&all, 3).is_empty());
    }
}
