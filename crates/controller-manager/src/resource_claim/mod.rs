//! ResourceClaims: what a pod asks for in devices. A claim of a template is made for one pod, and goes with it; who
//! uses a claim is kept in its status; a claim that nobody uses any more is given back.
//!
//! Watches pods, claims and templates. Keys are pods (which claims they miss) and claims (who has reserved them); the
//! change of a claim is also its users', and the end of a pod its claims'.

mod plan;

use std::sync::Arc;

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, controller_of, object_reference, run_workers,
};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::claim::{dependents, index_by_controller};
use crate::context::Context;
use crate::error::{Error, IgnoreNotFound, Result};
use crate::expectations::Expectations;
use crate::pods;
use plan::{POD_CLAIM, from_template, is_done, plan_claim, to_make, to_reserve};
pub(crate) use plan::{claims_of, is_of, is_reserved_for};

const NAME: &str = "resourceclaim-controller";
const BY_CLAIM: &str = "resource-claim";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Pod(ObjectKey),
    Claim(ObjectKey),
}

/// The names of all claims that a pod uses, the one for its extended resources included.
fn used_by(pod: &Pod) -> Vec<String> {
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let extended = extended.map(|extended| extended.resource_claim_name.clone());
    claims_of(pod).map(|(name, _)| name.to_owned()).chain(extended).collect()
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = Controller {
        pods: context.informer(),
        claims: context.informer(),
        templates: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder("resource_claim"),
        expectations: Arc::default(),
    };
    controller.pods.add_index(BY_CLAIM, |pod| {
        let namespace = pod.namespace().unwrap_or_default();
        used_by(pod).iter().map(|name| format!("{namespace}/{name}")).collect()
    });
    index_by_controller(&controller.claims);
    let to = queue.clone();
    controller.pods.on_change(move |change| {
        let pod = change.object();
        let used = used_by(pod);
        if change.new.is_none_or(|pod| is_done(pod)) {
            let namespace = pod.namespace().unwrap_or_default();
            used.iter().for_each(|name| to.add(Key::Claim(ObjectKey::new(&namespace, name))));
        }
        if pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some()) {
            to.add(Key::Pod(change.key()));
        }
    });
    let (users, to, expectations) = (controller.pods.clone(), queue.clone(), controller.expectations.clone());
    controller.claims.on_change(move |change| {
        to.add(Key::Claim(change.key()));
        let users = users.by_index(BY_CLAIM, &change.key().to_string());
        users.iter().for_each(|pod| to.add(Key::Pod(ObjectKey::of(pod.as_ref()))));
        if let Some(owner) = controller_of(&change.object().metadata).filter(|owner| owner.kind == "Pod") {
            let owner = ObjectKey::new(change.key().namespace, &owner.name);
            if change.old.is_none() {
                expectations.created(&owner);
            }
            to.add(Key::Pod(owner));
        }
    });
    let (waiting, to) = (controller.pods.clone(), queue.clone());
    controller.templates.on_change(move |change| {
        let name = change.object().metadata.name.clone();
        for pod in waiting.list_namespace(&change.key().namespace) {
            let mut claims = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
            if claims.any(|claim| claim.resource_claim_template_name == name) {
                to.add(Key::Pod(ObjectKey::of(pod.as_ref())));
            }
        }
    });
    controller.pods.wait_for_sync().await;
    controller.claims.wait_for_sync().await;
    controller.templates.wait_for_sync().await;
    let workers = context.config.concurrent_syncs;
    run_workers(NAME, &queue, workers, &context.shutdown, |key| controller.sync(key)).await;
}

struct Controller {
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    client: Client,
    recorder: EventRecorder,
    /// The claims that were made for a pod and not seen yet.
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Result<Requeue> {
        match key {
            Key::Pod(key) => self.sync_pod(&key).await?,
            Key::Claim(key) => self.sync_claim(&key).await?,
        }
        Ok(Requeue::Never)
    }

