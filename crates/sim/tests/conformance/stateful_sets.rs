//! StatefulSets.

use coracle_sim::Cluster;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;
use crate::workloads::{self, create, set_healthy};

fn stateful_set(name: &str, replicas: i32) -> Value {
    let mut set = workloads::workload("StatefulSet", name);
    set["spec"]["replicas"] = replicas.into();
    set["spec"]["serviceName"] = "test".into();
    set
}

/// The set's pods: ordinal, image and whether they are ready.
async fn pods(cluster: &Cluster) -> anyhow::Result<Vec<(String, String, bool)>> {
    let pods = Objects::find(cluster, "v1", "Pod").await?.list("app=ss").await?;
    let state = |pod: &Value| {
        (name(pod).to_owned(), text(pod, "/spec/containers/0/image").to_owned(), workloads::is_ready(pod))
    };
    Ok(pods.iter().map(state).collect())
}

async fn ready(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    until("all pods are ready", async || {
        let pods = pods(cluster).await?;
        Ok(pods.len() == count && pods.iter().all(|(_, _, ready)| *ready))
    })
    .await
}

/// In the order of the cluster's history: `+name` for each of the set's pods created, `-name` for each removed.
fn comings_and_goings(cluster: &Cluster) -> Vec<String> {
    let mut there = std::collections::BTreeSet::new();
    let mut seen = Vec::new();
    for change in cluster.history() {
        let (resource, object) = change.object();
        let Some(name) = object.strip_prefix("default/").filter(|_| resource == "pods") else { continue };
        if change.value.is_none() {
            there.remove(name);
            seen.push(format!("-{name}"));
        } else if there.insert(name.to_owned()) {
            seen.push(format!("+{name}"));
        }
    }
    seen
}

async fn scale(cluster: &Cluster, replicas: i32) -> anyhow::Result<()> {
    let sets = Objects::find(cluster, "apps/v1", "StatefulSet").await?;
    sets.merge("ss", json!({ "spec": { "replicas": replicas } })).await?;
    Ok(())
}

#[test]
fn stateful_set_scaling_happens_in_order_and_halts_at_an_unhealthy_pod() {
    cluster(async |cluster| {
        create(cluster, &stateful_set("ss", 1)).await?;
        ready(cluster, 1).await?;
        set_healthy(cluster, "ss-0", false).await?;
        until("ss-0 is unready", async || Ok(!pods(cluster).await?[0].2)).await?;
        scale(cluster, 3).await?;
        cluster.settle().await;
        assert_eq!(pods(cluster).await?.len(), 1, "it waits");
        set_healthy(cluster, "ss-0", true).await?;
        ready(cluster, 3).await?;
        let all = async |healthy| -> anyhow::Result<()> {
            for pod in ["ss-0", "ss-1", "ss-2"] {
                set_healthy(cluster, pod, healthy).await?;
            }
            until("they show it", async || Ok(pods(cluster).await?.iter().all(|pod| pod.2 == healthy))).await
        };
        all(false).await?;
        scale(cluster, 0).await?;
        cluster.settle().await;
        assert_eq!(pods(cluster).await?.len(), 3, "it waits");
        all(true).await?;
        cluster.settle().await;
        assert_eq!(comings_and_goings(cluster), ["+ss-0", "+ss-1", "+ss-2", "-ss-2", "-ss-1", "-ss-0"]);
        Ok(())
    });
}

#[test]
fn a_parallel_stateful_set_scales_although_its_pods_are_unhealthy() {
    cluster(async |cluster| {
        let mut set = stateful_set("ss", 1);
        set["spec"]["podManagementPolicy"] = "Parallel".into();
        create(cluster, &set).await?;
        ready(cluster, 1).await?;
        set_healthy(cluster, "ss-0", false).await?;
        until("ss-0 is unready", async || Ok(!pods(cluster).await?[0].2)).await?;
        scale(cluster, 3).await?;
        until("three are there", async || Ok(pods(cluster).await?.len() == 3)).await?;
        cluster.settle().await;
        for pod in ["ss-1", "ss-2"] {
            set_healthy(cluster, pod, false).await?;
        }
        until("none is ready", async || Ok(pods(cluster).await?.iter().all(|pod| !pod.2))).await?;
        scale(cluster, 0).await?;
        until("all are gone", async || Ok(pods(cluster).await?.is_empty())).await
    });
}

#[test]
fn an_evicted_pod_of_a_stateful_set_is_made_anew() {
    cluster(async |cluster| {
        create(cluster, &stateful_set("ss", 1)).await?;
        ready(cluster, 1).await?;
        workloads::evict(cluster, "ss-0").await?;
        until("it is gone", async || Ok(comings_and_goings(cluster).contains(&"-ss-0".to_owned()))).await?;
        ready(cluster, 1).await?;
        assert_eq!(comings_and_goings(cluster), ["+ss-0", "-ss-0", "+ss-0"]);
        Ok(())
    });
}

