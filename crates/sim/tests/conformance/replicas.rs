//! Deployments, ReplicaSets and ReplicationControllers.

use coracle_sim::Cluster;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;
use crate::workloads::{self, create};

fn replication_controller(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "replicas": replicas, "selector": { "app": name }, "template": {
            "metadata": { "labels": { "app": name } },
            "spec": { "containers": [{ "name": "web", "image": "httpd:1" }] },
        } },
    })
}

fn deployment(replicas: i32, more: Value) -> Value {
    let mut deployment = workloads::workload("Deployment", "web");
    deployment["spec"]["replicas"] = replicas.into();
    for (field, value) in more.as_object().into_iter().flatten() {
        deployment["spec"][field] = value.clone();
    }
    deployment
}

/// Waits for so many ready pods of an app, and no others. Their images, each once.
async fn ready(cluster: &Cluster, app: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let all = Objects::find(cluster, "v1", "Pod").await?;
    let mut images = Vec::new();
    until("its pods are ready", async || {
        let pods = all.list(&format!("app={app}")).await?;
        images = pods.iter().map(|pod| text(pod, "/spec/containers/0/image").to_owned()).collect();
        Ok(pods.len() == count && pods.iter().all(workloads::is_ready))
    })
    .await?;
    images.dedup();
    Ok(images)
}

/// A pod that matches is adopted, and set free when its label changes; another takes its place.
#[track_caller]
fn adopts_and_releases(manifest: &Value) {
    cluster(async |cluster| {
        let app = name(manifest);
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let mut orphan = pod("orphan", json!({}), json!({}));
        orphan["metadata"]["labels"] = json!({ "app": app });
        pods.create(&orphan).await?;
        create(cluster, manifest).await?;
        let owner = async || anyhow::Ok(pods.get("orphan").await?["metadata"]["ownerReferences"][0]["name"].clone());
        until("the pod is adopted", async || Ok(owner().await? == app)).await?;
        cluster.settle().await;
        assert_eq!(pods.list(&format!("app={app}")).await?.len(), 1);
        pods.merge("orphan", json!({ "metadata": { "labels": { "app": "free" } } })).await?;
        until("the pod is released", async || Ok(owner().await?.is_null())).await?;
        ready(cluster, app, 1).await?;
        Ok(())
    });
}

#[test]
fn a_replica_set_adopts_matching_pods_and_releases_those_that_match_no_longer() {
    let mut set = workloads::workload("ReplicaSet", "rs");
    set["spec"]["replicas"] = 1.into();
    adopts_and_releases(&set);
}

#[test]
fn a_replication_controller_adopts_matching_pods() {
    adopts_and_releases(&replication_controller("rc", 1));
}

#[test]
fn a_replication_controller_releases_a_pod_whose_label_changes() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        create(cluster, &replication_controller("pod-release", 1)).await?;
        until("its pod is there", async || Ok(pods.list("app=pod-release").await?.len() == 1)).await?;
        let pod = pods.list("app=pod-release").await?.remove(0);
        pods.merge(name(&pod), json!({ "metadata": { "labels": { "app": "other" } } })).await?;
        until("the pod is released", async || {
            let pod = pods.get(name(&pod)).await?;
            let owners = pod["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
            Ok(owners.iter().all(|owner| owner["controller"] != true))
        })
        .await?;
        until("another takes its place", async || {
            let pods = pods.list("app=pod-release").await?;
            Ok(pods.len() == 1 && name(&pods[0]) != name(&pod))
        })
        .await
    });
}

#[test]
fn a_replication_controller_over_quota_says_so_until_the_quota_allows() {
    control_plane(async |cluster| {
        let controllers = Objects::of(cluster, &replication_controller("", 0)).await?;
        create(
            cluster,
            &json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "condition-test" },
                "spec": { "hard": { "pods": "2" } },
            }),
        )
        .await?;
        create(cluster, &replication_controller("condition-test", 3)).await?;
        let failure = async || -> anyhow::Result<Option<Value>> {
            let conditions = controllers.get("condition-test").await?["status"]["conditions"].clone();
            let conditions = conditions.as_array().cloned().unwrap_or_default();
            Ok(conditions.into_iter().find(|condition| condition["type"] == "ReplicaFailure"))
        };
        until("it has a failure condition", async || Ok(failure().await?.is_some())).await?;
        let condition = failure().await?.expect("seen just now");
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("FailedCreate")));
        assert!(text(&condition, "/message").contains("exceeded quota: condition-test"), "{condition}");
        controllers.merge("condition-test", json!({ "spec": { "replicas": 2 } })).await?;
        until("the condition is gone", async || Ok(failure().await?.is_none())).await
    });
}

