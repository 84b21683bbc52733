//! Binding as tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{
    self, BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimAction, HOST_PATH, PROVISIONED_BY, VolumeAction, World,
};
use crate::fixed_point::rest;

fn claim(annotations: Value, spec: Value) -> PersistentVolumeClaim {
    let mut all = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "10Gi" } } });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "metadata": { "name": "data", "namespace": "ns", "uid": "c", "annotations": annotations },
        "spec": all,
    }))
    .unwrap()
}

fn volume(name: &str, size: &str, class: &str, spec: Value, phase: &str) -> Arc<PersistentVolume> {
    let mut all = json!({ "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": class });
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Arc::new(
        serde_json::from_value(
            json!({ "metadata": { "name": name, "labels": { "disk": name } }, "spec": all, "status": { "phase": phase } }),
        )
        .unwrap(),
    )
}

fn class(name: &str, provisioner: &str, mode: &str, default: bool) -> Arc<StorageClass> {
    Arc::new(
        serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": default.then_some(
                json!({ "storageclass.kubernetes.io/is-default-class": "true" })) },
            "provisioner": provisioner, "volumeBindingMode": mode,
        }))
        .unwrap(),
    )
}

fn classes() -> Vec<Arc<StorageClass>> {
    vec![
        class("standard", HOST_PATH, "Immediate", true),
        class("late", HOST_PATH, "WaitForFirstConsumer", false),
        class("ebs", "ebs.csi.aws.com", "Immediate", false),
        class("local", "kubernetes.io/no-provisioner", "Immediate", false),
    ]
}

/// The action in one word and what it is about.
fn summary(action: &ClaimAction) -> String {
    match action {
        ClaimAction::Nothing => "nothing".into(),
        ClaimAction::SetClass(class) => format!("class {class}"),
        ClaimAction::Bind(volume) => format!("bind {}", volume.name_any()),
        ClaimAction::Provision(class) => format!("provision {}", class.name_any()),
        ClaimAction::AskProvisioner(name) => format!("ask {name}"),
        ClaimAction::Wait { reason, .. } | ClaimAction::Lost { reason, .. } => (*reason).into(),
    }
}

#[test]
fn a_claim_gets_the_smallest_volume_that_fits_or_a_new_one() {
    let theirs = json!({ "claimRef": { "name": "other", "namespace": "ns", "uid": "o" } });
    let reserved = json!({ "claimRef": { "name": "data", "namespace": "ns" } });
    let volumes = [
        volume("small", "5Gi", "local", json!({}), "Available"),
        volume("big", "100Gi", "local", json!({}), "Available"),
        volume("fitting", "12Gi", "local", json!({}), "Available"),
        volume("taken", "10Gi", "local", theirs, "Bound"),
        volume("reserved", "50Gi", "ebs", reserved, "Available"),
    ];
    for (annotations, spec, expected) in [
        (json!({}), json!({ "storageClassName": "local" }), "bind fitting"),
        (
            json!({}),
            json!({ "storageClassName": "local", "selector": { "matchLabels": { "disk": "big" } } }),
            "bind big",
        ),
        (json!({}), json!({ "storageClassName": "local", "accessModes": ["ReadWriteMany"] }), "FailedBinding"),
        (json!({}), json!({ "storageClassName": "local", "volumeMode": "Block" }), "FailedBinding"),
        (json!({}), json!({ "storageClassName": "ebs" }), "bind reserved"),
        (json!({}), json!({ "storageClassName": "ebs", "accessModes": ["ReadWriteMany"] }), "ask ebs.csi.aws.com"),
        (json!({}), json!({ "storageClassName": "standard" }), "provision standard"),
        (json!({}), json!({}), "class standard"),
        (json!({}), json!({ "storageClassName": "" }), "FailedBinding"),
        (json!({}), json!({ "storageClassName": "none" }), "ProvisioningFailed"),
        (json!({}), json!({ "storageClassName": "late" }), "WaitForFirstConsumer"),
        (
            json!({ "volume.kubernetes.io/selected-node": "n1" }),
            json!({ "storageClassName": "late" }),
            "provision late",
        ),
        (json!({}), json!({ "storageClassName": "local", "volumeName": "big" }), "bind big"),
        (json!({}), json!({ "storageClassName": "local", "volumeName": "taken" }), "FailedBinding"),
        (json!({ BIND_COMPLETED: "yes" }), json!({ "volumeName": "gone" }), "ClaimLost"),
        (json!({ BIND_COMPLETED: "yes" }), json!({}), "ClaimLost"),
        (json!({ BIND_COMPLETED: "yes" }), json!({ "volumeName": "taken" }), "ClaimMisbound"),
    ] {
        let claim = claim(annotations.clone(), spec.clone());
        let action = World { volumes: &volumes, classes: &classes() }.claim(&claim);
        assert_eq!(summary(&action), expected, "{annotations} {spec}");
    }
}

