//! Protection: a claim that a pod uses, and a volume that is bound, outlive their deletion.
//!
//! Both carry a finalizer from birth; a deletion only marks them. These controllers take the finalizer off when
//! nothing uses the object any more (and put it on where it is missing). A key is the claim or the volume.

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::pods;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const BY_CLAIM: &str = "claim";

/// The finalizers as they should be; none when they are so already.
fn finalizers(present: &[String], ours: &str, deleting: bool, in_use: bool) -> Option<Vec<String>> {
    let has = present.iter().any(|finalizer| finalizer == ours);
    let mut changed = present.to_vec();
    match (deleting, has) {
        (false, false) => changed.push(ours.into()),
        (true, true) if !in_use => changed.retain(|finalizer| finalizer != ours),
        _ => return None,
    }
    Some(changed)
}

/// The claims a pod uses. One that is not bound to a node yet uses none: no kubelet will start it with a claim
/// that is being deleted.
fn claims_of(pod: &Pod) -> Vec<String> {
    if pods::node_name(pod).is_empty() {
        return Vec::new();
    }
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name_any(), volume.name)),
    };
    volumes.iter().filter_map(claim).map(|name| format!("{namespace}/{name}")).collect()
}

/// Runs the protection of claims.
pub(crate) async fn run_claims(context: Context) {
    let queue = WorkQueue::new();
    let claims: Informer<PersistentVolumeClaim> = context.informer();
    let pods: Informer<Pod> = context.informer();
    pods.add_index(BY_CLAIM, claims_of);
    enqueue_changes(&claims, &queue);
    let to = queue.clone();
    pods.on_change(move |change| {
        if change.new.is_none() {
            for claim in claims_of(change.object()) {
                let (namespace, name) = claim.split_once('/').unwrap_or_default();
                to.add(ObjectKey::new(namespace, name));
            }
        }
    });
    claims.wait_for_sync().await;
    pods.wait_for_sync().await;
    let sync = async |key: ObjectKey| -> Result<Requeue> {
        let Some(claim) = claims.get(&key) else { return Ok(Requeue::Never) };
        let deleting = claim.metadata.deletion_timestamp.is_some();
        let in_use = deleting && !pods.by_index(BY_CLAIM, &key.to_string()).is_empty();
        if let Some(finalizers) = finalizers(claim.finalizers(), CLAIM_FINALIZER, deleting, in_use) {
            let mut changed = claim.as_ref().clone();
            *changed.finalizers_mut() = finalizers;
            let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
            api.replace(&key.name, &PostParams::default(), &changed).await.ignore_not_found()?;
        }
        Ok(Requeue::Never)
    };
    context.work("persistentvolumeclaim-protection-controller", &queue, sync).await;
}

/// Runs the protection of volumes.
pub(crate) async fn run_volumes(context: Context) {
    let queue = WorkQueue::new();
    let volumes: Informer<PersistentVolume> = context.informer();
    enqueue_changes(&volumes, &queue);
    volumes.wait_for_sync().await;
    let sync = async |key: ObjectKey| -> Result<Requeue> {
        let Some(volume) = volumes.get(&key) else { return Ok(Requeue::Never) };
        let deleting = volume.metadata.deletion_timestamp.is_some();
        let in_use = super::plan::volume_phase(&volume) == "Bound";
        if let Some(finalizers) = finalizers(volume.finalizers(), VOLUME_FINALIZER, deleting, in_use) {
            let mut changed = volume.as_ref().clone();
            *changed.finalizers_mut() = finalizers;
            let api: Api<PersistentVolume> = Api::all(context.client.clone());
            api.replace(&key.name, &PostParams::default(), &changed).await.ignore_not_found()?;
        }
        Ok(Requeue::Never)
    };
    context.work("persistentvolume-protection-controller", &queue, sync).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_stays_until_nothing_uses_the_object() {
        let with = vec!["other".to_owned(), CLAIM_FINALIZER.to_owned()];
        let without = vec!["other".to_owned()];
        assert_eq!(finalizers(&without, CLAIM_FINALIZER, false, false), Some(with.clone()));
        assert_eq!(finalizers(&with, CLAIM_FINALIZER, false, true), None);
        assert_eq!(finalizers(&with, CLAIM_FINALIZER, true, true), None);
        assert_eq!(finalizers(&with, CLAIM_FINALIZER, true, false), Some(without.clone()));
        assert_eq!(finalizers(&without, CLAIM_FINALIZER, true, false), None);
    }
}
