//! Volumes, their classes and drivers; what is immutable.

use kube::api::Patch;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;

const GROUP: &str = "storage.k8s.io/v1";

fn storage(kind: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({ "apiVersion": GROUP, "kind": kind, "metadata": { "name": name } });
    object
        .as_object_mut()
        .into_iter()
        .for_each(|object| object.extend(fields.as_object().cloned().unwrap_or_default()));
    object
}

#[test]
fn a_csi_driver_takes_every_verb() {
    let modes =
        |modes: Value| json!({ "spec": { "volumeLifecycleModes": modes, "fsGroupPolicy": "ReadWriteOnceWithFSType" } });
    let label = json!({ "metadata": { "labels": { "e2e": "patched" } } });
    takes_every_verb(storage("CSIDriver", "inline-driver", modes(json!(["Ephemeral"]))), label, Value::Null);
}

#[test]
fn a_csi_node_takes_every_verb() {
    takes_every_verb(
        storage("CSINode", "e2e-csinode", json!({ "spec": { "drivers": [] } })),
        json!({ "spec": { "drivers": [{ "name": "e2e.example.com", "nodeID": "e2e-node" }] } }),
        Value::Null,
    );
}

#[test]
fn a_csi_storage_capacity_takes_every_verb() {
    takes_every_verb(
        storage(
            "CSIStorageCapacity",
            "e2e-capacity",
            json!({
                "storageClassName": "e2e-class", "capacity": "50Gi", "nodeTopology": { "matchLabels": { "zone": "east" } },
            }),
        ),
        json!({ "capacity": "40Gi", "maximumVolumeSize": "10Gi" }),
        Value::Null,
    );
}

#[test]
fn a_storage_class_takes_every_verb() {
    takes_every_verb(
        storage(
            "StorageClass",
            "e2e-class",
            json!({ "provisioner": "e2e-fake-provisioner", "reclaimPolicy": "Delete" }),
        ),
        json!({ "allowVolumeExpansion": true }),
        Value::Null,
    );
}

fn attachment() -> Value {
    storage(
        "VolumeAttachment",
        "va-e2e",
        json!({ "spec": {
        "attacher": "e2e-test.storage.k8s.io", "nodeName": "worker-1", "source": { "persistentVolumeName": "pv-e2e" },
    } }),
    )
}

#[test]
fn a_volume_attachment_takes_every_verb() {
    takes_every_verb(
        attachment(),
        json!({ "metadata": { "labels": { "e2e": "patched" } } }),
        json!({ "attached": true }),
    );
}

#[test]
fn a_volume_attachments_status_is_read_patched_and_updated() {
    api(async |cluster| {
        let attachments = Objects::of(cluster, &attachment()).await?;
        attachments.create(&attachment()).await?;
        assert_eq!(attachments.get_sub("status", "va-e2e").await?["status"]["attached"], false);
        let patch = Patch::Merge(json!({ "status": { "attached": true } }));
        let mut patched = attachments.patch_sub("status", "va-e2e", &patch).await?;
        assert_eq!(patched["status"]["attached"], true);
        patched["status"]["attached"] = false.into();
        assert_eq!(attachments.replace_sub("status", &patched).await?["status"]["attached"], false);
        Ok(())
    });
}

#[test]
fn a_volume_attributes_class_takes_every_verb() {
    takes_every_verb(
        storage(
            "VolumeAttributesClass",
            "e2e-vac",
            json!({ "driverName": "e2e-fake-csi-driver", "parameters": { "iops": "1" } }),
        ),
        json!({ "metadata": { "labels": { "e2e": "patched" } } }),
        Value::Null,
    );
}

#[test]
fn pods_with_inline_csi_volumes_are_created_listed_patched_and_deleted() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "pod-csi-inline-volumes" },
            "spec": {
                "volumes": [
                    { "name": "vol1", "csi": { "driver": "e2e.example.com" } },
                    { "name": "vol2", "csi": { "driver": "e2e.example.com", "fsType": "ext4", "readOnly": true } },
                ],
                "containers": [{
                    "name": "main", "image": "busybox:1", "command": ["sh", "-c", "ls /mnt/*"],
                    "volumeMounts": [{ "name": "vol1", "mountPath": "/mnt/vol1" }, { "name": "vol2", "mountPath": "/mnt/vol2" }],
                }],
            },
        });
        let created = pods.create(&pod).await?;
        for volume in pod["spec"]["volumes"].as_array().expect("two") {
            let volumes = created["spec"]["volumes"].as_array().expect("and the token");
            assert!(volumes.iter().any(|stored| contains(stored, volume)), "{volume} in {volumes:?}");
        }
        refused(pods.create(&pod).await, 409, "AlreadyExists");
        assert_eq!(pods.get("pod-csi-inline-volumes").await?["metadata"]["uid"], created["metadata"]["uid"]);
        assert_eq!(pods.list("").await?.len(), 1);
        let patch = json!({ "metadata": { "annotations": { "patched": "true" } } });
        assert_contains(&pods.merge("pod-csi-inline-volumes", patch.clone()).await?, &patch);
        pods.delete("pod-csi-inline-volumes").await?;
        assert!(!pods.exists("pod-csi-inline-volumes").await?, "an unscheduled pod goes at once");
        Ok(())
    });
}

