//! Deployment: declared rollouts, through one ReplicaSet per revision of the pod template.
//!
//! Watches Deployments, ReplicaSets (keyed by their controller) and, for the strategy Recreate, the deletion of
//! pods. For each key: claim the ReplicaSets, plan one step ([`plan`]), and carry it out.

mod plan;
mod revision;
mod sizes;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, controlled_by, controller_of, object_reference,
};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::error::{Error, IgnoreNotFound, Result};
use crate::expectations::{self, Expectations};
use crate::{claim, pods};
use plan::{Action, State};

const NAME: &str = "deployment-controller";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = DeploymentController {
        deployments: context.informer(),
        replica_sets: context.informer(),
        pods: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        expectations: Arc::default(),
    };
    claim::index_by_controller(&controller.replica_sets);
    claim::index_by_controller(&controller.pods);
    enqueue_changes(&controller.deployments, &queue);
    let (deployments, to) = (controller.deployments.clone(), queue.clone());
    let expectations = controller.expectations.clone();
    controller.replica_sets.on_change(move |change| {
        for key in claim::owners_of(&change, &deployments, adopts) {
            if change.old.is_none() {
                expectations.created(&key);
            }
            to.add(key);
        }
    });
    let (replica_sets, to) = (controller.replica_sets.clone(), queue.clone());
    controller.pods.on_change(move |change| {
        // Only Recreate waits for pods themselves: for the last of the old ones to be gone or finished.
        let settled = change.new.is_none_or(|pod| pods::is_finished(pod));
        if let (true, Some(key)) = (settled, key_of_pod(change.object(), &replica_sets)) {
            to.add(key);
        }
    });
    controller.deployments.wait_for_sync().await;
    controller.replica_sets.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

fn adopts(deployment: &Deployment, replica_set: &ReplicaSet) -> bool {
    let selector = deployment.spec.as_ref().and_then(|spec| claim::selector(&spec.selector).ok());
    selector.is_some_and(|selector| claim::matches(&selector, replica_set))
}

fn key_of_pod(pod: &Pod, replica_sets: &Informer<ReplicaSet>) -> Option<ObjectKey> {
    let namespace = pod.namespace().unwrap_or_default();
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let replica_set = replica_sets.get(&ObjectKey::new(&namespace, &owner.name))?;
    let deployment = controller_of(&replica_set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(ObjectKey::new(namespace, &deployment.name))
}

struct DeploymentController {
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    client: Client,
    recorder: EventRecorder,
    /// A revision that comes right after another must find the ReplicaSet of that one, or both exceed the surge.
    expectations: Arc<Expectations>,
}

impl DeploymentController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(deployment) = self.deployments.get(&key) else {
            self.expectations.forget(&key);
            return Ok(Requeue::Never);
        };
        if !self.expectations.satisfied(&key) {
            return Ok(Requeue::After(expectations::TIMEOUT));
        }
        let deployment = deployment.as_ref().clone();
        let label_selector = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let selector = claim::selector(&label_selector)?;
        if selector.selects_all() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.event(&object_reference(&deployment), EventType::Warning, "SelectingAll", message);
            return Ok(Requeue::Never);
        }
        let replica_sets = claim::claim(&self.client, &deployment, &selector, &self.replica_sets).await?;
        let now = coracle_clock::now_seconds();
        let state = State {
            // Only Recreate waits for pods.
            unfinished_pods: match sizes::is_rolling(&deployment) {
                true => BTreeMap::new(),
                false => self.unfinished_pods(&replica_sets),
            },
            replica_sets: replica_sets.iter().map(|rs| rs.as_ref().clone()).collect(),
            deployment: deployment.clone(),
            now,
        };
        let mut executor = Executor { controller: self, deployment, key };
        for action in plan::reconcile(state) {
            executor.execute(action).await?;
        }
        let status = executor.deployment.status.clone().unwrap_or_default();
        let next = status::deadline_at(&executor.deployment, &status);
        Ok(next
            .map_or(Requeue::Never, |at| Requeue::After(pods::until(at, now).max(std::time::Duration::from_secs(1)))))
    }

    fn unfinished_pods(&self, replica_sets: &[Arc<ReplicaSet>]) -> BTreeMap<String, usize> {
        let uids = replica_sets.iter().filter_map(|replica_set| replica_set.uid());
        let count = |uid: &str| claim::dependents(&self.pods, uid).iter().filter(|pod| !pods::is_finished(pod)).count();
        uids.map(|uid| (uid.clone(), count(&uid))).collect()
    }
}

