//! Claims and volumes as the scheduler sees them, and the one thing it does about them: where a claim
//! waits for its first pod, the chosen node is written on the claim, and the binder takes it from there.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informer, Informers, ObjectKey, controlled_by};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::cache::PodInfo;
use crate::plugins::{ClaimState, claims};

const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// How long the binder has to bind a claim to the chosen node's volume.
const BIND_TIMEOUT: Duration = Duration::from_secs(600);

/// Informers on storage.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    pub(crate) claims: Informer<PersistentVolumeClaim>,
    pub(crate) volumes: Informer<PersistentVolume>,
    pub(crate) classes: Informer<StorageClass>,
}

impl Volumes {
    pub(crate) fn new(informers: &Informers) -> Self {
        Volumes { claims: informers.get(), volumes: informers.get(), classes: informers.get() }
    }

    pub(crate) async fn wait_for_sync(&self) {
        self.claims.wait_for_sync().await;
        self.volumes.wait_for_sync().await;
        self.classes.wait_for_sync().await;
    }

    /// What is known of a claim, which must belong to the pod `owner` if one is given.
    pub(crate) fn state(&self, key: &ObjectKey, owner: Option<&str>) -> ClaimState {
        let Some(claim) = self.claims.get(key) else { return ClaimState::Missing };
        if owner.is_some_and(|owner| !controlled_by(&claim.metadata, owner)) {
            return ClaimState::Foreign;
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return ClaimState::Terminating;
        }
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            return ClaimState::Lost;
        }
        if is_bound(&claim) {
            let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            let volume = self.volumes.get(&ObjectKey::new("", name));
            let spec = volume.as_ref().and_then(|volume| volume.spec.as_ref());
            return ClaimState::Bound(spec.and_then(|s| s.node_affinity.as_ref()?.required.clone()));
        }
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
        let class = class.and_then(|name| self.classes.get(&ObjectKey::new("", name)));
        match class.as_ref().and_then(|class| class.volume_binding_mode.as_deref()) {
            Some("WaitForFirstConsumer") => ClaimState::WaitsForPod,
            _ => ClaimState::Unbound,
        }
    }

    /// Writes the chosen node on the claims that wait for it, then waits until they are bound.
    pub(crate) async fn bind(&self, client: &Client, pod: &PodInfo, node: &str) -> anyhow::Result<()> {
        let waiting: Vec<_> =
            claims(pod).map(|(key, _)| key).filter(|key| self.state(key, None) == ClaimState::WaitsForPod).collect();
        for key in &waiting {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
            let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: node } } });
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        for key in &waiting {
            let bound = coracle_clock::timeout(BIND_TIMEOUT, self.until_bound(key)).await;
            anyhow::ensure!(bound.is_ok(), "binding volumes: timed out waiting for the condition");
        }
        Ok(())
    }

    async fn until_bound(&self, key: &ObjectKey) {
        let changed = Arc::new(tokio::sync::Notify::new());
        let (notify, wanted) = (Arc::downgrade(&changed), key.clone());
        self.claims.on_change(move |change| {
            if let Some(notify) = notify.upgrade()
                && change.key() == wanted
            {
                notify.notify_one();
            }
        });
        while !self.claims.get(key).is_some_and(|claim| is_bound(&claim)) {
            changed.notified().await;
        }
    }
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_ref().is_some_and(|name| !name.is_empty()));
    named && claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(BIND_COMPLETED))
}
