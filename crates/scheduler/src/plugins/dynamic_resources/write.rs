//! Writing what was reserved into claims, and waiting until drivers have made the devices ready.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::{EventType, ObjectKey, object_reference};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::{extended, is_for_extended, is_overdue, is_user, readiness, user};
use crate::framework::Placement;
use crate::pod::PodInfo;

/// How often is looked whether devices are ready.
const POLL: Duration = Duration::from_secs(5);
/// So often somebody else may be faster.
const TRIES: usize = 5;

/// Writes claims as they were reserved for a pod; how they are then.
pub(super) async fn write(
    Placement { client, recorder, pod, node, .. }: Placement,
    claims: Vec<Arc<ResourceClaim>>,
) -> anyhow::Result<Vec<Arc<ResourceClaim>>> {
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &pod.key.namespace);
    let mut written = Vec::new();
    for claim in claims {
        let made = is_for_extended(&claim);
        let claim = if made { make(&api, &claim).await? } else { claim.as_ref().clone() };
        let claim = write_one(&api, &pod, claim).await?;
        if made {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
            let status = Patch::Merge(json!({ "status": extended::pod_status(&pod, &claim) }));
            pods.patch_status(&pod.key.name, &PatchParams::default(), &status).await?;
        }
        written.push(Arc::new(claim));
    }
    if written.iter().any(|claim| readiness(claim) != Ok(true)) {
        let note = format!("waiting for binding conditions for device on node {node}");
        recorder.event(&object_reference(pod.pod.as_ref()), EventType::Normal, "BindingConditionsPending", note);
    }
    for claim in &mut written {
        until_ready(&api, claim).await?;
    }
    Ok(written)
}

/// Makes the claim for a pod's extended resources; what is to be written into its status comes with it.
async fn make(api: &Api<ResourceClaim>, claim: &ResourceClaim) -> anyhow::Result<ResourceClaim> {
    let mut new = claim.clone();
    (new.metadata.name, new.status) = (None, None);
    let made = api.create(&PostParams::default(), &new).await?;
    Ok(ResourceClaim { status: claim.status.clone(), ..made })
}

/// First the finalizer, then what is allocated: so an allocated claim cannot go unseen.
async fn write_one(api: &Api<ResourceClaim>, pod: &PodInfo, mut claim: ResourceClaim) -> anyhow::Result<ResourceClaim> {
    let key = ObjectKey::of(&claim);
    for _ in 1..TRIES {
        match both(api, &key.name, &claim).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            result => return Ok(result?),
        }
        // Others may use the claim from now on, too; if it is another one by now, the pod is looked at again.
        let mut now = api.get(&key.name).await?;
        let allocated = |claim: &ResourceClaim| claim.status.as_ref().and_then(|status| status.allocation.clone());
        if now.metadata.deletion_timestamp.is_some() {
            anyhow::bail!("claim {key} got deleted in the meantime");
        }
        if allocated(&now) != allocated(&claim) {
            anyhow::bail!("claim {key} got allocated elsewhere in the meantime");
        }
        if !is_user(&now, pod) {
            now.status.get_or_insert_default().reserved_for.get_or_insert_default().push(user(pod));
        }
        claim = now;
    }
    Ok(both(api, &key.name, &claim).await?)
}

async fn both(api: &Api<ResourceClaim>, name: &str, claim: &ResourceClaim) -> kube::Result<ResourceClaim> {
    let finalized = api.replace(name, &PostParams::default(), claim).await?;
    let claim = ResourceClaim { status: claim.status.clone(), ..finalized };
    api.replace_status(name, &PostParams::default(), &claim).await
}

async fn until_ready(api: &Api<ResourceClaim>, claim: &mut Arc<ResourceClaim>) -> anyhow::Result<()> {
    let name = claim.metadata.name.clone().unwrap_or_default();
    while !readiness(claim).map_err(anyhow::Error::msg)? {
        if is_overdue(claim) {
            anyhow::bail!("claim {name} binding timeout");
        }
        coracle_clock::sleep(POLL).await;
        *claim = Arc::new(api.get(&name).await?);
    }
    Ok(())
}
