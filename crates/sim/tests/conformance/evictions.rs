//! Pods that a taint drives away, that find no room, or that make room for more important ones.

use std::time::Duration;

use coracle_sim::Cluster;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;

const TAINT: &str = "kubernetes.io/e2e-evict-taint-key";

/// Creates a pod, which is one that `more` says more of.
async fn create(cluster: &Cluster, name: &str, more: Value) -> anyhow::Result<Objects> {
    let pods = Objects::find(cluster, "v1", "Pod").await?;
    let mut pod = pod(name, json!({}), json!({}));
    for (field, value) in more.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pods.create(&pod).await?;
    Ok(pods)
}

async fn runs(pods: &Objects, name: &str) -> anyhow::Result<()> {
    until(&format!("{name} runs"), async || Ok(pods.get(name).await?["status"]["phase"] == "Running")).await
}

/// Waits until the scheduler has said that a pod fits nowhere; what it says.
async fn unschedulable(pods: &Objects, name: &str) -> anyhow::Result<String> {
    let mut said = String::new();
    until(&format!("{name} fits nowhere"), async || {
        let condition = pods.get(name).await?["status"]["conditions"][0].clone();
        said = text(&condition, "/message").to_owned();
        Ok(condition["reason"] == "Unschedulable")
    })
    .await?;
    Ok(said)
}

async fn taint(cluster: &Cluster, node: &str, taints: Value) -> anyhow::Result<()> {
    let nodes = Objects::find(cluster, "v1", "Node").await?;
    nodes.patch(node, &Patch::Merge(json!({ "spec": { "taints": taints } }))).await?;
    Ok(())
}

fn tolerating(seconds: u64) -> Value {
    json!({
        "nodeSelector": { "kubernetes.io/hostname": "coracle-1" }, "terminationGracePeriodSeconds": 1,
        "tolerations": [{ "key": TAINT, "value": "evictTaintVal", "effect": "NoExecute", "tolerationSeconds": seconds }],
    })
}

fn evicting() -> Value {
    json!([{ "key": TAINT, "value": "evictTaintVal", "effect": "NoExecute" }])
}

#[test]
fn pods_leave_a_tainted_node_each_after_its_toleration() {
    cluster(async |cluster| {
        let pods = create(cluster, "taint-eviction-b1", tolerating(20)).await?;
        create(cluster, "taint-eviction-b2", tolerating(60)).await?;
        runs(&pods, "taint-eviction-b1").await?;
        runs(&pods, "taint-eviction-b2").await?;
        taint(cluster, "coracle-1", evicting()).await?;
        let there = async || -> anyhow::Result<_> {
            Ok([pods.exists("taint-eviction-b1").await?, pods.exists("taint-eviction-b2").await?])
        };
        for (seconds, expected) in [(10, [true, true]), (20, [false, true]), (40, [false, false])] {
            cluster.advance(Duration::from_secs(seconds)).await;
            assert_eq!(there().await?, expected, "{seconds} seconds later");
        }
        Ok(())
    });
}

#[test]
fn a_taint_taken_away_in_time_evicts_nobody() {
    cluster(async |cluster| {
        let pods = create(cluster, "taint-eviction-4", tolerating(60)).await?;
        runs(&pods, "taint-eviction-4").await?;
        taint(cluster, "coracle-1", evicting()).await?;
        cluster.advance(Duration::from_secs(30)).await;
        taint(cluster, "coracle-1", Value::Null).await?;
        cluster.advance(Duration::from_secs(120)).await;
        assert_eq!(pods.get("taint-eviction-4").await?["status"]["phase"], "Running");
        Ok(())
    });
}

fn wants(cpu: &str) -> Value {
    json!({ "containers": [{ "name": "c", "image": "pause:1", "resources": { "requests": { "cpu": cpu } } }] })
}

