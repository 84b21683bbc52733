//! Expand: a bound claim that asks for more than it has gets it, if its class allows that.
//!
//! Watches claims; a key is a claim. Volumes of our own are directories and as large as the disk, so only the numbers
//! grow: first the volume's, then the claim's. Other volumes are left to their drivers.

use coracle_api::quantity::Quantity;
use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::plan::{HOST_PATH, PROVISIONED_BY};
use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "persistentvolume-expander-controller";
const EXTERNAL: &str = "Ignoring the PVC: didn't find a plugin capable of expanding the volume; \
    waiting for an external controller to process this PVC.";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let (claims, volumes): (Informer<PersistentVolumeClaim>, Informer<PersistentVolume>) =
        (context.informer(), context.informer());
    enqueue_changes(&claims, &queue);
    claims.wait_for_sync().await;
    volumes.wait_for_sync().await;
    let recorder = context.recorder(NAME);
    context.work(NAME, &queue, |key| sync(&context, &recorder, &claims, &volumes, key)).await;
}

/// The size a bound claim asks for and has not got.
fn wanted(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound"))?;
    let has = Quantity::of(status.capacity.as_ref()?.get("storage")?);
    let wants = Quantity::of(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?);
    (wants > has).then_some(wants)
}

async fn sync(
    context: &Context,
    recorder: &EventRecorder,
    claims: &Informer<PersistentVolumeClaim>,
    volumes: &Informer<PersistentVolume>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(claim) = claims.get(&key) else { return Ok(Requeue::Never) };
    let Some(size) = wanted(&claim) else { return Ok(Requeue::Never) };
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let Some(volume) = volumes.get(&ObjectKey::new("", &name)) else { return Ok(Requeue::Never) };
    let about = object_reference(claim.as_ref());
    if volume.annotations().get(PROVISIONED_BY).is_none_or(|by| by != HOST_PATH) {
        recorder.event(&about, EventType::Normal, "ExternalExpanding", EXTERNAL);
        return Ok(Requeue::Never);
    }
    let capacity = json!({ "capacity": { "storage": size.to_wire() } });
    let has = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage")).map(Quantity::of);
    if has.is_none_or(|has| has < size) {
        let api: Api<PersistentVolume> = Api::all(context.client.clone());
        let patch = Patch::Merge(json!({ "metadata": { "uid": volume.uid() }, "spec": capacity }));
        api.patch(&name, &PatchParams::default(), &patch).await.ignore_not_found()?;
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = Patch::Merge(json!({ "metadata": { "uid": claim.uid() }, "status": capacity }));
    api.patch_status(&key.name, &PatchParams::default(), &patch).await.ignore_not_found()?;
    let message = format!("ExpandVolume succeeded for volume {key}");
    recorder.event(&about, EventType::Normal, "VolumeResizeSuccessful", message);
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_claim_wants_what_it_asks_for_beyond_what_it_has() {
        for (asks, has, phase, expected) in [
            ("2Gi", "1Gi", "Bound", Some("2Gi")),
            ("1024Mi", "1Gi", "Bound", None),
            ("1Gi", "2Gi", "Bound", None),
            ("2Gi", "1Gi", "Pending", None),
        ] {
            let claim = serde_json::from_value(json!({
                "metadata": {}, "spec": { "resources": { "requests": { "storage": asks } } },
                "status": { "phase": phase, "capacity": { "storage": has } },
            }));
            assert_eq!(wanted(&claim.unwrap()).map(|size| size.to_string()).as_deref(), expected, "{asks} {has}");
        }
    }
}
