//! StatefulSets and what they keep.

use coracle_sim::{Cluster, Component};
use serde_json::{Value, json};

use crate::support::*;

/// A StatefulSet whose pods have a claim each.
fn database(replicas: u32, when_deleted: &str, when_scaled: &str) -> Value {
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    let more = json!({
        "replicas": replicas, "serviceName": "db", "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": { "whenDeleted": when_deleted, "whenScaled": when_scaled },
    });
    workload("StatefulSet", "db", "mysql:8", more)
}

async fn claims(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    Ok(cluster.list("persistentvolumeclaims", Some("default")).await?.iter().map(name).collect())
}

#[test]
fn each_pod_gets_its_own_claim_back() {
    simulate(async |cluster| {
        cluster.create(database(2, "Retain", "Retain")).await?;
        cluster.settle().await;
        assert_eq!(ready_pods(cluster, "db").await?, 2);
        assert_eq!(claims(cluster).await?, ["data-db-0", "data-db-1"]);
        let volume = get(cluster, "persistentvolumeclaims", "data-db-1").await?["spec"]["volumeName"].clone();
        cluster.patch("statefulsets", "db", json!({ "spec": { "replicas": 0 } })).await?;
        cluster.settle().await;
        assert_eq!(claims(cluster).await?.len(), 2);
        cluster.patch("statefulsets", "db", json!({ "spec": { "replicas": 2 } })).await?;
        cluster.settle().await;
        assert_eq!(ready_pods(cluster, "db").await?, 2);
        assert_eq!(get(cluster, "persistentvolumeclaims", "data-db-1").await?["spec"]["volumeName"], volume);
        cluster.delete("statefulsets", "db").await?;
        cluster.settle().await;
        assert_eq!((pods(cluster, "db").await?.len(), claims(cluster).await?.len()), (0, 2));
        let told = messages(cluster, "db").await?;
        for message in [
            "create Claim data-db-0 Pod db-0 in StatefulSet db success",
            "create Pod db-0 in StatefulSet db successful",
            "delete Pod db-1 in StatefulSet db successful",
        ] {
            assert!(told.iter().any(|event| event == message), "{told:?}");
        }
        Ok(())
    });
}

#[test]
fn claims_are_deleted_with_the_set_or_with_pods_scaled_away_if_the_policy_says_so() {
    simulate(async |cluster| {
        cluster.create(database(3, "Retain", "Delete")).await?;
        cluster.settle().await;
        cluster.patch("statefulsets", "db", json!({ "spec": { "replicas": 1 } })).await?;
        cluster.settle().await;
        assert_eq!(claims(cluster).await?, ["data-db-0"]);
        cluster.delete("pods", "db-0").await?;
        cluster.settle().await;
        assert_eq!((claims(cluster).await?.len(), ready_pods(cluster, "db").await?), (1, 1));
        let policy = json!({ "spec": { "replicas": 2,
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Delete", "whenScaled": "Retain" } } });
        cluster.patch("statefulsets", "db", policy).await?;
        cluster.settle().await;
        cluster.patch("statefulsets", "db", json!({ "spec": { "replicas": 1 } })).await?;
        cluster.settle().await;
        assert_eq!(claims(cluster).await?, ["data-db-0", "data-db-1"]);
        cluster.delete("statefulsets", "db").await?;
        cluster.settle().await;
        assert_eq!(claims(cluster).await?, Vec::<String>::new());
        Ok(())
    });
}

#[test]
fn a_pod_of_the_right_name_and_labels_is_adopted_and_one_that_loses_them_replaced() {
    simulate(async |cluster| {
        let mut found = pod("web-0", one_container("nginx:1", &[]));
        found["metadata"]["labels"]["app"] = "web".into();
        cluster.create(found).await?;
        cluster.settle().await;
        let uid = get(cluster, "pods", "web-0").await?["metadata"]["uid"].clone();
        let on_delete = json!({ "replicas": 2, "updateStrategy": { "type": "OnDelete" } });
        cluster.create(workload("StatefulSet", "web", "nginx:1", on_delete)).await?;
        cluster.settle().await;
        let adopted = get(cluster, "pods", "web-0").await?;
        assert_eq!(
            (&adopted["metadata"]["uid"], &adopted["metadata"]["ownerReferences"][0]["name"]),
            (&uid, &json!("web"))
        );
        assert_eq!(adopted["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "web-0");
        assert_eq!(ready_pods(cluster, "web").await?, 2);

        cluster.patch("pods", "web-1", json!({ "metadata": { "labels": { "app": "debug" } } })).await?;
        cluster.advance(seconds(60)).await;
        let released = get(cluster, "pods", "web-1").await?;
        assert!(
            released["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty),
            "its name keeps it alone"
        );
        assert_eq!(pods(cluster, "web").await?.len(), 1);
        cluster.delete("pods", "web-1").await?;
        cluster.advance(seconds(1000)).await;
        assert_eq!(ready_pods(cluster, "web").await?, 2);
        Ok(())
    });
}

#[test]
fn old_revisions_are_forgotten_beyond_the_limit() {
    simulate(async |cluster| {
        cluster.create(workload("StatefulSet", "web", "nginx:0", json!({ "revisionHistoryLimit": 2 }))).await?;
        for image in 1..6 {
            cluster.settle().await;
            let template = pod_template("web", &format!("nginx:{image}"));
            cluster.patch("statefulsets", "web", json!({ "spec": { "template": template } })).await?;
        }
        cluster.settle().await;
        let mut numbers: Vec<_> = cluster.list("controllerrevisions", Some("default")).await?;
        numbers.sort_by_key(|revision| revision["revision"].as_i64());
        let numbers: Vec<_> = numbers.iter().map(|revision| revision["revision"].as_i64()).collect();
        assert_eq!(numbers, [Some(4), Some(5), Some(6)]);
        Ok(())
    });
}

#[test]
fn a_crash_after_any_write_leads_to_the_same_set() {
    for writes in (1..25).step_by(3) {
        simulate(async |cluster| {
            cluster.create(database(2, "Delete", "Delete")).await?;
            cluster.crash_after(&Component::ControllerManager, writes);
            cluster.settle().await;
            for replicas in [3, 1] {
                let changes = json!({ "spec": { "replicas": replicas, "template": pod_template("db", &format!("mysql:{replicas}")) } });
                cluster.patch("statefulsets", "db", changes).await?;
                cluster.settle().await;
                if !cluster.is_running(&Component::ControllerManager) {
                    cluster.restart(&Component::ControllerManager).await?;
                    cluster.advance(seconds(120)).await;
                    cluster.settle().await;
                }
            }
            let set = get(cluster, "statefulsets", "db").await?;
            assert_eq!(
                (&set["status"]["readyReplicas"], &set["status"]["updatedReplicas"]),
                (&json!(1), &json!(1)),
                "{writes}"
            );
            assert_eq!(set["status"]["currentRevision"], set["status"]["updateRevision"]);
            assert_eq!(claims(cluster).await?, ["data-db-0"], "{writes}");
            assert_eq!(pods(cluster, "db").await?.iter().map(name).collect::<Vec<_>>(), ["db-0"]);
            Ok(())
        });
    }
}
