//! ReplicaSet (and ReplicationController): so many pods of one template, whatever happens.
//!
//! Watches its own kind and pods. A pod's change is its controller's key; an orphan's change is the key of
//! every ReplicaSet in the namespace whose selector matches. For each key: claim the pods, compare their
//! number with `spec.replicas`, create or delete the difference, write the status.

mod kinds;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::written::replace_status;
use coracle_client::{
    EventType, Informer, ObjectKey, Requeue, WorkQueue, controller_of, controller_reference, object_reference,
};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;

use crate::claim;
use crate::context::{Context, enqueue_changes};
use crate::error::Result;
use crate::pod_control::PodControl;
use crate::pods;
use kinds::Replicator;
use plan::{Observed, Plan};

/// Runs the ReplicaSet controller.
pub(crate) async fn run_replica_sets(context: Context) {
    run::<ReplicaSet>(context).await;
}

/// Runs the ReplicationController controller.
pub(crate) async fn run_replication_controllers(context: Context) {
    run::<ReplicationController>(context).await;
}

async fn run<K: Replicator>(context: Context) {
    let queue = WorkQueue::new();
    let controller = ReplicaSetController::<K> {
        owners: context.informer(),
        pods: context.informer(),
        control: PodControl::new(context.client.clone(), context.recorder(K::CONTROLLER)),
    };
    claim::index_by_controller(&controller.owners);
    claim::index_by_controller(&controller.pods);
    enqueue_changes(&controller.owners, &queue);
    controller.control.follow(&controller.pods, &controller.owners, &queue, plan::is_the_same, |owner, pod| {
        owner.selector().is_ok_and(|selector| claim::matches(&selector, pod))
    });
    controller.owners.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    context.work(K::CONTROLLER, &queue, |key| controller.sync(key)).await;
}

struct ReplicaSetController<K> {
    owners: Informer<K>,
    pods: Informer<Pod>,
    control: PodControl,
}

impl<K: Replicator> ReplicaSetController<K> {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(owner) = self.owners.get(&key) else {
            self.control.expectations.forget(&key);
            return Ok(Requeue::Never);
        };
        let satisfied = self.control.expectations.satisfied(&key);
        let claimed = claim::claim(&self.control.client, owner.as_ref(), &owner.selector()?, &self.pods).await?;
        let active: Vec<_> = claimed.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let mut failure = None;
        if satisfied && owner.meta().deletion_timestamp.is_none() {
            failure = self.manage(&key, &owner, active.clone()).await;
        }
        let now = coracle_clock::now();
        let observed = Observed {
            active: &active,
            terminating: claimed.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count(),
            wanted: owner.replicas(),
            min_ready_seconds: owner.min_ready_seconds(),
            template_labels: template_labels(owner.as_ref()),
            generation: owner.meta().generation,
            failure: failure.as_ref().map(ToString::to_string),
        };
        self.write_status(&owner, &observed).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        let next = active.iter().filter_map(|pod| pods::available_in(pod, owner.min_ready_seconds(), now));
        Ok(next.filter(|wait| !wait.is_zero()).min().map_or(Requeue::Never, Requeue::After))
    }

    async fn manage(&self, key: &ObjectKey, owner: &Arc<K>, active: Vec<Arc<Pod>>) -> Option<crate::Error> {
        let reference = object_reference(owner.as_ref());
        match plan::plan(active, owner.replicas(), || self.related_on_node(owner), coracle_clock::now()) {
            Plan::Nothing => None,
            Plan::Create(count) => {
                let Some(template) = owner.template() else {
                    self.control.recorder.event(&reference, EventType::Warning, "FailedCreate", "no pod template");
                    return None;
                };
                let pod = pods::from_template(template, &owner.name_any(), controller_reference(owner.as_ref()));
                self.control.create(key, &reference, vec![pod; count]).await.err()
            }
            Plan::Delete(pods) => self.control.delete(key, &reference, &pods).await.err(),
        }
    }

    /// How many active pods each node holds of all owners that share this one's controller (a Deployment).
    fn related_on_node(&self, owner: &Arc<K>) -> BTreeMap<String, usize> {
        let family = match controller_of(owner.meta()) {
            Some(parent) => claim::dependents(&self.owners, &parent.uid),
            None => vec![owner.clone()],
        };
        let mut counts = BTreeMap::new();
        for pod in family.iter().flat_map(|member| claim::dependents(&self.pods, &member.uid().unwrap_or_default())) {
            if pods::is_active(&pod) {
                *counts.entry(pods::node_name(&pod).to_owned()).or_default() += 1;
            }
        }
        counts
    }

    async fn write_status(&self, owner: &Arc<K>, observed: &Observed<'_>) -> Result<()> {
        let old = owner.status();
        let mut new = plan::status(&old, observed, coracle_clock::now_seconds());
        if owner.template().is_none() {
            new.fully_labeled_replicas = Some(0);
        }
        let mut changed = owner.as_ref().clone();
        changed.set_status(new);
        // Compared through the kind's own status, which may not hold every field.
        if pods::same_status(&changed.status(), &old) {
            return Ok(());
        }
        replace_status(&self.control.client, &owner.namespace().unwrap_or_default(), &owner.name_any(), &changed)
            .await?;
        Ok(())
    }
}

fn template_labels<K: Replicator>(owner: &K) -> BTreeMap<String, String> {
    owner.template().and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default()
}
