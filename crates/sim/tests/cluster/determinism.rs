//! One seed, one history.

use coracle_sim::{Change, Cluster, Component};
use serde_json::json;

use crate::support::*;

/// Several deployments, a Service, a rollout, a node's failure and its return, crashes.
fn busy_hour(seed: u64) -> (Vec<Change>, String) {
    play(Cluster::builder().seed(seed).nodes(3), async |cluster| {
        for (app, replicas) in [("a", 3), ("b", 5), ("c", 1)] {
            cluster.create(deployment(app, replicas, "nginx:1")).await?;
        }
        cluster
            .create(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" },
                "spec": { "selector": { "app": "a" }, "ports": [{ "port": 80 }] },
            }))
            .await?;
        cluster.settle().await;
        cluster.patch("deployments", "b", json!({ "spec": { "template": pod_template("b", "nginx:2") } })).await?;
        cluster.settle().await;
        cluster.power_off("coracle-2");
        cluster.crash(&Component::Scheduler);
        cluster.advance(seconds(600)).await;
        cluster.restart(&Component::Scheduler).await?;
        cluster.restart(&Component::ControllerManager).await?;
        cluster.restart(&Component::Kubelet("coracle-2".into())).await?;
        cluster.delete("deployments", "c").await?;
        cluster.advance(seconds(3000)).await;
        Ok((cluster.history(), cluster.store_dump().await?))
    })
}

#[test]
fn the_same_seed_gives_the_same_history_byte_for_byte() {
    let (first, first_dump) = busy_hour(7);
    for _ in 0..3 {
        let (second, second_dump) = busy_hour(7);
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "\n{one}\n{other}");
        }
        assert_eq!(first.len(), second.len());
        assert_eq!(first_dump, second_dump);
    }
}

#[test]
fn another_seed_gives_another_history() {
    assert_ne!(busy_hour(7).0, busy_hour(8).0);
}