#[test]
fn a_provisioned_volume_is_a_directory_of_its_own_and_made_for_its_claim() {
    let claim = claim(json!({}), json!({ "storageClassName": "standard" }));
    let made = plan::provisioned(&claim, &class("standard", HOST_PATH, "Immediate", true), "/data/volumes".as_ref());
    let spec = made.spec.clone().unwrap();
    assert_eq!(made.name_any(), "pvc-c");
    assert_eq!(spec.host_path.unwrap().path, "/data/volumes/pvc-c");
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    assert_eq!(spec.capacity.unwrap()["storage"].0, "10Gi");
    let volumes = [Arc::new(made)];
    let action = World { volumes: &volumes, classes: &classes() }.claim(&claim);
    assert_eq!(summary(&action), "bind pvc-c");
}

#[test]
fn a_volume_follows_its_claim_and_then_its_reclaim_policy() {
    let bound = json!({ "claimRef": { "name": "data", "namespace": "ns", "uid": "c" } });
    let with = |policy: &str, ours: bool, phase: &str| {
        let mut spec = bound.clone();
        spec["persistentVolumeReclaimPolicy"] = policy.into();
        let mut volume = volume("v", "10Gi", "standard", spec, phase).as_ref().clone();
        if ours {
            volume.annotations_mut().insert(PROVISIONED_BY.into(), HOST_PATH.into());
        }
        volume
    };
    let here = claim(json!({}), json!({ "volumeName": "v" }));
    let elsewhere = claim(json!({}), json!({ "volumeName": "w" }));
    let half = claim(json!({}), json!({}));
    for (volume, claim, expected) in [
        (volume("v", "1Gi", "", json!({}), "").as_ref().clone(), None, VolumeAction::SetPhase("Available")),
        (with("Delete", true, "Available"), Some(&here), VolumeAction::SetPhase("Bound")),
        (with("Delete", true, "Bound"), Some(&here), VolumeAction::Nothing),
        (with("Delete", true, "Available"), Some(&half), VolumeAction::Nothing),
        (with("Retain", false, "Bound"), Some(&elsewhere), VolumeAction::Unbind),
        (with("Delete", true, "Bound"), None, VolumeAction::SetPhase("Released")),
        (with("Delete", true, "Released"), None, VolumeAction::Delete),
        (with("Delete", true, "Failed"), None, VolumeAction::Delete),
        (with("Retain", true, "Released"), None, VolumeAction::Nothing),
        (with("Delete", false, "Failed"), None, VolumeAction::Nothing),
    ] {
        assert_eq!(plan::volume(&volume, claim), expected, "{volume:?}");
    }
    let foreign = plan::volume(&with("Delete", false, "Released"), None);
    assert!(matches!(foreign, VolumeAction::FailDelete(message) if message.contains("no deletable volume plugin")));
}

/// Claims and volumes by name.
type Storage = (BTreeMap<String, PersistentVolumeClaim>, BTreeMap<String, PersistentVolume>);

fn set_phase(volume: &mut PersistentVolume, phase: &str) {
    volume.status.get_or_insert_default().phase = Some(phase.into());
}

