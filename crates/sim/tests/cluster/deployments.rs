//! Deployments from the first pod to the last.

use std::collections::BTreeMap;

use coracle_sim::{Cluster, Component, Delay};
use serde_json::{Value, json};

use crate::support::*;

/// Over the history from revision `since` on: how many pods of `app` there were at most, and how many were available
/// at least. Pods that are being deleted are not counted.
fn extremes(cluster: &Cluster, app: &str, since: i64) -> (usize, usize) {
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    let (mut most, mut fewest) = (0, usize::MAX);
    for change in cluster.history() {
        let (resource, object) = change.object();
        let pod = change.json();
        if resource != "pods" || !object.starts_with(&format!("default/{app}-")) {
            continue;
        }
        match pod.is_null() || !pod["metadata"]["deletionTimestamp"].is_null() {
            true => drop(pods.remove(&object)),
            false => drop(pods.insert(object, pod)),
        }
        if change.revision > since {
            most = most.max(pods.len());
            fewest = fewest.min(pods.values().filter(|pod| is_ready(pod)).count());
        }
    }
    (most, fewest)
}

/// The images of an app's pods, each once.
async fn images(cluster: &Cluster, app: &str) -> anyhow::Result<Vec<String>> {
    let pods = pods(cluster, app).await?;
    let mut images: Vec<String> =
        pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()).collect();
    images.sort();
    images.dedup();
    Ok(images)
}

fn image(app: &str, image: &str) -> Value {
    json!({ "spec": { "template": pod_template(app, image) } })
}

#[test]
fn a_deployment_comes_up_and_scales() {
    simulate(async |cluster| {
        cluster.create(deployment("web", 3, "nginx:1")).await?;
        cluster.settle().await;
        assert_eq!(ready_pods(cluster, "web").await?, 3);
        let status = get(cluster, "deployments", "web").await?["status"].clone();
        assert_eq!((&status["replicas"], &status["availableReplicas"]), (&json!(3), &json!(3)));
        for replicas in [10, 2, 0] {
            cluster.patch("deployments", "web", json!({ "spec": { "replicas": replicas } })).await?;
            cluster.settle().await;
            assert_eq!(pods(cluster, "web").await?.len(), replicas);
        }
        Ok(())
    });
}

#[test]
fn a_rollout_keeps_within_its_bounds_at_every_revision() {
    simulate(async |cluster| {
        let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 2, "maxUnavailable": 1 } });
        let more = json!({ "replicas": 6, "strategy": strategy });
        cluster.create(workload("Deployment", "web", "nginx:1", more)).await?;
        cluster.settle().await;
        let since = cluster.revision();
        // The second comes before the controller sees the ReplicaSet that it made for the first.
        cluster.delay_watch(&Component::ControllerManager, &["replicasets"], Delay::Late(seconds(5)));
        for tag in ["nginx:2", "nginx:3"] {
            cluster.patch("deployments", "web", image("web", tag)).await?;
            cluster.advance(seconds(1)).await;
        }
        cluster.settle().await;
        assert_eq!(images(cluster, "web").await?, ["nginx:3"]);
        assert_eq!(ready_pods(cluster, "web").await?, 6);
        let (most, fewest) = extremes(cluster, "web", since);
        assert!(most <= 8 && fewest >= 5, "{most} pods, {fewest} available");
        Ok(())
    });
}

#[test]
fn a_rollout_that_fails_stops_and_is_rolled_back() {
    let machine = coracle_kubelet::runtime::simulated::SimulatedConfig {
        missing_images: vec!["broken".into()],
        ..Default::default()
    };
    play(Cluster::builder().nodes(2).machine(machine), async |cluster| {
        let mut web = deployment("web", 4, "nginx:1");
        web["spec"]["progressDeadlineSeconds"] = json!(60);
        cluster.create(web).await?;
        cluster.settle().await;
        let since = cluster.revision();
        cluster.patch("deployments", "web", image("web", "broken:2")).await?;
        cluster.advance(seconds(120)).await;
        let web = get(cluster, "deployments", "web").await?;
        assert_eq!(condition(&web, "Progressing"), "False", "{web:#}");
        assert_eq!(condition(&web, "Available"), "True");
        cluster.patch("deployments", "web", image("web", "nginx:1")).await?;
        cluster.settle().await;
        assert_eq!(images(cluster, "web").await?, ["nginx:1"]);
        let web = get(cluster, "deployments", "web").await?;
        assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
        assert_eq!(condition(&web, "Progressing"), "True");
        assert_eq!(cluster.list("replicasets", Some("default")).await?.len(), 2, "the first one serves again");
        assert!(extremes(cluster, "web", since).1 >= 3);
        Ok(())
    });
}

