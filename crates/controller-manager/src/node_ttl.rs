//! TTL: how long a kubelet may keep Secrets and ConfigMaps before it asks for them again, longer in larger clusters.
//!
//! Watches nodes; a key is a node, and when the cluster has grown or shrunk enough, all are. Kubelets that watch what
//! they need, as ours and upstream's do, pay no heed; what reads nodes expects the annotation.

use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "ttl-controller";
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// From how many nodes to how many a step is kept, and its seconds. Steps overlap, so that nothing flutters.
const STEPS: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// The step of a cluster of this size that was at `step`.
fn next_step(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let nodes: Informer<Node> = context.informer();
    enqueue_changes(&nodes, &queue);
    let step = AtomicUsize::new(0);
    nodes.wait_for_sync().await;
    let sync = async |key: ObjectKey| -> Result<Requeue> {
        let all = nodes.list();
        let now = next_step(step.load(Ordering::SeqCst), all.len());
        if step.swap(now, Ordering::SeqCst) != now {
            all.iter().for_each(|node| queue.add(ObjectKey::of(node.as_ref())));
        }
        let seconds = STEPS[now].2.to_string();
        if nodes.get(&key).is_some_and(|node| node.annotations().get(ANNOTATION) != Some(&seconds)) {
            let patch = Patch::Strategic(json!({ "metadata": { "annotations": { ANNOTATION: seconds } } }));
            let api: Api<Node> = Api::all(context.client.clone());
            api.patch(&key.name, &PatchParams::default(), &patch).await.ignore_not_found()?;
        }
        Ok(Requeue::Never)
    };
    context.work(NAME, &queue, sync).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_kept_until_the_cluster_is_well_past_it() {
        let seconds = |step, nodes| STEPS[next_step(step, nodes)].2;
        for (step, nodes, expected) in
            [(0, 0, 0), (0, 100, 0), (0, 101, 15), (1, 95, 15), (1, 89, 0), (0, 5000, 300), (4, 1, 0), (3, 1000, 60)]
        {
            assert_eq!(seconds(step, nodes), expected, "{step} {nodes}");
        }
    }
}