#[test]
fn a_pod_that_asks_for_more_than_is_left_is_not_scheduled() {
    cluster(async |cluster| {
        let nodes = Objects::find(cluster, "v1", "Node").await?.list("").await?;
        for (number, node) in nodes.iter().enumerate() {
            let free: u64 = text(node, "/status/allocatable/cpu").parse()?;
            let mut filler = wants(&format!("{}m", free * 1000 * 7 / 10));
            filler["nodeSelector"] = json!({ "kubernetes.io/hostname": name(node) });
            let filler_name = format!("filler-pod-{number}");
            runs(&create(cluster, &filler_name, filler).await?, &filler_name).await?;
        }
        let half = text(&nodes[0], "/status/allocatable/cpu").parse::<u64>()? * 500;
        let pods = create(cluster, "additional-pod", wants(&format!("{half}m"))).await?;
        let said = unschedulable(&pods, "additional-pod").await?;
        assert!(said.starts_with("0/2 nodes are available: 2 Insufficient cpu."), "{said}");
        Ok(())
    });
}

#[test]
fn a_node_selector_that_matches_a_node_puts_the_pod_there() {
    cluster(async |cluster| {
        let nodes = Objects::find(cluster, "v1", "Node").await?;
        nodes.merge("coracle-2", json!({ "metadata": { "labels": { "kubernetes.io/e2e-x": "42" } } })).await?;
        let selector = json!({ "nodeSelector": { "kubernetes.io/e2e-x": "42" } });
        let pods = create(cluster, "with-labels", selector).await?;
        runs(&pods, "with-labels").await?;
        assert_eq!(pods.get("with-labels").await?["spec"]["nodeName"], "coracle-2");
        Ok(())
    });
}

#[test]
fn a_port_on_all_of_a_nodes_addresses_is_taken_on_each_of_them() {
    cluster(async |cluster| {
        let taking = |ip: &str| {
            let ports = json!([{ "containerPort": 80, "hostPort": 54322, "protocol": "TCP", "hostIP": ip }]);
            json!({
                "nodeSelector": { "kubernetes.io/hostname": "coracle-1" },
                "containers": [{ "name": "c", "image": "pause:1", "ports": ports }],
            })
        };
        runs(&create(cluster, "pod4", taking("0.0.0.0")).await?, "pod4").await?;
        let said = unschedulable(&create(cluster, "pod5", taking("10.244.1.1")).await?, "pod5").await?;
        assert!(said.contains("didn't have free ports for the requested pod ports"), "{said}");
        Ok(())
    });
}

/// Nodes with five of something, and the priorities that upstream's tests use.
async fn with_things(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = Objects::find(cluster, "v1", "Node").await?;
    for node in nodes.list("").await? {
        let five = json!({ "status": { "capacity": { "scheduling.k8s.io/foo": "5" },
                                       "allocatable": { "scheduling.k8s.io/foo": "5" } } });
        nodes.patch_sub("status", name(&node), &Patch::Merge(five)).await?;
    }
    let classes = Objects::find(cluster, "scheduling.k8s.io/v1", "PriorityClass").await?;
    for (name, value) in [("low", 1), ("medium", 100), ("high", 1000), ("p1", 1), ("p2", 2), ("p3", 3), ("p4", 1000)] {
        let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                            "metadata": { "name": name }, "value": value });
        classes.create(&class).await?;
    }
    Ok(())
}

fn taking_things(count: &str, class: &str) -> Value {
    let resources =
        json!({ "requests": { "scheduling.k8s.io/foo": count }, "limits": { "scheduling.k8s.io/foo": count } });
    json!({
        "priorityClassName": class, "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "c", "image": "pause:1", "resources": resources }],
    })
}

/// Two nodes full of pods, the first of low priority.
async fn full(cluster: &Cluster) -> anyhow::Result<Objects> {
    with_things(cluster).await?;
    let pods = Objects::find(cluster, "v1", "Pod").await?;
    for (name, class) in [("pod0", "low"), ("pod1", "medium"), ("pod2", "medium"), ("pod3", "medium")] {
        create(cluster, name, taking_things("2", class)).await?;
        runs(&pods, name).await?;
    }
    Ok(pods)
}

