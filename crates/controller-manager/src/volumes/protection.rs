//! Protection: a claim that a pod uses, a volume that is bound, and a VolumeAttributesClass that a claim or volume
//! names, outlive their deletion.
//!
//! They carry a finalizer from birth; a deletion only marks them. These controllers take the finalizer off when
//! nothing uses the object any more (and put it on where it is missing). A key is that object.

use std::fmt::Debug;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::pods;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";
const BY_CLAIM: &str = "claim";
const BY_CLASS: &str = "class";

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

/// Writes the finalizers as they should be.
async fn settle<K>(api: Api<K>, object: &K, ours: &str, in_use: impl FnOnce() -> bool) -> Result<Requeue>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    let deleting = object.meta().deletion_timestamp.is_some();
    if let Some(finalizers) = finalizers(object.finalizers(), ours, deleting, deleting && in_use()) {
        let mut changed = object.clone();
        *changed.finalizers_mut() = finalizers;
        api.replace(&object.name_any(), &PostParams::default(), &changed).await.ignore_not_found()?;
    }
    Ok(Requeue::Never)
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
        let in_use = || !pods.by_index(BY_CLAIM, &key.to_string()).is_empty();
        settle(Api::namespaced(context.client.clone(), &key.namespace), &*claim, CLAIM_FINALIZER, in_use).await
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
        let in_use = || super::plan::volume_phase(&volume) == "Bound";
        settle(Api::all(context.client.clone()), &*volume, VOLUME_FINALIZER, in_use).await
    };
    context.work("persistentvolume-protection-controller", &queue, sync).await;
}

/// The VolumeAttributesClasses that a claim wants, has, or is on the way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target =
        status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    [wanted, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

/// Runs the protection of VolumeAttributesClasses.
pub(crate) async fn run_attributes_classes(context: Context) {
    let queue = WorkQueue::new();
    let classes: Informer<VolumeAttributesClass> = context.informer();
    let claims: Informer<PersistentVolumeClaim> = context.informer();
    let volumes: Informer<PersistentVolume> = context.informer();
    claims.add_index(BY_CLASS, classes_of_claim);
    volumes.add_index(BY_CLASS, classes_of_volume);
    enqueue_changes(&classes, &queue);
    enqueue_released(&claims, &queue, classes_of_claim);
    enqueue_released(&volumes, &queue, classes_of_volume);
    classes.wait_for_sync().await;
    claims.wait_for_sync().await;
    volumes.wait_for_sync().await;
    let sync = async |key: ObjectKey| -> Result<Requeue> {
        let Some(class) = classes.get(&key) else { return Ok(Requeue::Never) };
        let used =
            || !claims.by_index(BY_CLASS, &key.name).is_empty() || !volumes.by_index(BY_CLASS, &key.name).is_empty();
        settle(Api::all(context.client.clone()), &*class, CLASS_FINALIZER, used).await
    };
    context.work("volumeattributesclass-protection-controller", &queue, sync).await;
}

/// Looks at what an object named before a change.
fn enqueue_released<K>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>, names: fn(&K) -> Vec<String>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |change| {
        for name in change.old.iter().flat_map(|old| names(old)) {
            queue.add(ObjectKey::new("", &name));
        }
    });
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