    fn api(&self, key: &ObjectKey) -> Api<ResourceClaim> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn sync_pod(&self, key: &ObjectKey) -> Result<()> {
        let Some(pod) = self.pods.get(key) else {
            self.expectations.forget(key);
            return Ok(());
        };
        if pods::is_terminating(&pod) || is_done(&pod) || !self.expectations.satisfied(key) {
            return Ok(());
        }
        let find = |name: &str| self.claims.get(&ObjectKey::new(&key.namespace, name));
        let mut statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.clone()).unwrap_or_default();
        let missing = to_make(&pod, find);
        for wanted in &missing {
            let name = self.claim_for(key, &pod, wanted).await.map_err(|error| {
                let message = format!("PodResourceClaim {}: {error}", wanted.name);
                let about = object_reference(pod.as_ref());
                self.recorder.event(&about, EventType::Warning, "FailedResourceClaimCreation", message.clone());
                Error::Other(format!("pod {key}, {message}"))
            })?;
            statuses.retain(|status| status.name != wanted.name);
            statuses.push(PodResourceClaimStatus { name: wanted.name.clone(), resource_claim_name: Some(name) });
        }
        if !missing.is_empty() {
            let applied = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": key.name, "namespace": key.namespace, "uid": pod.uid() },
                "status": { "resourceClaimStatuses": statuses },
            });
            let params = PatchParams::apply("ResourceClaimController").force();
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            pods.patch_status(&key.name, &params, &Patch::Apply(applied)).await.ignore_not_found()?;
        }
        for mut claim in to_reserve(&pod, find) {
            let reference = ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".into(),
                name: key.name.clone(),
                uid: pod.uid().unwrap_or_default(),
            };
            claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(reference);
            self.api(key).replace_status(&claim.name_any(), &PostParams::default(), &claim).await?;
        }
        Ok(())
    }

    /// The name of the claim that was made for a pod; it is made if there is none.
    async fn claim_for(&self, key: &ObjectKey, pod: &Pod, wanted: &PodResourceClaim) -> Result<String> {
        let mut made = dependents(&self.claims, &pod.uid().unwrap_or_default()).into_iter();
        if let Some(claim) = made.find(|claim| claim.annotations().get(POD_CLAIM) == Some(&wanted.name)) {
            return Ok(claim.name_any());
        }
        let name = wanted.resource_claim_template_name.clone().unwrap_or_default();
        let template = self.templates.get(&ObjectKey::new(&key.namespace, &name)).ok_or_else(|| {
            let why = format!("resourceclaimtemplate.resource.k8s.io {name:?} not found");
            Error::Other(format!("resource claim template {name:?}: {why}"))
        })?;
        self.expectations.expect_creations(key, 1);
        let created = self.api(key).create(&PostParams::default(), &from_template(&template, pod, wanted)).await;
        let created = created.map_err(|error| {
            self.expectations.created(key);
            Error::Other(format!("create ResourceClaim : {}", Error::from(error)))
        })?;
        Ok(created.name_any())
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<()> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        let mut users = Vec::new();
        for reference in claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
            if self.still_needs(key, reference).await? {
                users.push(reference.clone());
            }
        }
        let owner = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
        let owner = owner.and_then(|owner| self.pods.get(&ObjectKey::new(&key.namespace, &owner.name)));
        let plan = plan_claim(&claim, users, owner.as_deref());
        let api = self.api(key);
        let mut current = claim.as_ref().clone();
        if let Some(status) = plan.status {
            // Refused if anything has changed meanwhile, such as another pod's reservation.
            current.status = Some(status);
            let Some(written) =
                api.replace_status(&key.name, &PostParams::default(), &current).await.ignore_not_found()?
            else {
                return Ok(());
            };
            current = written;
        }
        if plan.unprotect {
            current.finalizers_mut().retain(|finalizer| finalizer != plan::FINALIZER);
            api.replace(&key.name, &PostParams::default(), &current).await.ignore_not_found()?;
        }
        if plan.delete {
            let this = Preconditions { uid: claim.uid(), resource_version: None };
            api.delete(&key.name, &DeleteParams::default().preconditions(this)).await.ignore_not_found()?;
        }
        Ok(())
    }

    /// Whether a pod that has reserved the claim may still run.
    async fn still_needs(&self, claim: &ObjectKey, user: &ResourceClaimConsumerReference) -> Result<bool> {
        if user.api_group.as_deref().is_some_and(|group| !group.is_empty()) || user.resource != "pods" {
            return Err(Error::Other(format!("unsupported ReservedFor entry: {} {}", user.resource, user.name)));
        }
        let is_it = |pod: &Pod| pod.metadata.uid.as_deref() == Some(&user.uid) && !is_done(pod);
        if let Some(pod) = self.pods.get(&ObjectKey::new(&claim.namespace, &user.name)) {
            return Ok(is_it(&pod));
        }
        // The scheduler may know a pod that the cache does not show yet.
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &claim.namespace);
        Ok(pods.get_opt(&user.name).await?.as_ref().is_some_and(is_it))
    }
}
