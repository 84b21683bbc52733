//! Binding as tables.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::plan::{self, BIND_COMPLETED, ClaimAction, HOST_PATH, PROVISIONED_BY, VolumeAction, World};

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