/// Looks at every claim and volume once, and does what is to be done.
fn reconcile((claims, volumes): &Storage) -> Storage {
    let (mut claims, mut volumes) = (claims.clone(), volumes.clone());
    for name in claims.keys().cloned().collect::<Vec<_>>() {
        let claim = claims.get_mut(&name).unwrap();
        let known: Vec<_> = volumes.values().cloned().map(Arc::new).collect();
        match (World { volumes: &known, classes: &classes() }).claim(claim) {
            ClaimAction::Nothing => {}
            ClaimAction::SetClass(class) => claim.spec.get_or_insert_default().storage_class_name = Some(class),
            ClaimAction::Bind(volume) => {
                let mut volume = *volume;
                if !plan::is_bound_to(&volume, claim) {
                    plan::bind_volume(&mut volume, claim);
                }
                set_phase(&mut volume, "Bound");
                plan::bind_claim(claim, &volume);
                plan::bound_status(claim, &volume);
                volumes.insert(volume.name_any(), volume);
            }
            ClaimAction::Provision(class) => {
                let made = plan::provisioned(claim, &class, "/data".as_ref());
                volumes.entry(made.name_any()).or_insert(made);
            }
            waits => {
                let is_lost = matches!(waits, ClaimAction::Lost { .. });
                claim.status.get_or_insert_default().phase = Some(if is_lost { "Lost" } else { "Pending" }.into());
            }
        }
    }
    for name in volumes.keys().cloned().collect::<Vec<_>>() {
        let volume = volumes.get_mut(&name).unwrap();
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.name.clone());
        match plan::volume(volume, reference.and_then(|name| claims.get(&name))) {
            VolumeAction::Nothing => {}
            VolumeAction::SetPhase(phase) => set_phase(volume, phase),
            VolumeAction::Delete => drop(volumes.remove(&name)),
            VolumeAction::FailDelete(_) => set_phase(volume, "Failed"),
            VolumeAction::Unbind => {
                plan::unbind(volume);
                set_phase(volume, "Available");
            }
        }
    }
    (claims, volumes)
}

proptest! {
    #[test]
    fn from_any_state_claims_and_volumes_come_to_rest(
        // Its class, the volume that it names, and whether it says that it is bound.
        claims in proptest::collection::btree_map("c[0-2]", (proptest::option::of("local|standard|late|ebs|none|"), proptest::option::of("v[0-3]"), any::<bool>()), 0..4),
        // Its class and phase, its claim, whether that is named by UID, or by one that it no longer has; whether the
        // claim was chosen here, the reclaim policy, and whether it was provisioned.
        volumes in proptest::collection::btree_map("v[0-3]", (
            "local|standard", "Available|Bound|Released|Failed|", proptest::option::of(("c[0-3]", 0..3u8)), any::<bool>(), "Retain|Delete", any::<bool>(),
        ), 0..5),
    ) {
        let claims: BTreeMap<_, _> = claims.into_iter().map(|(name, (class, volume, bound))| {
            let annotations = if bound { json!({ BIND_COMPLETED: "yes" }) } else { json!({}) };
            let mut made = claim(annotations, json!({ "storageClassName": class, "volumeName": volume }));
            (made.metadata.name, made.metadata.uid) = (Some(name.clone()), Some(name.clone()));
            (name, made)
        }).collect();
        let volumes = volumes.into_iter().map(|(name, (class, phase, reference, chosen, policy, provisioned))| {
            let uid = |claim: &str, which: u8| [None, Some(claim.to_owned()), Some("former".to_owned())][usize::from(which)].clone();
            let reference = reference.map(|(claim, which)| json!({ "name": claim, "namespace": "ns", "uid": uid(&claim, which) }));
            let spec = json!({ "claimRef": reference, "persistentVolumeReclaimPolicy": policy });
            let mut made = volume(&name, "10Gi", &class, spec, &phase).as_ref().clone();
            for (key, value, _) in [(BOUND_BY_CONTROLLER, "yes", chosen), (PROVISIONED_BY, HOST_PATH, provisioned)].into_iter().filter(|row| row.2) {
                made.annotations_mut().insert(key.into(), value.into());
            }
            (name, made)
        }).collect();
        let (claims, volumes) = rest((claims, volumes), reconcile);
        let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        for claim in claims.values().filter(|claim| phase(claim) == "Bound") {
            let volume = claim.spec.as_ref().and_then(|spec| volumes.get(spec.volume_name.as_ref()?)).unwrap();
            prop_assert!(plan::is_bound_to(volume, claim) && plan::volume_phase(volume) == "Bound", "{claim:?} {volume:?}");
        }
        for volume in volumes.values().filter(|volume| plan::volume_phase(volume) == "Bound") {
            prop_assert!(claims.values().any(|claim| plan::is_bound_to(volume, claim)), "{volume:?} of nobody");
        }
    }
}
