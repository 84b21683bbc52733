//! The decisions of the volume binder, claim by claim and volume by volume.

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::PersistentVolumeSpec;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::claim;

/// Set on a claim when both sides of its binding are written.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Set on the side of a binding that this controller chose, as opposed to the user.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made a volume, and so who may destroy it.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who shall make a volume for a claim.
pub(super) const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// Set by the scheduler on a claim that waited for its first pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Our own provisioner: directories on the one host.
pub(super) const HOST_PATH: &str = "coracle.io/host-path";

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub(super) enum ClaimAction {
    Nothing,
    /// Use the default class.
    SetClass(String),
    /// Write both sides of the binding to this volume.
    Bind(Box<PersistentVolume>),
    /// Make a volume.
    Provision(Box<StorageClass>),
    /// Ask somebody else to make one.
    AskProvisioner(String),
    /// Wait, and say why (event type Normal or, for `true`, Warning).
    Wait {
        warning: bool,
        reason: &'static str,
        message: String,
    },
    /// The volume behind a bound claim is not there or not its own.
    Lost {
        reason: &'static str,
        message: &'static str,
    },
}

/// What to do about a volume.
#[derive(Debug, PartialEq)]
pub(super) enum VolumeAction {
    Nothing,
    SetPhase(&'static str),
    /// Nobody claims it any more, and it is ours to destroy.
    Delete,
    /// Nobody claims it any more, and nobody here can destroy it.
    FailDelete(String),
    /// The claim that it was chosen for went elsewhere: take the reference off again.
    Unbind,
}

/// The name of the claim's class; none when it has not been decided.
pub(super) fn class_of(claim: &PersistentVolumeClaim) -> Option<String> {
    let annotation = claim.annotations().get("volume.beta.kubernetes.io/storage-class").cloned();
    annotation.or_else(|| claim.spec.as_ref()?.storage_class_name.clone())
}

fn class_of_volume(volume: &PersistentVolume) -> String {
    volume.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default()
}

/// The default class: the newest of those marked so.
pub(super) fn default_class(classes: &[std::sync::Arc<StorageClass>]) -> Option<String> {
    let marked = |class: &&std::sync::Arc<StorageClass>| {
        class.annotations().get("storageclass.kubernetes.io/is-default-class").is_some_and(|value| value == "true")
    };
    let newest = classes
        .iter()
        .filter(marked)
        .max_by_key(|class| (class.creation_timestamp(), std::cmp::Reverse(class.name_any())));
    newest.map(|class| class.name_any())
}

/// What the binder knows when it looks at a claim.
pub(super) struct World<'a> {
    pub(super) volumes: &'a [std::sync::Arc<PersistentVolume>],
    pub(super) classes: &'a [std::sync::Arc<StorageClass>],
}

