//! StatefulSet: pods with names that last, each with claims of its own, coming and going in order.
//!
//! Watches StatefulSets, pods (keyed by their controller) and the deletion of claims. For each key: claim the
//! revisions and the pods, plan one step ([`plan`]), carry it out, write the status, forget old revisions.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_client::{EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};

use crate::claim;
use crate::context::{Context, enqueue_changes};
use crate::error::{Error, IgnoreNotFound, Result};
use crate::history::{History, template_of};
use crate::pod_control::PodControl;
use crate::pods;
use plan::{Action, Revision, State};

const NAME: &str = "statefulset-controller";
/// Where a StatefulSet's revisions hold their hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = StatefulSetController {
        sets: context.informer(),
        pods: context.informer(),
        claims: context.informer(),
        revisions: context.informer(),
        control: PodControl::new(context.client.clone(), context.recorder(NAME)),
    };
    claim::index_by_controller(&controller.pods);
    claim::index_by_controller(&controller.revisions);
    enqueue_changes(&controller.sets, &queue);
    controller.control.follow(&controller.pods, &controller.sets, &queue, |_, _| false, is_member);
    let (sets, to) = (controller.sets.clone(), queue.clone());
    controller.claims.on_change(move |change| {
        // A pod may wait for its former claim to be gone.
        if change.new.is_none() {
            let name = change.object().name_any();
            let owner = |set: &Arc<StatefulSet>| {
                name.rsplit_once('-').is_some_and(|(rest, _)| rest.ends_with(&format!("-{}", set.name_any())))
            };
            let owners = sets.list_namespace(&change.key().namespace).into_iter().filter(owner);
            owners.for_each(|set| to.add(ObjectKey::of(set.as_ref())));
        }
    });
    controller.sets.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    controller.claims.wait_for_sync().await;
    controller.revisions.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

/// Whether a pod is the set's by its labels and its name.
fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    let selector = claim::selector(&identity::spec(set).selector);
    identity::ordinal_of(set, pod).is_some() && selector.is_ok_and(|selector| claim::matches(&selector, pod))
}

struct StatefulSetController {
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
}