/// `kind` (a ConfigMap or Secret) takes new data until it is immutable, which it stays; it can still be deleted.
#[track_caller]
fn is_immutable_when_it_says_so(kind: &str) {
    api(async |cluster| {
        let objects = Objects::find(cluster, "v1", kind).await?;
        let old = "dmFsdWUtMQ==";
        objects
            .create(&json!({
                "apiVersion": "v1", "kind": kind, "metadata": { "name": "immutable" }, "data": { "data-1": old },
            }))
            .await?;
        let update = async |change: &dyn Fn(&mut Value)| {
            let mut object = objects.get("immutable").await?;
            change(&mut object);
            objects.replace(&object).await
        };
        let new_data = |object: &mut Value| object["data"]["data-2"] = "dmFsdWUtMg==".into();
        let other_data = |object: &mut Value| object["data"]["data-3"] = "dmFsdWUtMw==".into();
        let set = |object: &mut Value| object["immutable"] = true.into();
        let unset = |object: &mut Value| object["immutable"] = false.into();
        update(&new_data).await?;
        update(&set).await?;
        for change in [&unset as &dyn Fn(&mut Value), &other_data] {
            let why = refused(update(change).await, 422, "Invalid").message;
            assert!(why.contains("field is immutable when `immutable` is set"), "{why}");
        }
        update(&|object| object["metadata"]["labels"] = json!({ "new": "label" })).await?;
        objects.delete("immutable").await?;
        assert!(!objects.exists("immutable").await?);
        Ok(())
    });
}

#[test]
fn a_config_map_is_immutable_when_it_says_so() {
    is_immutable_when_it_says_so("ConfigMap");
}

#[test]
fn a_secret_is_immutable_when_it_says_so() {
    is_immutable_when_it_says_so("Secret");
}

fn volume(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name, "labels": { "e2e-pv-pool": "pool" } },
        "spec": {
            "capacity": { "storage": "2Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "e2e-class",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": "/e2e" },
        },
    })
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": name, "labels": { "e2e-pvc-pool": "pool" } },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "e2e-class",
            "resources": { "requests": { "storage": "1Gi" } },
            "selector": { "matchLabels": { "e2e-pv-pool": "pool" } },
        },
    })
}

#[test]
fn a_volume_and_a_claim_run_through_their_life() {
    control_plane(async |cluster| {
        let volumes = Objects::of(cluster, &volume("")).await?;
        let claims = Objects::of(cluster, &claim("")).await?;
        let bound = async || {
            until("they are bound", async || {
                let (volume, claim) = (volumes.get("pv").await?, claims.get("pvc").await?);
                Ok(text(&volume, "/status/phase") == "Bound" && text(&claim, "/status/phase") == "Bound")
            })
            .await
        };
        let gone = async || {
            until("they are gone", async || {
                Ok(volumes.list("e2e-pv-pool=pool").await?.is_empty()
                    && claims.list("e2e-pvc-pool=pool").await?.is_empty())
            })
            .await
        };
        volumes.create(&volume("pv")).await?;
        claims.create(&claim("pvc")).await?;
        bound().await?;
        assert_eq!(volumes.list("e2e-pv-pool=pool").await?.len(), 1);
        assert_eq!(claims.everywhere().list("e2e-pvc-pool=pool").await?.len(), 1);
        for (objects, name, other) in [(&volumes, "pv", "pvc"), (&claims, "pvc", "pv")] {
            let label = json!({ "metadata": { "labels": { name: "patched" } } });
            assert_contains(&objects.patch(name, &Patch::Strategic(label.clone())).await?, &label);
            let object = objects.get(name).await?;
            assert_eq!(text(&object, "/metadata/name"), name);
            assert!(object["spec"].to_string().contains(other), "they name each other");
        }
        claims.delete("pvc").await?;
        volumes.delete("pv").await?;
        gone().await?;

        volumes.create(&volume("pv")).await?;
        claims.create(&claim("pvc")).await?;
        bound().await?;
        for (objects, name) in [(&volumes, "pv"), (&claims, "pvc")] {
            let mut object = objects.get(name).await?;
            object["metadata"]["labels"][name] = "updated".into();
            assert_eq!(objects.replace(&object).await?["metadata"]["labels"][name], "updated");
        }
        claims.delete_collection("pvc=updated").await?;
        volumes.delete_collection("pv=updated").await?;
        gone().await
    });
}

#[test]
fn a_volumes_and_a_claims_status_are_patched_and_updated() {
    api(async |cluster| {
        let volumes = Objects::of(cluster, &volume("pv")).await?;
        let claims = Objects::of(cluster, &claim("pvc")).await?;
        volumes.create(&volume("pv")).await?;
        claims.create(&claim("pvc")).await?;
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "E2E patchedStatus", "message": "Set from e2e test" });

        assert_eq!(claims.get_sub("status", "pvc").await?["kind"], "PersistentVolumeClaim");
        let patch = Patch::Merge(json!({ "status": { "conditions": [condition("StatusPatched")] } }));
        let mut patched = claims.patch_sub("status", "pvc", &patch).await?;
        assert_contains(&patched["status"]["conditions"], &json!([condition("StatusPatched")]));
        patched["status"]["conditions"] = json!([condition("StatusPatched"), condition("StatusUpdated")]);
        let updated = claims.replace_sub("status", &patched).await?;
        assert_contains(&updated["status"]["conditions"], &patched["status"]["conditions"]);

        assert_eq!(volumes.get_sub("status", "pv").await?["kind"], "PersistentVolume");
        let status = json!({ "message": "StatusPatched", "reason": "E2E patchStatus" });
        let mut patched = volumes.patch_sub("status", "pv", &Patch::Merge(json!({ "status": status }))).await?;
        assert_contains(&patched["status"], &status);
        patched["status"]["message"] = "StatusUpdated".into();
        assert_eq!(volumes.replace_sub("status", &patched).await?["status"]["message"], "StatusUpdated");
        Ok(())
    });
}