/// Carries out a plan. Holds the Deployment as last written, since each write gives it a new version.
struct Executor<'a> {
    controller: &'a DeploymentController,
    deployment: Deployment,
    key: ObjectKey,
}

impl Executor<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.controller.client.clone(), &self.key.namespace)
    }

    fn scaled(&self, replica_set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {replica_set} from {from} to {to}");
        let about = object_reference(&self.deployment);
        self.controller.recorder.event(&about, EventType::Normal, "ScalingReplicaSet", message);
    }

    async fn execute(&mut self, action: Action) -> Result<()> {
        match action {
            Action::CreateReplicaSet(replica_set) => self.create(*replica_set).await,
            Action::UpdateReplicaSet { replica_set, scaled } => {
                let name = replica_set.name_any();
                self.api::<ReplicaSet>().replace(&name, &PostParams::default(), &replica_set).await?;
                if let Some((from, to)) = scaled {
                    self.scaled(&name, from, to);
                }
                Ok(())
            }
            Action::DeleteReplicaSet(name) => {
                self.api::<ReplicaSet>().delete(&name, &DeleteParams::background()).await.ignore_not_found()?;
                Ok(())
            }
            Action::SetRevision(revision) => {
                let patch = json!({ "metadata": { "annotations": { revision::REVISION: revision } } });
                let api = self.api::<Deployment>();
                self.deployment = api.patch(&self.key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                Ok(())
            }
            Action::UpdateStatus(status) => self.write_status(*status).await,
        }
    }

    async fn write_status(&mut self, status: DeploymentStatus) -> Result<()> {
        let old = self.deployment.status.clone().unwrap_or_default();
        if normal(old) == normal(status.clone()) {
            return Ok(());
        }
        let mut changed = self.deployment.clone();
        changed.status = Some(status);
        let api = self.api::<Deployment>();
        self.deployment = api.replace_status(&self.key.name, &PostParams::default(), &changed).await?;
        Ok(())
    }

    async fn create(&mut self, replica_set: ReplicaSet) -> Result<()> {
        let (api, name) = (self.api::<ReplicaSet>(), replica_set.name_any());
        self.controller.expectations.expect_creations(&self.key, 1);
        let error = match api.create(&PostParams::default(), &replica_set).await.map_err(Error::from) {
            Ok(created) => {
                let size = sizes::size(&created);
                if size > 0 {
                    self.scaled(&name, 0, size);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        self.controller.expectations.created(&self.key);
        if error.namespace_is_terminating() {
            return Err(error);
        }
        if error.reason() == "AlreadyExists" {
            let existing = api.get(&name).await?;
            let template =
                |rs: &ReplicaSet| rs.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
            let ours = controlled_by(&existing.metadata, self.deployment.uid().as_deref().unwrap_or_default());
            if ours && revision::equal_ignoring_hash(&template(&existing), &template(&replica_set)) {
                return Ok(()); // created a moment ago; the cache has not seen it yet
            }
            let mut status = self.deployment.status.clone().unwrap_or_default();
            status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
            self.write_status(status).await?;
            return Err(error);
        }
        let message = format!("Failed to create new replica set {name:?}: {error}");
        if status::deadline_seconds(&self.deployment).is_some() {
            let mut status = self.deployment.status.clone().unwrap_or_default();
            let condition = ("Progressing", "False", status::CREATE_ERROR, message.clone());
            status::set_condition(&mut status, condition, coracle_clock::now_seconds());
            self.write_status(status).await?;
        }
        let about = object_reference(&self.deployment);
        self.controller.recorder.event(&about, EventType::Warning, status::CREATE_ERROR, message);
        Err(error)
    }
}

/// A status with absent counts as the zeros they mean, and its conditions in one order.
fn normal(mut status: DeploymentStatus) -> DeploymentStatus {
    for count in [
        &mut status.replicas,
        &mut status.updated_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.unavailable_replicas,
        &mut status.terminating_replicas,
    ] {
        *count = Some(count.unwrap_or_default());
    }
    let conditions = status.conditions.get_or_insert_default();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    status
}