impl StatefulSetController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(set) = self.sets.get(&key) else {
            self.control.expectations.forget(&key);
            return Ok(Requeue::Never);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::Never);
        }
        let client = &self.control.client;
        // Asked before the pods are looked at: what is seen by now is in them.
        let satisfied = self.control.expectations.satisfied(&key);
        let (spec, old) = (identity::spec(&set), set.status.clone().unwrap_or_default());
        let wanted = (&spec.selector, &spec.template);
        let history =
            History::sync(client, set.as_ref(), wanted, HASH_LABEL, old.collision_count, &self.revisions).await?;
        let pods = claim::claim_if(client, set.as_ref(), |pod| is_member(&set, pod), &self.pods).await?;
        let update = Revision { name: history.update.name_any(), template: spec.template.clone() };
        let current = old.current_revision.as_deref().and_then(|name| history.get(name));
        let current =
            current.and_then(|revision| Some(Revision { name: revision.name_any(), template: template_of(revision)? }));
        let plan = plan::plan(&State {
            set: &set,
            pods: &pods,
            claim: &|name| self.claims.get(&ObjectKey::new(&key.namespace, name)),
            current: current.unwrap_or_else(|| update.clone()),
            update,
            collisions: history.collisions,
            now: coracle_clock::now(),
        });
        let done = if satisfied { self.execute(&key, &set, plan.actions).await } else { Ok(()) };
        let live = [plan.status.current_revision.clone(), old.current_revision.clone()];
        self.write_status(&set, plan.status).await?;
        done?;
        let in_use = |revision: &ControllerRevision| {
            let name = revision.name_any();
            live.contains(&Some(name.clone())) || pods.iter().any(|pod| identity::revision_of(pod) == name)
        };
        history.truncate(client, in_use, spec.revision_history_limit).await?;
        Ok(plan.again.map_or(Requeue::Never, Requeue::After))
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<()> {
        if set.status.as_ref().is_some_and(|old| pods::same_status(old, &status)) {
            return Ok(());
        }
        let changed = StatefulSet { status: Some(status), ..set.clone() };
        let api: Api<StatefulSet> = Api::namespaced(self.control.client.clone(), &set.namespace().unwrap_or_default());
        api.replace_status(&set.name_any(), &PostParams::default(), &changed).await?;
        Ok(())
    }

    /// One after the other, until one fails.
    async fn execute(&self, key: &ObjectKey, set: &StatefulSet, actions: Vec<Action>) -> Result<()> {
        let creations = actions.iter().filter(|action| matches!(action, Action::CreatePod(_))).count();
        let deletions = actions.iter().filter_map(|action| match action {
            Action::DeletePod(pod) => pod.uid(),
            _ => None,
        });
        self.control.expectations.expect_creations(key, creations);
        self.control.expectations.expect_deletions(key, deletions);
        let mut result = Ok(());
        for action in actions {
            if result.is_ok() {
                result = self.act(key, set, &action).await;
                if result.is_ok() {
                    continue;
                }
            }
            match action {
                Action::CreatePod(_) => self.control.expectations.created(key),
                Action::DeletePod(pod) => self.control.expectations.deleted(key, &pod.uid().unwrap_or_default()),
                _ => {}
            }
        }
        result
    }

    async fn act(&self, key: &ObjectKey, set: &StatefulSet, action: &Action) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.control.client.clone(), &key.namespace);
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.control.client.clone(), &key.namespace);
        match action {
            Action::CreateClaim(claim, pod) => {
                let (result, name) = (claims.create(&PostParams::default(), claim).await, claim.name_any());
                let Err(error) = result.map_err(Error::from) else {
                    self.tell(set, "create", &format!("Claim {name} Pod {pod}"), "success", None);
                    return Ok(());
                };
                if error.reason() == "AlreadyExists" {
                    return Ok(());
                }
                self.tell(set, "create", &format!("Claim {name} for Pod {pod}"), "", Some(&error.to_string()));
                let why = format!("failed to create PVC {name}: {error}");
                self.tell(set, "create", &format!("Pod {pod}"), "", Some(&why));
                Err(error)
            }
            Action::UpdateClaim(claim) => {
                claims.replace(&claim.name_any(), &PostParams::default(), claim).await.ignore_not_found()?;
                Ok(())
            }
            Action::CreatePod(pod) => {
                let result = api.create(&PostParams::default(), pod).await.map(drop).map_err(Error::from);
                match &result {
                    // Somebody else's pod has the name: said by nobody, tried again until it is gone.
                    Err(error) if error.reason() == "AlreadyExists" || error.namespace_is_terminating() => {}
                    _ => self.tell_of_pod(set, "create", pod, &result),
                }
                result
            }
            Action::UpdatePod(pod) => {
                let result = api.replace(&pod.name_any(), &PostParams::default(), pod).await.ignore_not_found();
                let result = result.map(drop);
                self.tell_of_pod(set, "update", pod, &result);
                result
            }
            Action::DeletePod(pod) => {
                // By UID: the cache may be late, and another pod have the name by now.
                let uid = Preconditions { uid: pod.uid(), resource_version: None };
                let params = DeleteParams::default().preconditions(uid);
                let deleted = api.delete(&pod.name_any(), &params).await.ignore_not_found();
                if matches!(deleted, Ok(None)) {
                    self.control.expectations.deleted(key, &pod.uid().unwrap_or_default());
                    return Ok(());
                }
                let result = deleted.map(drop);
                self.tell_of_pod(set, "delete", pod, &result);
                result
            }
            Action::Refuse(pod, why) => {
                self.tell(set, "create", &format!("Pod {pod}"), "", Some(why));
                Err(Error::Other(why.clone()))
            }
        }
    }

    fn tell_of_pod(&self, set: &StatefulSet, verb: &str, pod: &Pod, result: &Result<()>) {
        let error = result.as_ref().err().map(ToString::to_string);
        self.tell(set, verb, &format!("Pod {}", pod.name_any()), "successful", error.as_deref());
    }

    fn tell(&self, set: &StatefulSet, verb: &str, what: &str, success: &str, error: Option<&str>) {
        let noun = format!("{}{}", verb[..1].to_uppercase(), &verb[1..]);
        let (about, place) = (object_reference(set), format!("{verb} {what} in StatefulSet {}", set.name_any()));
        let recorder = &self.control.recorder;
        match error {
            None => {
                recorder.event(&about, EventType::Normal, &format!("Successful{noun}"), format!("{place} {success}"))
            }
            Some(error) => {
                let message = format!("{place} failed error: {error}");
                recorder.event(&about, EventType::Warning, &format!("Failed{noun}"), message);
            }
        }
    }
}