#[test]
fn recreate_starts_the_new_only_when_the_old_are_gone() {
    simulate(async |cluster| {
        let more = json!({ "replicas": 3, "strategy": { "type": "Recreate" } });
        cluster.create(workload("Deployment", "web", "nginx:1", more)).await?;
        cluster.settle().await;
        cluster.patch("deployments", "web", image("web", "nginx:2")).await?;
        cluster.settle().await;
        assert_eq!(images(cluster, "web").await?, ["nginx:2"]);
        let mut running = BTreeMap::new();
        for change in cluster.history().iter().filter(|change| change.object().0 == "pods") {
            let pod = change.json();
            match pod["spec"]["containers"][0]["image"].as_str() {
                Some(image) => drop(running.insert(change.object().1, image.to_owned())),
                None => drop(running.remove(&change.object().1)),
            }
            let versions: std::collections::BTreeSet<_> = running.values().collect();
            assert!(versions.len() <= 1, "both versions at revision {}", change.revision);
        }
        Ok(())
    });
}

#[test]
fn a_deleted_pod_is_replaced() {
    simulate(async |cluster| {
        cluster.create(deployment("web", 3, "nginx:1")).await?;
        cluster.settle().await;
        let before: Vec<_> = pods(cluster, "web").await?.iter().map(name).collect();
        cluster.delete("pods", &format!("default/{}", before[0])).await?;
        cluster.settle().await;
        let after: Vec<_> = pods(cluster, "web").await?.iter().map(name).collect();
        assert_eq!(ready_pods(cluster, "web").await?, 3);
        assert!(!after.contains(&before[0]) && after.contains(&before[1]));
        Ok(())
    });
}

#[test]
fn what_a_deleted_deployment_owned_is_garbage_collected() {
    for policy in ["Background", "Foreground"] {
        simulate(async |cluster| {
            cluster.create(deployment("web", 3, "nginx:1")).await?;
            cluster.settle().await;
            let since = cluster.revision();
            cluster.delete_with("deployments", "web", json!({ "propagationPolicy": policy })).await?;
            cluster.settle().await;
            for resource in ["deployments", "replicasets", "pods"] {
                assert_eq!(cluster.list(resource, Some("default")).await?, Vec::<Value>::new(), "{policy} {resource}");
            }
            let history = cluster.history();
            let gone = |resource: &str| {
                let last = history.iter().rfind(|c| c.object().0 == resource && c.value.is_none()).map(|c| c.revision);
                last.filter(|revision| *revision > since).unwrap()
            };
            assert_eq!(gone("deployments") > gone("pods"), policy == "Foreground");
            Ok(())
        });
    }
}

#[test]
fn orphans_outlive_their_owner() {
    simulate(async |cluster| {
        cluster.create(deployment("web", 2, "nginx:1")).await?;
        cluster.settle().await;
        cluster.delete_with("deployments", "web", json!({ "propagationPolicy": "Orphan" })).await?;
        cluster.settle().await;
        assert_eq!(cluster.list("deployments", Some("default")).await?.len(), 0);
        let sets = cluster.list("replicasets", Some("default")).await?;
        assert_eq!(sets.len(), 1);
        assert!(sets[0]["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
        assert_eq!(ready_pods(cluster, "web").await?, 2);
        // A new Deployment with the same selector adopts what it finds.
        cluster.create(deployment("web", 2, "nginx:1")).await?;
        cluster.settle().await;
        assert_eq!(cluster.list("replicasets", Some("default")).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_deleted_namespace_takes_everything_with_it() {
    simulate(async |cluster| {
        cluster.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } })).await?;
        cluster.settle().await;
        let mut web = deployment("web", 3, "nginx:1");
        web["metadata"]["namespace"] = json!("shop");
        cluster.create(web).await?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
        });
        cluster.create(service).await?;
        cluster.settle().await;
        assert_eq!(cluster.list("pods", Some("shop")).await?.len(), 3);
        cluster.delete("namespaces", "shop").await?;
        cluster.settle().await;
        assert!(cluster.get("namespaces", "shop").await?.is_none());
        let dump = cluster.store_dump().await?;
        let left: Vec<_> = dump.lines().filter(|line| line.contains("/shop/")).collect();
        assert!(left.is_empty(), "{left:#?}");
        Ok(())
    });
}
