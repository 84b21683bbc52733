//! Writing what VolumeBinding reserved, and waiting for the binder and the provisioner.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;

use crate::framework::Assumption;

/// The annotation that tells the provisioner where a claim's pod goes.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// The claims as they are now, to wait for.
#[derive(Clone)]
pub struct Volumes {
    claims: Informer<PersistentVolumeClaim>,
    /// Tells of every change of a claim.
    changed: Arc<Notify>,
}

impl Debug for Volumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Volumes")
    }
}

impl Volumes {
    pub(crate) fn new(claims: Informer<PersistentVolumeClaim>) -> Self {
        let changed = Arc::new(Notify::new());
        let tell = changed.clone();
        claims.on_change(move |_| tell.notify_waiters());
        Volumes { claims, changed }
    }

    /// Writes volumes and claims as they were reserved, and waits until the claims are bound.
    pub(crate) async fn bind(
        &self,
        client: &Client,
        assumed: Vec<Assumption>,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        let mut waiting = Vec::new();
        for assumption in assumed {
            match assumption {
                Assumption::Volume(volume) => {
                    let api: Api<PersistentVolume> = Api::all(client.clone());
                    let name = volume.metadata.name.clone().unwrap_or_default();
                    // Refused if somebody else wrote meanwhile: then the pod is looked at again.
                    api.replace(&name, &PostParams::default(), &volume).await?;
                    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()).unwrap_or_default();
                    let key = ObjectKey::new(claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default());
                    waiting.push((key, false));
                }
                Assumption::Claim(claim) => {
                    let key = ObjectKey::of(claim.as_ref());
                    let node =
                        claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
                    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
                    let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: node } } });
                    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                    waiting.push((key, true));
                }
                Assumption::ResourceClaim(_) => {}
            }
        }
        for (key, provisioned) in &waiting {
            let bound = coracle_clock::timeout(timeout, self.until_bound(key, *provisioned)).await;
            bound.unwrap_or_else(|_| anyhow::bail!("binding volumes: timed out waiting for the condition"))?;
        }
        Ok(())
    }

    async fn until_bound(&self, key: &ObjectKey, provisioned: bool) -> anyhow::Result<()> {
        let mut selected = false;
        loop {
            // Before the look, so that no change between the look and the wait is missed.
            let changed = self.changed.notified();
            let Some(claim) = self.claims.get(key) else {
                anyhow::bail!("binding volumes: pvc {key} does not exist any more")
            };
            if is_bound(&claim) {
                return Ok(());
            }
            // A provisioner that cannot make the volume there takes the node's name away.
            let has = claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(SELECTED_NODE));
            if provisioned && selected && !has {
                anyhow::bail!("binding volumes: provisioning failed for PVC {:?}", key.name);
            }
            selected |= has;
            changed.await;
        }
    }
}

/// Whether the binder is done with a claim.
pub(crate) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_ref().is_some_and(|name| !name.is_empty()));
    named && claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(BIND_COMPLETED))
}