impl World<'_> {
    fn volume(&self, name: &str) -> Option<&PersistentVolume> {
        self.volumes.iter().find(|volume| volume.name_any() == name).map(AsRef::as_ref)
    }

    fn class(&self, name: &str) -> Option<&StorageClass> {
        self.classes.iter().find(|class| class.name_any() == name).map(AsRef::as_ref)
    }

    /// The decision over one claim.
    pub(super) fn claim(&self, claim: &PersistentVolumeClaim) -> ClaimAction {
        let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        if claim.annotations().contains_key(BIND_COMPLETED) {
            return self.bound_claim(claim, &volume_name);
        }
        if !volume_name.is_empty() {
            return match self.volume(&volume_name) {
                Some(volume) if is_for(volume, claim) || claim_ref(volume).is_none() => bind(volume),
                _ => ClaimAction::Wait {
                    warning: false,
                    reason: "FailedBinding",
                    message: format!("volume {volume_name:?} already bound to a different claim."),
                },
            };
        }
        self.unbound_claim(claim)
    }

    fn bound_claim(&self, claim: &PersistentVolumeClaim, volume_name: &str) -> ClaimAction {
        if volume_name.is_empty() {
            let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return ClaimAction::Lost { reason: "ClaimLost", message };
        }
        match self.volume(volume_name) {
            None => {
                let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                ClaimAction::Lost { reason: "ClaimLost", message }
            }
            Some(volume) if claim_ref(volume).is_none() || is_bound_to(volume, claim) => {
                if is_bound_to(volume, claim) && phase(claim) == "Bound" { ClaimAction::Nothing } else { bind(volume) }
            }
            Some(_) => {
                let message = "Two claims are bound to the same volume, this one is bound incorrectly";
                ClaimAction::Lost { reason: "ClaimMisbound", message }
            }
        }
    }

    fn unbound_claim(&self, claim: &PersistentVolumeClaim) -> ClaimAction {
        let class_name = class_of(claim);
        let class = class_name.as_deref().and_then(|name| self.class(name));
        let waits = class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
            && !claim.annotations().contains_key(SELECTED_NODE);
        if let Some(volume) = self.best_match(claim, waits) {
            return bind(volume);
        }
        if waits {
            let message = "waiting for first consumer to be created before binding".into();
            return ClaimAction::Wait { warning: false, reason: "WaitForFirstConsumer", message };
        }
        match (class_name, class) {
            (None, _) if default_class(self.classes).is_some() => {
                ClaimAction::SetClass(default_class(self.classes).unwrap_or_default())
            }
            (Some(name), None) if !name.is_empty() => ClaimAction::Wait {
                warning: true,
                reason: "ProvisioningFailed",
                message: format!("storageclass.storage.k8s.io {name:?} not found"),
            },
            (_, Some(class)) if class.provisioner == HOST_PATH => ClaimAction::Provision(Box::new(class.clone())),
            (_, Some(class)) if class.provisioner != "kubernetes.io/no-provisioner" => {
                ClaimAction::AskProvisioner(class.provisioner.clone())
            }
            _ => ClaimAction::Wait {
                warning: false,
                reason: "FailedBinding",
                message: "no persistent volumes available for this claim and no storage class is set".into(),
            },
        }
    }

    /// The volume for a claim: one that was made for it, else the smallest that fits.
    fn best_match(&self, claim: &PersistentVolumeClaim, only_prebound: bool) -> Option<&PersistentVolume> {
        let usable = |volume: &&PersistentVolume| volume.metadata.deletion_timestamp.is_none() && fits(volume, claim);
        let mut volumes = self.volumes.iter().map(AsRef::as_ref);
        if let Some(made_for_it) = volumes.clone().filter(usable).find(|volume| is_for(volume, claim)) {
            return Some(made_for_it);
        }
        if only_prebound {
            return None;
        }
        let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.and_then(|selector| claim::selector(selector).ok()).unwrap_or_default();
        volumes
            .by_ref()
            .filter(usable)
            .filter(|volume| claim_ref(volume).is_none() && volume_phase(volume) == "Available")
            .filter(|volume| claim::matches(&selector, *volume))
            .min_by_key(|volume| (capacity(volume), volume.name_any()))
    }
}

fn bind(volume: &PersistentVolume) -> ClaimAction {
    ClaimAction::Bind(Box::new(volume.clone()))
}

/// Whether size, class, mode and access modes of the volume suffice.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let spec = volume.spec.clone().unwrap_or_default();
    let wanted = claim.spec.clone().unwrap_or_default();
    let offered_modes = spec.access_modes.unwrap_or_default();
    let filesystem = || "Filesystem".to_owned();
    class_of_volume(volume) == class_of(claim).unwrap_or_default()
        && spec.volume_mode.unwrap_or_else(filesystem) == wanted.volume_mode.unwrap_or_else(filesystem)
        && wanted.access_modes.iter().flatten().all(|mode| offered_modes.contains(mode))
        && capacity(volume) >= requested(claim)
}

/// The volume's size in bytes.
fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.map_or(0, |size| Quantity::of(size).to_value())
}

/// The size asked for in bytes.
fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let size = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    size.map_or(0, |size| Quantity::of(size).to_value())
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume was set aside for this claim, by name at least.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        let same_uid = reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.uid().as_deref());
        reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace && same_uid
    })
}

