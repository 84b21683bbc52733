//! Volumes: what a pod's containers see of storage, set up before the first of them starts.
//!
//! A volume is prepared in three steps. [`VolumePlan`]s say what each volume is made of: [`plan_volume`] derives them from the
//! spec and from objects already fetched (pure). [`set_up`] makes it so on disk, and may be called as often as one
//! likes: files of ConfigMaps, Secrets, downward API and tokens are replaced as one when they changed. [`mounts`] then
//! tells where each container sees them.
//!
//! ```text
//! <data>/pods/<uid>/volumes/kubernetes.io~configmap/<name>/{..data -> ..2026_…, key -> ..data/key}
//! <data>/pods/<uid>/volumes/kubernetes.io~empty-dir/<name>/
//! ```

mod atomic;
pub mod mounts;
mod payload;
mod setup;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};

pub use atomic::write_atomically;
pub use payload::{FileEntry, Payload};
pub use setup::{set_up, tear_down};

use crate::env::Referenced;
use crate::fields::PodFacts;

/// Key of a projected token within a pod: volume, path, audience.
pub type TokenKey = (String, String, String);

/// Everything fetched from the API server that volumes are made of.
#[derive(Clone, Debug, Default)]
pub struct VolumeSources {
    /// ConfigMaps and Secrets.
    pub referenced: Referenced,
    /// Claims by name, with the volume they are bound to.
    pub claims: BTreeMap<String, (Arc<PersistentVolumeClaim>, Option<Arc<PersistentVolume>>)>,
    /// Service account tokens.
    pub tokens: BTreeMap<TokenKey, String>,
}

/// What one volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    /// An empty directory, in memory or on disk.
    EmptyDir {
        /// Kept in memory (tmpfs).
        memory: bool,
        /// Greatest size in bytes, where it can be held to.
        size_limit: Option<i64>,
    },
    /// A path of the host.
    HostPath {
        /// The path.
        path: PathBuf,
        /// `hostPath.type`; empty for no check.
        kind: String,
        /// Whether `fsGroup` applies (not to plain host paths).
        owned: bool,
    },
    /// Files made from API objects.
    Files {
        /// The plugin's name in the path (`configmap`).
        plugin: &'static str,
        /// The files.
        payload: Payload,
    },
}

/// A volume that could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeError {
    /// The volume's name in the pod.
    pub volume: String,
    /// The message of the `FailedMount` event.
    pub message: String,
}

impl VolumeError {
    /// The usual message, around the reason `why`.
    pub fn set_up(volume: &str, why: impl std::fmt::Display) -> VolumeError {
        VolumeError {
            volume: volume.to_owned(),
            message: format!("MountVolume.SetUp failed for volume {volume:?} : {why}"),
        }
    }
}

/// Derives what a volume is made of.
///
/// # Errors
/// An object it needs does not exist, or its type is not supported on this node.
pub fn plan_volume(
    pod: &Pod,
    volume: &Volume,
    sources: &VolumeSources,
    facts: &PodFacts,
) -> Result<VolumePlan, VolumeError> {
    let failed = |why: String| VolumeError::set_up(&volume.name, why);
    if let Some(source) = &volume.empty_dir {
        return Ok(VolumePlan::EmptyDir {
            memory: source.medium.as_deref() == Some("Memory"),
            size_limit: source.size_limit.as_ref().map(|size| Quantity::of(size).to_value()).filter(|limit| *limit > 0),
        });
    }
    if let Some(source) = &volume.host_path {
        let kind = source.type_.clone().unwrap_or_default();
        return Ok(VolumePlan::HostPath { path: source.path.clone().into(), kind, owned: false });
    }
    if let Some(source) = &volume.config_map {
        let payload = payload::config_map(source, &sources.referenced).map_err(failed)?;
        return Ok(VolumePlan::Files { plugin: "configmap", payload });
    }
    if let Some(source) = &volume.secret {
        let payload = payload::secret(source, &sources.referenced).map_err(failed)?;
        return Ok(VolumePlan::Files { plugin: "secret", payload });
    }
    if let Some(source) = &volume.downward_api {
        let mode = payload::mode_of(source.default_mode);
        let items = source.items.as_deref().unwrap_or_default();
        let payload = payload::downward(pod, facts, items, mode).map_err(failed)?;
        return Ok(VolumePlan::Files { plugin: "downward-api", payload });
    }
    if let Some(source) = &volume.projected {
        let payload = payload::projected(pod, facts, &volume.name, source, sources).map_err(failed)?;
        return Ok(VolumePlan::Files { plugin: "projected", payload });
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return claimed(pod, volume, &source.claim_name, sources);
    }
    if volume.ephemeral.is_some() {
        let claim = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name);
        return claimed(pod, volume, &claim, sources);
    }
    Err(failed("no volume plugin matched".into()))
}

