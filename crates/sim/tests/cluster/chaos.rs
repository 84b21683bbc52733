//! Any component may die at any moment; where the cluster arrives stays the same.

use std::time::Duration;

use coracle_sim::Cluster;
use serde_json::json;

use crate::support::*;

/// What there is in the end, without what differs from run to run by right.
async fn outcome(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for app in ["a", "b"] {
        let pods = pods(cluster, app).await?;
        let images = pods.iter().map(|pod| pod["spec"]["containers"][0]["image"].to_string());
        lines.push(format!("{app}: {} ready of {:?}", ready_pods(cluster, app).await?, images.collect::<Vec<_>>()));
    }
    for resource in ["deployments", "replicasets", "endpointslices", "jobs"] {
        lines.push(format!("{resource}: {}", cluster.list(resource, Some("default")).await?.len()));
    }
    let slices = cluster.list("endpointslices", Some("default")).await?;
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    lines.push(format!("{} endpoints", endpoints.filter(|e| e["conditions"]["ready"] == true).count()));
    Ok(lines)
}

fn story(seed: u64, crashes: usize) -> Vec<String> {
    let story = Cluster::builder().seed(seed).nodes(3).run(async |cluster| {
        let disturb = async |cluster: &mut Cluster| {
            for _ in 0..crashes {
                cluster.advance(Duration::from_millis(coracle_clock::random_u64() % 1500)).await;
                let components = cluster.components();
                let victim = &components[coracle_clock::random_below(components.len())];
                cluster.crash(victim);
                cluster.advance(Duration::from_millis(coracle_clock::random_u64() % 3000)).await;
                cluster.restart(victim).await?;
            }
            anyhow::Ok(())
        };
        cluster.create(deployment("a", 4, "nginx:1")).await?;
        cluster.create(deployment("b", 3, "nginx:1")).await?;
        cluster.create(deployment("c", 3, "nginx:1")).await?;
        cluster
            .create(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" },
                "spec": { "selector": { "app": "a" }, "ports": [{ "port": 80 }] },
            }))
            .await?;
        disturb(cluster).await?;
        cluster.patch("deployments", "a", json!({ "spec": { "template": pod_template("a", "nginx:2") } })).await?;
        cluster.patch("deployments", "b", json!({ "spec": { "replicas": 6 } })).await?;
        disturb(cluster).await?;
        cluster.delete("deployments", "c").await?;
        disturb(cluster).await?;
        // Long enough for whoever backed off while somebody was away.
        cluster.advance(seconds(900)).await;
        outcome(cluster).await
    });
    story.expect("the simulation tells its story")
}

#[test]
fn crashes_at_any_moment_lead_to_the_same_end() {
    let calm = story(1, 0);
    for seed in 1..=10 {
        assert_eq!(story(seed, 5), calm, "seed {seed}");
    }
}