#[test]
fn the_pod_of_lowest_priority_makes_room_for_a_more_important_one() {
    cluster(async |cluster| {
        let pods = full(cluster).await?;
        create(cluster, "preemptor", taking_things("2", "high")).await?;
        runs(&pods, "preemptor").await?;
        assert!(!pods.exists("pod0").await?);
        for name in ["pod1", "pod2", "pod3"] {
            assert_eq!(pods.get(name).await?["status"]["phase"], "Running", "{name}");
        }
        Ok(())
    });
}

#[test]
fn a_critical_pod_takes_the_room_of_one_of_low_priority() {
    cluster(async |cluster| {
        let pods = full(cluster).await?;
        let system = pods.in_namespace("kube-system");
        let mut critical = pod("critical-pod", json!({}), json!({}));
        critical["metadata"]["namespace"] = json!("kube-system");
        for (field, value) in taking_things("2", "system-cluster-critical").as_object().into_iter().flatten() {
            critical["spec"][field] = value.clone();
        }
        system.create(&critical).await?;
        runs(&system, "critical-pod").await?;
        assert!(!pods.exists("pod0").await?);
        Ok(())
    });
}

#[test]
fn a_preempted_pod_says_that_it_was() {
    cluster(async |cluster| {
        with_things(cluster).await?;
        let on_one = |class: &str| {
            let mut spec = taking_things("5", class);
            spec["nodeSelector"] = json!({ "kubernetes.io/hostname": "coracle-1" });
            spec
        };
        let pods = create(cluster, "victim-pod", on_one("low")).await?;
        runs(&pods, "victim-pod").await?;
        let keep = json!({ "metadata": { "finalizers": ["example.com/test-finalizer"] } });
        pods.merge("victim-pod", keep).await?;
        create(cluster, "preemptor-pod", on_one("high")).await?;
        until("the victim is told to go", async || {
            Ok(!text(&pods.get("victim-pod").await?, "/metadata/deletionTimestamp").is_empty())
        })
        .await?;
        let victim = pods.get("victim-pod").await?;
        let conditions = victim["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let target =
            conditions.into_iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap_or_default();
        assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
        pods.merge("victim-pod", json!({ "metadata": { "finalizers": null } })).await?;
        runs(&pods, "preemptor-pod").await
    });
}

#[test]
fn replica_sets_lose_pods_to_more_important_ones_from_the_bottom() {
    cluster(async |cluster| {
        with_things(cluster).await?;
        let sets = Objects::find(cluster, "apps/v1", "ReplicaSet").await?;
        let set = |number: usize, replicas: u32, count: &str| {
            let mut spec = taking_things(count, &format!("p{number}"));
            spec["nodeSelector"] = json!({ "kubernetes.io/hostname": "coracle-1" });
            let labels = json!({ "name": format!("pod{number}") });
            json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": format!("rs-pod{number}") },
                "spec": { "replicas": replicas, "selector": { "matchLabels": labels },
                          "template": { "metadata": { "labels": labels }, "spec": spec } },
            })
        };
        let ready = async |number: usize, wanted: i64| {
            until(&format!("set {number} has {wanted}"), async || {
                let status = sets.get(&format!("rs-pod{number}")).await?["status"].clone();
                Ok(status["readyReplicas"].as_i64().unwrap_or_default() == wanted)
            })
            .await
        };
        for (number, replicas, count) in [(1, 1, "1"), (2, 1, "1"), (3, 1, "2"), (4, 1, "1")] {
            sets.create(&set(number, replicas, count)).await?;
            ready(number, i64::from(replicas)).await?;
        }
        // The node is full: another of the most important takes the place of the least.
        sets.merge("rs-pod4", json!({ "spec": { "replicas": 2 } })).await?;
        ready(4, 2).await?;
        for (number, left) in [(1, 0), (2, 1), (3, 1)] {
            ready(number, left).await?;
        }
        Ok(())
    });
}
