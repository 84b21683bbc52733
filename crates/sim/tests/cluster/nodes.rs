//! Nodes that fail, return, and join.

use std::str::FromStr;

use coracle_sim::{Cluster, Component};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::*;

async fn ready(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    Ok(condition(&get(cluster, "nodes", node).await?, "Ready").to_owned())
}

fn on(pods: &[Value], node: &str) -> usize {
    pods.iter().filter(|pod| pod["spec"]["nodeName"] == node && pod["metadata"]["deletionTimestamp"].is_null()).count()
}

/// However heartbeats come.
#[test]
fn a_dead_node_is_noticed_and_its_pods_are_replaced_elsewhere() {
    for cluster in [Cluster::builder(), Cluster::builder().heartbeats_when_looked_at()] {
        play(cluster.seed(7).nodes(3), async |cluster| {
            cluster.create(deployment("web", 6, "nginx:1")).await?;
            cluster.settle().await;
            let lost = on(&pods(cluster, "web").await?, "coracle-2");
            assert!(lost > 0);
            cluster.power_off("coracle-2");
            cluster.advance(seconds(35)).await;
            assert_eq!(ready(cluster, "coracle-2").await?, "True", "the grace period is 50 seconds");
            cluster.advance(seconds(30)).await;
            assert_eq!(ready(cluster, "coracle-2").await?, "Unknown");
            let taints = get(cluster, "nodes", "coracle-2").await?["spec"]["taints"].to_string();
            assert!(taints.contains("node.kubernetes.io/unreachable") && taints.contains("NoExecute"), "{taints}");
            let pods_now = pods(cluster, "web").await?;
            assert_eq!(on(&pods_now, "coracle-2"), lost, "they tolerate it for 300 seconds");
            assert_eq!(ready_pods(cluster, "web").await?, 6 - lost, "but are not ready");
            cluster.advance(seconds(330)).await;
            let pods_now = pods(cluster, "web").await?;
            assert_eq!(on(&pods_now, "coracle-2"), 0);
            assert_eq!(on(&pods_now, "coracle-1") + on(&pods_now, "coracle-3"), 6);
            assert_eq!(ready_pods(cluster, "web").await?, 6);
            // The dead node cannot confirm the end of its pods; they go when it is back.
            assert_eq!(pods_now.len(), 6 + lost);
            cluster.restart(&Component::Kubelet("coracle-2".into())).await?;
            cluster.advance(seconds(60)).await;
            assert_eq!(ready(cluster, "coracle-2").await?, "True");
            assert_eq!(pods(cluster, "web").await?.len(), 6);
            let node = get(cluster, "nodes", "coracle-2").await?;
            assert!(node["spec"]["taints"].as_array().is_none_or(Vec::is_empty), "{:#}", node["spec"]);
            Ok(())
        });
    }
}

#[test]
fn heartbeats_are_written_when_somebody_looks() {
    let leases = |cluster: &Cluster| cluster.history().iter().filter(|change| change.object().0 == "leases").count();
    play(Cluster::builder().nodes(2).heartbeats_when_looked_at(), async |cluster| {
        let before = leases(cluster);
        cluster.advance(seconds(3600)).await;
        assert_eq!(leases(cluster), before, "nobody has looked");
        let now = Timestamp::from_str("2026-01-01T01:00:00Z")?;
        for (plural, object, field) in [
            ("leases", "kube-node-lease/coracle-1", "/spec/renewTime"),
            ("nodes", "coracle-1", "/status/conditions/0/lastHeartbeatTime"),
        ] {
            let seen = get(cluster, plural, object).await?;
            let beat = Timestamp::from_str(seen.pointer(field).and_then(Value::as_str).unwrap_or_default())?;
            let age = (now - beat).get_seconds().abs();
            assert!(age < 400, "{plural}: {beat}");
        }
        assert_eq!(leases(cluster), before + 1, "of the node that was looked at");
        // While nobody answers, heartbeats are tried in their time, and nobody is taken for dead afterwards.
        cluster.crash(&Component::ApiServer);
        cluster.advance(seconds(20)).await;
        cluster.restart(&Component::ApiServer).await?;
        cluster.advance(seconds(120)).await;
        for node in ["coracle-1", "coracle-2"] {
            assert_eq!(ready(cluster, node).await?, "True");
        }
        Ok(())
    });
}

#[test]
fn a_kubelet_that_is_back_soon_loses_nothing() {
    simulate(async |cluster| {
        cluster.create(deployment("web", 6, "nginx:1")).await?;
        cluster.settle().await;
        let before: Vec<_> = pods(cluster, "web").await?.iter().map(name).collect();
        cluster.crash(&Component::Kubelet("coracle-2".into()));
        cluster.advance(seconds(200)).await;
        assert_eq!(ready(cluster, "coracle-2").await?, "Unknown");
        cluster.restart(&Component::Kubelet("coracle-2".into())).await?;
        cluster.advance(seconds(600)).await;
        let after = pods(cluster, "web").await?;
        assert_eq!(after.iter().map(name).collect::<Vec<_>>(), before);
        assert!(after.iter().all(|pod| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 0));
        Ok(())
    });
}

#[test]
fn a_pod_that_fits_nowhere_runs_when_a_node_joins_or_room_is_made() {
    play(Cluster::builder().nodes(1), async |cluster| {
        let wants = |cpu: &str| {
            let mut spec = one_container("nginx:1", &[]);
            spec["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
            spec
        };
        cluster.create(pod("first", wants("3"))).await?;
        cluster.settle().await;
        cluster.create(pod("second", wants("3"))).await?;
        cluster.settle().await;
        let second = get(cluster, "pods", "second").await?;
        assert_eq!(condition(&second, "PodScheduled"), "False");
        assert_eq!(second["status"]["conditions"][0]["reason"], "Unschedulable");
        cluster.add_node(Default::default()).await?;
        cluster.settle().await;
        assert_eq!(get(cluster, "pods", "second").await?["spec"]["nodeName"], "coracle-2");
        cluster.create(pod("third", wants("2"))).await?;
        cluster.settle().await;
        assert_eq!(get(cluster, "pods", "third").await?["status"]["phase"], "Pending");
        cluster.delete("pods", "first").await?;
        cluster.settle().await;
        assert_eq!(get(cluster, "pods", "third").await?["spec"]["nodeName"], "coracle-1");
        Ok(())
    });
}

#[test]
fn after_a_machines_restart_its_pods_are_restarted_and_counted_so() {
    simulate(async |cluster| {
        cluster.create(workload("DaemonSet", "log", "fluentd:1", json!({}))).await?;
        cluster.settle().await;
        for restarts in 1..3 {
            cluster.power_off("coracle-2");
            cluster.advance(seconds(5)).await;
            cluster.restart(&Component::Kubelet("coracle-2".into())).await?;
            cluster.settle().await;
            for pod in pods(cluster, "log").await? {
                let expected = if pod["spec"]["nodeName"] == "coracle-2" { restarts } else { 0 };
                let status = &pod["status"]["containerStatuses"][0];
                assert_eq!((is_ready(&pod), &status["restartCount"]), (true, &json!(expected)), "{status:#}");
            }
        }
        Ok(())
    });
}
