//! Any component may die at any moment; where the cluster arrives stays the same.

use std::sync::LazyLock;
use std::time::Duration;

use coracle_sim::{Cluster, Component};
use serde_json::{Value, json};

use crate::support::*;

/// How many seeds each test tries; more for a thorough search.
fn seeds() -> std::ops::RangeInclusive<u64> {
    1..=std::env::var("CORACLE_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

/// What there is in the end, without what differs from run to run by right.
async fn outcome(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for app in ["a", "b", "db", "set", "log"] {
        let pods = pods(cluster, app).await?;
        let images = pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].to_string());
        lines.push(format!("{app}: {} ready of {:?}", ready_pods(cluster, app).await?, images.collect::<Vec<_>>()));
    }
    for job in cluster.list("jobs", Some("default")).await? {
        lines.push(format!("{} {}", job["status"]["succeeded"], condition(&job, "Complete")));
    }
    let counted =
        ["deployments", "replicasets", "endpointslices", "pods", "persistentvolumeclaims", "controllerrevisions"];
    for resource in counted {
        lines.push(format!("{resource}: {}", cluster.list(resource, Some("default")).await?.len()));
    }
    lines.push(format!("volumes: {}", cluster.list("persistentvolumes", None).await?.len()));
    let slices = cluster.list("endpointslices", Some("default")).await?;
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    lines.push(format!("{} endpoints", endpoints.filter(|e| e["conditions"]["ready"] == true).count()));
    for node in cluster.nodes() {
        let node = get(cluster, "nodes", &node).await?;
        lines.push(format!("{} {} {}", name(&node), condition(&node, "Ready"), node["spec"]["taints"]));
    }
    let busy: Vec<String> = cluster.list("namespaces", None).await?.iter().map(name).collect();
    lines.push(format!("{busy:?}"));
    Ok(lines)
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80 }] },
    })
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    })
}

/// A little of everything, in three acts; something happens to the cluster during each.
fn story(seed: u64, disturb: impl AsyncFn(&mut Cluster) -> anyhow::Result<()>) -> Vec<String> {
    play(Cluster::builder().seed(seed).nodes(3).without_metrics(), async |cluster| {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
        cluster.create(namespace).await?;
        cluster.settle().await;
        for app in ["a", "b", "c"] {
            cluster.create(deployment(app, 3, "nginx:1")).await?;
        }
        let mut elsewhere = deployment("d", 2, "nginx:1");
        elsewhere["metadata"]["namespace"] = json!("shop");
        cluster.create(elsewhere).await?;
        cluster.create(service("a")).await?;
        cluster.create(claim("db")).await?;
        cluster.create(claim("unused")).await?;
        let mut db = one_container("mysql:8", &[]);
        db["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "db" } }]);
        cluster.create(pod("db", db)).await?;
        let mut work = one_container("busybox:1", &["sleep", "20"]);
        work["restartPolicy"] = json!("Never");
        cluster
            .create(json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "work" },
                "spec": { "completions": 4, "parallelism": 2, "template": { "spec": work } },
            }))
            .await?;
        let more = json!({ "replicas": 2, "volumeClaimTemplates": [{
            "metadata": { "name": "data" }, "spec": claim("")["spec"],
        }] });
        cluster.create(workload("StatefulSet", "set", "mysql:8", more)).await?;
        cluster.create(workload("DaemonSet", "log", "fluentd:1", json!({}))).await?;
        disturb(cluster).await?;
        for (resource, app) in [("statefulsets", "set"), ("daemonsets", "log")] {
            cluster.patch(resource, app, json!({ "spec": { "template": pod_template(app, "new:2") } })).await?;
        }
        cluster.patch("statefulsets", "set", json!({ "spec": { "replicas": 3 } })).await?;
        cluster.patch("deployments", "a", json!({ "spec": { "template": pod_template("a", "nginx:2") } })).await?;
        cluster.patch("deployments", "b", json!({ "spec": { "replicas": 6 } })).await?;
        disturb(cluster).await?;
        cluster.delete("deployments", "c").await?;
        cluster.delete("persistentvolumeclaims", "unused").await?;
        cluster.delete("namespaces", "shop").await?;
        disturb(cluster).await?;
        // Long enough for whoever backed off while somebody was away.
        cluster.advance(seconds(900)).await;
        outcome(cluster).await
    })
}

static CALM: LazyLock<Vec<String>> = LazyLock::new(|| story(0, async |_| Ok(())));

#[test]
fn crashes_at_any_moment_lead_to_the_same_end() {
    for seed in seeds() {
        let stormy = story(seed, async |cluster| {
            for _ in 0..5 {
                cluster.advance(Duration::from_millis(coracle_clock::random_u64() % 1500)).await;
                let components = cluster.components();
                let victim = &components[coracle_clock::random_below(components.len())];
                cluster.crash(victim);
                cluster.advance(Duration::from_millis(coracle_clock::random_u64() % 3000)).await;
                cluster.restart(victim).await?;
            }
            Ok(())
        });
        assert_eq!(stormy, *CALM, "seed {seed}");
    }
}

#[test]
fn a_crash_after_any_write_leads_to_the_same_end() {
    for seed in seeds() {
        let stormy = story(seed, async |cluster| {
            for _ in 0..4 {
                let mut components = cluster.components();
                components.retain(|component| *component != Component::ApiServer);
                let victim = &components[coracle_clock::random_below(components.len())];
                cluster.crash_after(victim, 1 + coracle_clock::random_u64() % 12);
                cluster.advance(seconds(3)).await;
                cluster.crash_after(victim, 0);
                if !cluster.is_running(victim) {
                    cluster.restart(victim).await?;
                }
            }
            Ok(())
        });
        assert_eq!(stormy, *CALM, "seed {seed}");
    }
}