#[test]
fn a_stateful_set_is_updated_and_rolled_back_from_the_top_and_halts_at_an_unhealthy_pod() {
    cluster(async |cluster| {
        let sets = Objects::find(cluster, "apps/v1", "StatefulSet").await?;
        create(cluster, &stateful_set("ss", 3)).await?;
        ready(cluster, 3).await?;
        cluster.settle().await;
        let first = sets.get("ss").await?["status"].clone();
        assert_eq!(first["currentRevision"], first["updateRevision"]);

        set_healthy(cluster, "ss-1", false).await?;
        until("ss-1 is unready", async || Ok(!pods(cluster).await?[1].2)).await?;
        sets.patch("ss", &Patch::Strategic(workloads::image("httpd:2"))).await?;
        cluster.settle().await;
        let halted = sets.get("ss").await?["status"].clone();
        assert_eq!((&halted["updatedReplicas"], &halted["currentRevision"]), (&Value::Null, &first["currentRevision"]));
        assert_ne!(halted["updateRevision"], first["updateRevision"]);
        set_healthy(cluster, "ss-1", true).await?;
        cluster.settle().await;
        ready(cluster, 3).await?;
        assert!(pods(cluster).await?.iter().all(|pod| pod.1 == "httpd:2"));
        let updated = sets.get("ss").await?["status"].clone();
        assert_eq!(updated["currentRevision"], halted["updateRevision"]);
        assert_eq!((&updated["currentReplicas"], &updated["updatedReplicas"]), (&json!(3), &json!(3)));

        // As `kubectl rollout undo` does it: the old revision's data is the patch.
        let revisions = Objects::find(cluster, "apps/v1", "ControllerRevision").await?;
        let old = revisions.get(text(&first, "/currentRevision")).await?;
        sets.patch("ss", &Patch::Strategic(old["data"].clone())).await?;
        cluster.settle().await;
        ready(cluster, 3).await?;
        assert!(pods(cluster).await?.iter().all(|pod| pod.1 == "httpd:1"));
        assert_eq!(sets.get("ss").await?["status"]["currentRevision"], first["currentRevision"]);
        let numbers = revisions.list("app=ss").await?;
        let mut numbers: Vec<_> = numbers.iter().map(|revision| revision["revision"].as_i64()).collect();
        numbers.sort();
        assert_eq!(numbers, [Some(2), Some(3)], "the first came back as the third");
        let went = |pods: &[&str]| {
            comings_and_goings(cluster).ends_with(&pods.iter().map(|&pod| pod.to_owned()).collect::<Vec<_>>())
        };
        assert!(went(&["-ss-2", "+ss-2", "-ss-1", "+ss-1", "-ss-0", "+ss-0"]), "{:?}", comings_and_goings(cluster));
        Ok(())
    });
}

#[test]
fn a_partition_makes_canaries_and_phases_of_an_update() {
    cluster(async |cluster| {
        let (sets, all) =
            (Objects::find(cluster, "apps/v1", "StatefulSet").await?, Objects::find(cluster, "v1", "Pod").await?);
        let partition = |at: i32| json!({ "spec": { "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": at } } } });
        let images = async || -> anyhow::Result<String> {
            Ok(pods(cluster).await?.into_iter().map(|pod| pod.1.replace("httpd:", "")).collect())
        };
        let mut set = stateful_set("ss", 3);
        set["spec"]["updateStrategy"] = partition(3)["spec"]["updateStrategy"].clone();
        create(cluster, &set).await?;
        ready(cluster, 3).await?;
        sets.patch("ss", &Patch::Strategic(workloads::image("httpd:2"))).await?;
        cluster.settle().await;
        assert_eq!(images().await?, "111", "not before the partition says so");
        sets.merge("ss", partition(2)).await?;
        cluster.settle().await;
        assert_eq!(images().await?, "112", "a canary");
        let status = sets.get("ss").await?["status"].clone();
        assert_eq!((&status["currentReplicas"], &status["updatedReplicas"]), (&json!(2), &json!(1)));
        for pod in ["ss-0", "ss-2"] {
            all.delete(pod).await?;
        }
        cluster.settle().await;
        ready(cluster, 3).await?;
        assert_eq!(images().await?, "112", "each comes back at its revision");
        for (at, expected) in [(1, "122"), (0, "222")] {
            sets.merge("ss", partition(at)).await?;
            cluster.settle().await;
            assert_eq!(images().await?, expected);
        }
        let status = sets.get("ss").await?["status"].clone();
        assert_eq!(status["currentRevision"], status["updateRevision"]);
        let revision = &status["updateRevision"];
        let labels = all.list("app=ss").await?;
        assert!(labels.iter().all(|pod| pod["metadata"]["labels"]["controller-revision-hash"] == *revision));
        Ok(())
    });
}

#[test]
fn a_stateful_set_has_a_working_scale_subresource() {
    workloads::has_a_working_scale(&stateful_set("ss", 1));
}

#[test]
fn stateful_sets_are_listed_patched_and_deleted_as_a_collection() {
    workloads::is_listed_patched_and_deleted_as_a_collection(&stateful_set("ss", 1));
}

#[test]
fn the_status_of_a_stateful_set_is_read_updated_and_patched() {
    workloads::has_a_status(&stateful_set("ss", 1));
}
