//! What workloads have in common.

use coracle_sim::Cluster;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;

/// A workload of one container, whose pods' label `app` is its name.
pub fn workload(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
                "name": "web", "image": "httpd:1",
                "readinessProbe": { "httpGet": { "path": "/", "port": 80 }, "periodSeconds": 1, "failureThreshold": 1 },
            }] },
        } },
    })
}

/// A strategic merge patch to another image.
pub fn image(image: &str) -> Value {
    json!({ "spec": { "template": { "spec": { "containers": [{ "name": "web", "image": image }] } } } })
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Creates an object; all of its kind.
pub async fn create(cluster: &Cluster, object: &Value) -> anyhow::Result<Objects> {
    let objects = Objects::of(cluster, object).await?;
    objects.create(object).await?;
    Ok(objects)
}

/// Lets the probes of a workload's pod succeed or fail.
pub async fn set_healthy(cluster: &Cluster, pod: &str, healthy: bool) -> anyhow::Result<()> {
    let pod = Objects::find(cluster, "v1", "Pod").await?.get(pod).await?;
    cluster.machine(text(&pod, "/spec/nodeName")).set_healthy("default", name(&pod), "web", healthy);
    Ok(())
}

/// Ends a pod as a node does that is short of memory or refuses the pod.
pub async fn evict(cluster: &Cluster, pod: &str) -> anyhow::Result<()> {
    let evicted = json!({ "status": { "phase": "Failed", "reason": "Evicted" } });
    Objects::find(cluster, "v1", "Pod").await?.patch_sub("status", pod, &Patch::Merge(evicted)).await?;
    Ok(())
}

#[track_caller]
pub fn is_listed_patched_and_deleted_as_a_collection(manifest: &Value) {
    cluster(async |cluster| {
        let (objects, pods) = (create(cluster, manifest).await?, Objects::find(cluster, "v1", "Pod").await?);
        let label = format!("app={}", name(manifest));
        until("its pods are ready", async || {
            let pods = pods.list(&label).await?;
            Ok(!pods.is_empty() && pods.iter().all(is_ready))
        })
        .await?;
        assert_eq!(objects.everywhere().list(&label).await?.len(), 1);
        let patch = json!({ "metadata": { "labels": { "patched": "yes" } } });
        objects.patch(name(manifest), &Patch::Strategic(patch)).await?;
        assert_eq!(objects.list("patched=yes").await?.len(), 1);
        objects.delete_collection("patched=yes").await?;
        until("all is gone", async || Ok(objects.list("").await?.is_empty() && pods.list(&label).await?.is_empty()))
            .await
    });
}

/// A workload of one pod can be scaled through `/scale`.
#[track_caller]
pub fn has_a_working_scale(manifest: &Value) {
    cluster(async |cluster| {
        let (objects, this) = (create(cluster, manifest).await?, name(manifest));
        let ready = async |count: usize| {
            until("its pods are ready", async || {
                let pods = Objects::find(cluster, "v1", "Pod").await?.list(&format!("app={this}")).await?;
                Ok(pods.len() == count && pods.iter().all(is_ready))
            })
            .await
        };
        ready(1).await?;
        cluster.settle().await;
        let mut scale = objects.get_sub("scale", this).await?;
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(1), &json!(1)));
        assert_eq!(scale["status"]["selector"], format!("app={this}"));
        scale["spec"]["replicas"] = 2.into();
        assert_eq!(objects.replace_sub("scale", &scale).await?["spec"]["replicas"], 2);
        assert_eq!(objects.get(this).await?["spec"]["replicas"], 2);
        let four = Patch::Merge(json!({ "spec": { "replicas": 4 } }));
        objects.patch_sub("scale", this, &four).await?;
        assert_eq!(objects.get(this).await?["spec"]["replicas"], 4);
        ready(4).await
    });
}

#[track_caller]
pub fn has_a_status(manifest: &Value) {
    cluster(async |cluster| {
        let (objects, this) = (create(cluster, manifest).await?, name(manifest));
        cluster.settle().await;
        let condition =
            |kind: &str| json!({ "type": kind, "status": "True", "reason": "E2E", "message": "Set from a test" });
        let has = |object: &Value, kind: &str| {
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|condition| condition["type"] == kind)
        };
        let mut object = objects.get_sub("status", this).await?;
        assert_eq!(object["status"]["observedGeneration"], 1);
        object["status"]["conditions"] = json!([condition("StatusUpdate")]);
        assert!(has(&objects.replace_sub("status", &object).await?, "StatusUpdate"));
        let patch = json!({ "status": { "conditions": [condition("StatusPatched")] } });
        let patched = objects.patch_sub("status", this, &Patch::Merge(patch)).await?;
        assert!(has(&patched, "StatusPatched"));
        cluster.settle().await;
        assert!(has(&objects.get(this).await?, "StatusPatched"), "the controller leaves it alone");
        Ok(())
    });
}
