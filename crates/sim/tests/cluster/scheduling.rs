//! Who goes where, and who must make room.

use coracle_sim::{Cluster, Component, Delay};
use serde_json::json;

use crate::support::*;

#[test]
fn an_important_pod_takes_the_room_of_as_many_lesser_ones_as_it_needs() {
    for (lesser, cpu, stay) in [(1, "3", 0), (3, "1", 1)] {
        play(Cluster::builder().nodes(1), async |cluster| {
            for (name, value) in [("high", 1000), ("low", 10)] {
                cluster
                    .create(json!({
                        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                        "metadata": { "name": name }, "value": value,
                    }))
                    .await?;
            }
            let wants = |class: &str, cpu: &str| {
                let mut spec = one_container("nginx:1", &[]);
                spec["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
                spec["priorityClassName"] = json!(class);
                spec
            };
            for number in 0..lesser {
                cluster.create(pod(&format!("lesser-{number}"), wants("low", cpu))).await?;
            }
            cluster.settle().await;
            cluster.create(pod("important", wants("high", "3"))).await?;
            cluster.settle().await;
            assert!(is_ready(&get(cluster, "pods", "important").await?));
            let mut gone = 0;
            for number in 0..lesser {
                let name = format!("lesser-{number}");
                if cluster.get("pods", &name).await?.is_none() {
                    gone += 1;
                    let messages = messages(cluster, &name).await?;
                    assert!(messages.iter().any(|m| m.starts_with("Preempted by pod ")), "{messages:?}");
                }
            }
            assert_eq!(gone, lesser - stay);
            Ok(())
        });
    }
}

#[test]
fn another_pod_of_the_same_name_is_placed_though_nobody_heard_that_the_first_went() {
    simulate(async |cluster| {
        cluster.create(pod("web", one_container("nginx:1", &[]))).await?;
        cluster.settle().await;
        cluster.delay_watch(&Component::Scheduler, &["pods"], Delay::Lost(seconds(5)));
        cluster.delete_with("pods", "web", json!({ "gracePeriodSeconds": 0 })).await?;
        cluster.create(pod("web", one_container("nginx:2", &[]))).await?;
        cluster.settle().await;
        assert!(is_ready(&get(cluster, "pods", "web").await?));
        Ok(())
    });
}

#[test]
fn a_claim_is_bound_before_its_pod_runs() {
    simulate(async |cluster| {
        let mut spec = one_container("mysql:8", &[]);
        spec["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
        cluster.create(pod("db", spec)).await?;
        cluster.settle().await;
        assert_eq!(get(cluster, "pods", "db").await?["status"]["phase"], "Pending");
        cluster
            .create(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            }))
            .await?;
        cluster.settle().await;
        assert!(is_ready(&get(cluster, "pods", "db").await?));
        let claim = get(cluster, "persistentvolumeclaims", "data").await?;
        assert_eq!(claim["status"]["phase"], "Bound");
        // In use, it is protected; afterwards it goes, and its volume with it.
        cluster.delete("persistentvolumeclaims", "data").await?;
        cluster.settle().await;
        assert!(cluster.get("persistentvolumeclaims", "data").await?.is_some());
        cluster.delete("pods", "db").await?;
        cluster.settle().await;
        assert!(cluster.get("persistentvolumeclaims", "data").await?.is_none());
        assert_eq!(cluster.list("persistentvolumes", None).await?.len(), 0);
        Ok(())
    });
}

#[test]
fn replicas_are_spread_over_the_nodes() {
    simulate(async |cluster| {
        cluster.create(deployment("web", 9, "nginx:1")).await?;
        cluster.settle().await;
        for node in cluster.nodes() {
            let here = pods(cluster, "web").await?.iter().filter(|pod| pod["spec"]["nodeName"] == *node).count();
            assert!((2..=4).contains(&here), "{here} of 9 on {node}");
        }
        Ok(())
    });
}

#[test]
fn a_gated_pod_waits_until_its_gates_are_gone() {
    simulate(async |cluster| {
        let mut spec = one_container("nginx:1", &[]);
        spec["schedulingGates"] = json!([{ "name": "example.com/quota" }]);
        cluster.create(pod("gated", spec)).await?;
        cluster.settle().await;
        let gated = get(cluster, "pods", "gated").await?;
        let condition = &gated["status"]["conditions"][0];
        assert_eq!(condition["reason"], "SchedulingGated");
        assert_eq!(condition["message"], "Scheduling is blocked due to non-empty scheduling gates");
        cluster.patch("pods", "gated", json!({ "spec": { "schedulingGates": null } })).await?;
        cluster.settle().await;
        assert!(is_ready(&get(cluster, "pods", "gated").await?));
        Ok(())
    });
}

#[test]
fn why_a_pod_is_pending_is_said_word_for_word_in_its_event_and_its_condition() {
    play(Cluster::builder().nodes(2), async |cluster| {
        cluster.patch("nodes", "coracle-2", json!({ "spec": { "unschedulable": true } })).await?;
        let mut spec = one_container("nginx:1", &[]);
        spec["containers"][0]["resources"] = json!({ "requests": { "cpu": "1000" } });
        cluster.create(pod("large", spec)).await?;
        cluster.settle().await;
        let expected = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. no new claims to \
                        deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        let large = get(cluster, "pods", "large").await?;
        let condition = &large["status"]["conditions"][0];
        assert_eq!((&condition["reason"], &condition["message"]), (&json!("Unschedulable"), &json!(expected)));
        assert!(messages(cluster, "large").await?.contains(&expected.to_owned()));
        Ok(())
    });
}

#[test]
fn a_claim_that_waits_for_its_pod_gets_the_smallest_volume_where_the_pod_can_go() {
    play(Cluster::builder().nodes(2), async |cluster| {
        cluster
            .create(json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "local" },
                            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer" }))
            .await?;
        for (name, size, node) in
            [("large", "9Gi", "coracle-2"), ("small", "5Gi", "coracle-2"), ("elsewhere", "5Gi", "coracle-1")]
        {
            let on_node = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] });
            cluster
                .create(json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name }, "spec": {
                    "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size },
                    "local": { "path": "/mnt" }, "persistentVolumeReclaimPolicy": "Retain",
                    "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [on_node] }] } } } }))
                .await?;
        }
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
                "spec": { "storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                          "resources": { "requests": { "storage": "4Gi" } } } }))
            .await?;
        cluster.settle().await;
        let mut spec = one_container("mysql:8", &[]);
        spec["volumes"] = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
        spec["nodeSelector"] = json!({ "kubernetes.io/hostname": "coracle-2" });
        // While nobody binds claims to volumes, the pod says where it is expected to run.
        cluster.crash(&Component::ControllerManager);
        cluster.create(pod("db", spec)).await?;
        cluster.settle().await;
        let waiting = get(cluster, "pods", "db").await?;
        assert_eq!(
            (&waiting["spec"]["nodeName"], &waiting["status"]["nominatedNodeName"]),
            (&json!(null), &json!("coracle-2"))
        );
        cluster.restart(&Component::ControllerManager).await?;
        cluster.settle().await;
        assert_eq!(get(cluster, "persistentvolumeclaims", "data").await?["spec"]["volumeName"], "small");
        let bound = get(cluster, "pods", "db").await?;
        assert_eq!(
            (&bound["spec"]["nodeName"], &bound["status"]["nominatedNodeName"]),
            (&json!("coracle-2"), &json!(null))
        );
        Ok(())
    });
}