/// Whether the volume is bound to exactly this claim.
pub(super) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| reference.uid.is_some() && reference.uid == claim.uid())
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The volume's phase.
pub(super) fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The decision over one volume; `claim` is the one of the name in its reference.
pub(super) fn volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeAction {
    let set_phase =
        |phase| if volume_phase(volume) == phase { VolumeAction::Nothing } else { VolumeAction::SetPhase(phase) };
    let Some(reference) = claim_ref(volume) else { return set_phase("Available") };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return set_phase("Available"); // set aside by name, not bound yet
    }
    let name = volume.name_any();
    match claim.filter(|claim| claim.uid() == reference.uid) {
        Some(claim) => match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default() {
            "" => VolumeAction::Nothing, // the other side of the binding follows
            bound if bound == name => set_phase("Bound"),
            _ if is_provisioned(volume) && policy(volume) == "Delete" => release(volume),
            _ => VolumeAction::Unbind,
        },
        None => release(volume),
    }
}

/// A volume whose claim is gone is released first, then dealt with by its reclaim policy.
fn release(volume: &PersistentVolume) -> VolumeAction {
    if !matches!(volume_phase(volume), "Released" | "Failed") {
        return VolumeAction::SetPhase("Released");
    }
    if policy(volume) != "Delete" || volume.metadata.deletion_timestamp.is_some() {
        return VolumeAction::Nothing;
    }
    match volume.annotations().get(PROVISIONED_BY).map(String::as_str) {
        Some(HOST_PATH) => VolumeAction::Delete,
        Some(_) => VolumeAction::Nothing, // an external provisioner's
        None if volume_phase(volume) == "Failed" => VolumeAction::Nothing,
        None => VolumeAction::FailDelete(format!(
            "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
            volume.name_any()
        )),
    }
}

fn is_provisioned(volume: &PersistentVolume) -> bool {
    volume.annotations().contains_key(PROVISIONED_BY)
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// The volume's side of a binding.
pub(super) fn bind_volume(volume: &mut PersistentVolume, claim: &PersistentVolumeClaim) {
    let spec = volume.spec.get_or_insert_default();
    if spec.claim_ref.replace(reference_to(claim)).is_none() {
        volume.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
}

/// The claim's side of a binding, but for its status.
pub(super) fn bind_claim(claim: &mut PersistentVolumeClaim, volume: &PersistentVolume) {
    let spec = claim.spec.get_or_insert_default();
    if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
        spec.volume_name = Some(volume.name_any());
        claim.annotations_mut().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    claim.annotations_mut().insert(BIND_COMPLETED.into(), "yes".into());
}

/// The status of a claim bound to this volume.
pub(super) fn bound_status(claim: &mut PersistentVolumeClaim, volume: &PersistentVolume) {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = claim.status.get_or_insert_default();
    (status.phase, status.access_modes, status.capacity) = (Some("Bound".into()), spec.access_modes, spec.capacity);
}

/// Takes a volume's side of a binding back: all of it, if it was chosen here.
pub(super) fn unbind(volume: &mut PersistentVolume) {
    let chosen = volume.annotations_mut().remove(BOUND_BY_CONTROLLER).is_some();
    let spec = volume.spec.get_or_insert_default();
    if chosen {
        spec.claim_ref = None;
    } else if let Some(reference) = &mut spec.claim_ref {
        (reference.uid, reference.resource_version) = (None, None);
    }
}

/// The reference by which a volume names its claim.
fn reference_to(claim: &PersistentVolumeClaim) -> ObjectReference {
    coracle_client::object_reference(claim)
}

/// The volume for a claim of a class of ours: a directory below `base`, made by the kubelet that mounts it first.
pub(super) fn provisioned(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    base: &std::path::Path,
) -> PersistentVolume {
    let name = format!("pvc-{}", claim.uid().unwrap_or_default());
    let spec = claim.spec.clone().unwrap_or_default();
    let request = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(
                [(BOUND_BY_CONTROLLER.into(), "yes".into()), (PROVISIONED_BY.into(), HOST_PATH.into())].into(),
            ),
            ..Default::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(request.into_iter().filter(|(resource, _)| resource == "storage").collect()),
            claim_ref: Some(reference_to(claim)),
            host_path: Some(HostPathVolumeSource {
                path: base.join(&name).to_string_lossy().into_owned(),
                type_: Some("DirectoryOrCreate".into()),
            }),
            mount_options: class.mount_options.clone(),
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode,
            ..Default::default()
        }),
        status: None,
    }
}