/// A volume behind a claim: a directory of this host.
fn claimed(pod: &Pod, volume: &Volume, claim: &str, sources: &VolumeSources) -> Result<VolumePlan, VolumeError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = &volume.name;
    let failed = |why: String| VolumeError {
        volume: name.clone(),
        message: format!(
            "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed to process \
             volumes=[{name}]: error processing PVC {namespace}/{claim}: {why}"
        ),
    };
    let Some((found, volume_object)) = sources.claims.get(claim) else {
        return Err(failed(format!("failed to fetch PVC from API server: persistentvolumeclaims {claim:?} not found")));
    };
    let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let Some(volume_object) = volume_object.as_ref().filter(|_| bound) else {
        return Err(failed("PVC is not bound".into()));
    };
    let spec = volume_object.spec.clone().unwrap_or_default();
    match (spec.host_path, spec.local) {
        (Some(host), _) => {
            let kind = host.type_.unwrap_or_default();
            Ok(VolumePlan::HostPath { path: host.path.into(), kind, owned: true })
        }
        (None, Some(local)) => {
            Ok(VolumePlan::HostPath { path: local.path.into(), kind: "Directory".into(), owned: true })
        }
        (None, None) => Err(VolumeError::set_up(name, "no volume plugin matched")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn plan_of(volume: Value, sources: &VolumeSources) -> Result<VolumePlan, String> {
        let pod = pod("p", json!({ "containers": [], "volumes": [volume] }));
        let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
        plan_volume(&pod, &volume, sources, &PodFacts::default()).map_err(|error| error.message)
    }

    #[test]
    fn an_object_that_is_missing_is_named() {
        let none = VolumeSources::default();
        for (volume, message) in [
            (
                json!({ "name": "v", "configMap": { "name": "x" } }),
                "MountVolume.SetUp failed for volume \"v\" : configmap \"x\" not found",
            ),
            (
                json!({ "name": "v", "secret": { "secretName": "x" } }),
                "MountVolume.SetUp failed for volume \"v\" : secret \"x\" not found",
            ),
            (
                json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }),
                "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: error processing PVC default/c: failed to fetch PVC from API server: persistentvolumeclaims \"c\" not found",
            ),
            (
                json!({ "name": "v", "nfs": { "server": "s", "path": "/" } }),
                "MountVolume.SetUp failed for volume \"v\" : no volume plugin matched",
            ),
        ] {
            assert_eq!(plan_of(volume, &none), Err(message.to_owned()));
        }
        let optional = json!({ "name": "v", "configMap": { "name": "x", "optional": true } });
        assert_eq!(plan_of(optional, &none), Ok(VolumePlan::Files { plugin: "configmap", payload: Payload::new() }));
    }

    #[test]
    fn a_bound_claim_is_a_directory_of_the_host() {
        let claim = |phase: &str| Arc::new(serde_json::from_value(json!({ "status": { "phase": phase } })).unwrap());
        let volume = Arc::new(
            serde_json::from_value(json!({ "spec": { "hostPath": { "path": "/d", "type": "DirectoryOrCreate" } } }))
                .unwrap(),
        );
        let spec = || json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } });
        let mut sources = VolumeSources::default();
        sources.claims.insert("c".into(), (claim("Pending"), None));
        assert!(plan_of(spec(), &sources).unwrap_err().ends_with("PVC is not bound"));
        sources.claims.insert("c".into(), (claim("Bound"), Some(volume)));
        let expected = VolumePlan::HostPath { path: "/d".into(), kind: "DirectoryOrCreate".into(), owned: true };
        assert_eq!(plan_of(spec(), &sources), Ok(expected));
    }
}
