//! One seed, one history.

use coracle_sim::{Change, Cluster, Component, Delay};
use serde_json::json;

use crate::support::*;

/// Several deployments, a Service, a rollout, a node's failure and its return, and every other fault there is.
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
        cluster.lag(&Component::Scheduler, seconds(3)).await?;
        cluster.delay_watch(&Component::ControllerManager, &["pods"], Delay::Merged(seconds(2)));
        cluster.delay_watch(&Component::ControllerManager, &["replicasets"], Delay::Lost(seconds(5)));
        cluster.delay_watch(&Component::Kubelet("coracle-1".into()), &["*"], Delay::Late(seconds(1)));
        cluster.crash_after(&Component::ControllerManager, 3);
        cluster.crash_before(&Component::Kubelet("coracle-1".into()), 20);
        cluster.partition(&Component::Kubelet("coracle-3".into()));
        cluster.settle().await;
        cluster.power_off("coracle-2");
        cluster.crash(&Component::Scheduler);
        cluster.advance(seconds(600)).await;
        cluster.components().iter().for_each(|component| cluster.heal(component));
        cluster.restart(&Component::ApiServer).await?;
        cluster.restart(&Component::Kubelet("coracle-1".into())).await?;
        cluster.restart(&Component::Scheduler).await?;
        cluster.restart(&Component::ControllerManager).await?;
        cluster.restart(&Component::Kubelet("coracle-2".into())).await?;
        cluster.delete("deployments", "c").await?;
        cluster.advance(seconds(900)).await;
        Ok((cluster.history(), cluster.store_dump().await?))
    })
}

#[test]
fn the_same_seed_gives_the_same_history_byte_for_byte() {
    let ((first, first_dump), (second, second_dump)) = (busy_hour(7), busy_hour(7));
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one, other, "\n{one}\n{other}");
    }
    assert_eq!(first.len(), second.len());
    assert_eq!(first_dump, second_dump);
    assert_ne!(first, busy_hour(8).0, "another seed gives another history");
}