#[test]
fn a_replication_controller_takes_every_verb() {
    takes_every_verb(
        replication_controller("rc", 1),
        json!({ "spec": { "replicas": 2 } }),
        json!({ "replicas": 1, "readyReplicas": 1 }),
    );
}

#[test]
fn the_scale_of_a_replication_controller_is_read_and_updated() {
    workloads::has_a_working_scale(&replication_controller("rc", 1));
}

#[test]
fn a_replica_set_has_a_working_scale_subresource() {
    workloads::has_a_working_scale(&workloads::workload("ReplicaSet", "rs"));
}

#[test]
fn replica_sets_are_listed_and_deleted_as_a_collection() {
    workloads::is_listed_patched_and_deleted_as_a_collection(&workloads::workload("ReplicaSet", "rs"));
}

#[test]
fn the_status_of_a_replica_set_is_read_updated_and_patched() {
    workloads::has_a_status(&workloads::workload("ReplicaSet", "rs"));
}

#[test]
fn a_replica_set_is_scaled_and_patched() {
    cluster(async |cluster| {
        let sets = create(cluster, &workloads::workload("ReplicaSet", "rs")).await?;
        ready(cluster, "rs", 1).await?;
        let mut set = sets.get("rs").await?;
        set["spec"]["replicas"] = 2.into();
        until("the set is replaced", async || {
            set["metadata"]["resourceVersion"] = sets.get("rs").await?["metadata"]["resourceVersion"].clone();
            Ok(sets.replace(&set).await.is_ok())
        })
        .await?;
        ready(cluster, "rs", 2).await?;
        let mut patch = workloads::image("httpd:2");
        patch["spec"]["replicas"] = 3.into();
        patch["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 5.into();
        sets.patch("rs", &Patch::Strategic(patch)).await?;
        ready(cluster, "rs", 3).await?;
        let spec = sets.get("rs").await?["spec"]["template"]["spec"].clone();
        assert_eq!(
            (&spec["terminationGracePeriodSeconds"], &spec["containers"][0]["image"]),
            (&json!(5), &json!("httpd:2"))
        );
        Ok(())
    });
}

#[test]
fn a_deployment_has_a_working_scale_subresource() {
    workloads::has_a_working_scale(&deployment(1, json!({})));
}

#[test]
fn the_status_of_a_deployment_is_read_updated_and_patched() {
    workloads::has_a_status(&deployment(1, json!({})));
}

#[test]
fn a_rolling_update_takes_over_the_replica_set_that_is_there() {
    cluster(async |cluster| {
        let sets = create(cluster, &workloads::workload("ReplicaSet", "web")).await?;
        ready(cluster, "web", 1).await?;
        let mut new = deployment(1, json!({}));
        new["spec"]["template"]["spec"]["containers"][0]["image"] = "httpd:2".into();
        create(cluster, &new).await?;
        until("the new pod alone is left", async || Ok(ready(cluster, "web", 1).await? == ["httpd:2"])).await?;
        cluster.settle().await;
        let old = sets.get("web").await?;
        assert_eq!(
            (&old["metadata"]["ownerReferences"][0]["kind"], &old["spec"]["replicas"]),
            (&json!("Deployment"), &json!(0))
        );
        Ok(())
    });
}

#[test]
fn old_replica_sets_go_if_no_history_is_kept() {
    cluster(async |cluster| {
        let deployments = create(cluster, &deployment(1, json!({ "revisionHistoryLimit": 0 }))).await?;
        ready(cluster, "web", 1).await?;
        deployments.patch("web", &Patch::Strategic(workloads::image("httpd:2"))).await?;
        cluster.settle().await;
        let sets = Objects::find(cluster, "apps/v1", "ReplicaSet").await?.list("app=web").await?;
        assert_eq!(sets.len(), 1);
        assert_eq!(text(&sets[0], "/spec/template/spec/containers/0/image"), "httpd:2");
        Ok(())
    });
}

/// The sizes of a Deployment's ReplicaSets by image.
async fn sizes(cluster: &Cluster) -> anyhow::Result<std::collections::BTreeMap<String, i64>> {
    let sets = Objects::find(cluster, "apps/v1", "ReplicaSet").await?.list("app=web").await?;
    let size = |set: &Value| {
        (
            text(set, "/spec/template/spec/containers/0/image").to_owned(),
            set["spec"]["replicas"].as_i64().unwrap_or_default(),
        )
    };
    Ok(sets.iter().map(size).collect())
}

/// A template whose pods are never ready.
fn stuck(image: &str) -> Patch<Value> {
    let mut patch = workloads::image(image);
    patch["spec"]["template"]["spec"]["nodeSelector"] = json!({ "no": "such" });
    Patch::Strategic(patch)
}

#[test]
fn scaling_during_a_stuck_rollout_splits_the_replicas_in_proportion() {
    cluster(async |cluster| {
        let strategy = json!({ "strategy": { "rollingUpdate": { "maxSurge": 3, "maxUnavailable": 2 } } });
        let deployments = create(cluster, &deployment(10, strategy)).await?;
        ready(cluster, "web", 10).await?;
        cluster.settle().await;
        deployments.patch("web", &stuck("httpd:404")).await?;
        cluster.settle().await;
        let of = |old, new| [("httpd:1".to_owned(), old), ("httpd:404".to_owned(), new)].into();
        assert_eq!(sizes(cluster).await?, of(8, 5));
        deployments.merge("web", json!({ "spec": { "replicas": 30 } })).await?;
        cluster.settle().await;
        assert_eq!(sizes(cluster).await?, of(20, 13));
        Ok(())
    });
}

#[test]
fn a_stuck_rollout_is_overtaken_by_a_newer_one() {
    cluster(async |cluster| {
        let strategy = json!({ "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } } });
        let deployments = create(cluster, &deployment(1, strategy)).await?;
        ready(cluster, "web", 1).await?;
        deployments.patch("web", &stuck("httpd:404")).await?;
        cluster.settle().await;
        let mut better = workloads::image("httpd:2");
        better["spec"]["template"]["spec"]["nodeSelector"] = Value::Null;
        deployments.patch("web", &Patch::Strategic(better)).await?;
        cluster.settle().await;
        assert_eq!(ready(cluster, "web", 1).await?, ["httpd:2"]);
        let sizes: Vec<_> = sizes(cluster).await?.into_values().collect();
        assert_eq!(sizes, [0, 1, 0], "of the first, the second and the one in between");
        Ok(())
    });
}

#[test]
fn a_watch_sees_a_deployment_from_its_creation_to_its_deletion() {
    cluster(async |cluster| {
        let deployments = Objects::of(cluster, &deployment(1, json!({}))).await?;
        let mut watch = deployments.watch("app=web", &deployments.now().await?).await?;
        create(cluster, &deployment(1, json!({}))).await?;
        ready(cluster, "web", 1).await?;
        let mut patch = workloads::image("httpd:2");
        patch["spec"]["replicas"] = 2.into();
        deployments.patch("web", &Patch::Strategic(patch)).await?;
        ready(cluster, "web", 2).await?;
        cluster.settle().await;
        deployments.patch_sub("scale", "web", &Patch::Merge(json!({ "spec": { "replicas": 1 } }))).await?;
        ready(cluster, "web", 1).await?;
        deployments.delete_collection("app=web").await?;
        let mut seen = Vec::new();
        loop {
            let (kind, object) = watch.next().await?;
            let state = (object["spec"]["replicas"].as_i64(), object["status"]["readyReplicas"].as_i64());
            seen.push((kind, state));
            if kind == "DELETED" {
                break;
            }
        }
        assert_eq!(seen[0], ("ADDED", (Some(1), None)));
        for state in [(1, 1), (2, 2), (1, 1)] {
            assert!(seen.contains(&("MODIFIED", (Some(state.0), Some(state.1)))), "{seen:?}");
        }
        Ok(())
    });
}
