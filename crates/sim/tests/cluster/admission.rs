//! Kubelets that do not take what is bound to their node.

use coracle_sim::{Cluster, Component};
use serde_json::{Value, json};

use crate::support::*;

/// A pod that is on a node without any scheduler.
fn bound(name: &str, cpu: &str, more: Value) -> Value {
    let mut spec = one_container("nginx:1", &[]);
    spec["nodeName"] = json!("coracle-1");
    spec["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    pod(name, spec)
}

async fn phase(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    Ok(get(cluster, "pods", name).await?["status"]["phase"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_pod_for_which_its_node_has_no_room_fails_and_says_why() {
    play(Cluster::builder().nodes(1), async |cluster| {
        cluster.create(bound("first", "3", json!({}))).await?;
        cluster.settle().await;
        cluster.create(bound("second", "3", json!({}))).await?;
        cluster.settle().await;
        let mut status = get(cluster, "pods", "second").await?["status"].clone();
        let why = "Node didn't have enough resource: cpu, requested: 3000, used: 3000, capacity: 4000";
        assert!(status.as_object_mut().and_then(|status| status.remove("startTime")).is_some(), "{status}");
        assert_eq!(
            status,
            json!({
                "phase": "Failed", "reason": "OutOfcpu", "message": format!("Pod was rejected: {why}"),
                "observedGeneration": 1, "qosClass": "Burstable",
            })
        );
        assert_eq!(messages(cluster, "second").await?, [why]);
        cluster.delete("pods", "first").await?;
        cluster.settle().await;
        assert_eq!(phase(cluster, "second").await?, "Failed", "it is not asked again");
        cluster.create(bound("third", "3", json!({}))).await?;
        cluster.settle().await;
        assert_eq!(phase(cluster, "third").await?, "Running");
        cluster.delete("pods", "second").await?;
        cluster.settle().await;
        assert!(cluster.get("pods", "second").await?.is_none());
        Ok(())
    });
}

#[test]
fn a_kubelet_knows_its_nodes_labels_as_they_are_now_and_keeps_what_it_has_started() {
    play(Cluster::builder().nodes(1), async |cluster| {
        let on_ssd = || json!({ "nodeSelector": { "disk": "ssd" } });
        cluster.create(bound("early", "1", on_ssd())).await?;
        cluster.settle().await;
        assert_eq!(get(cluster, "pods", "early").await?["status"]["reason"], "NodeAffinity");
        cluster.patch("nodes", "coracle-1", json!({ "metadata": { "labels": { "disk": "ssd" } } })).await?;
        cluster.create(bound("late", "1", on_ssd())).await?;
        cluster.settle().await;
        assert_eq!(phase(cluster, "late").await?, "Running");
        cluster.patch("nodes", "coracle-1", json!({ "metadata": { "labels": { "disk": null } } })).await?;
        cluster.restart(&Component::Kubelet("coracle-1".into())).await?;
        cluster.settle().await;
        assert!(is_ready(&get(cluster, "pods", "late").await?));
        Ok(())
    });
}

#[test]
fn of_pods_that_came_while_the_kubelet_was_away_the_oldest_are_taken() {
    play(Cluster::builder().nodes(1), async |cluster| {
        cluster.crash(&Component::Kubelet("coracle-1".into()));
        for name in ["z", "y", "a"] {
            cluster.create(bound(name, "2", json!({}))).await?;
            cluster.advance(seconds(2)).await;
        }
        cluster.restart(&Component::Kubelet("coracle-1".into())).await?;
        cluster.settle().await;
        assert_eq!(phase(cluster, "z").await?, "Running");
        assert_eq!(phase(cluster, "y").await?, "Running");
        assert_eq!(phase(cluster, "a").await?, "Failed");
        Ok(())
    });
}

#[test]
fn a_critical_pod_makes_room_for_itself() {
    play(Cluster::builder().nodes(1), async |cluster| {
        for (name, cpu) in [("small", "500m"), ("large", "2"), ("sure", "1")] {
            let limits = json!([{ "name": "main", "image": "nginx:1", "resources": { "limits": { "cpu": cpu, "memory": "1Mi" } } }]);
            let more = if name == "sure" { json!({ "containers": limits }) } else { json!({}) };
            cluster.create(bound(name, cpu, more)).await?;
        }
        cluster.settle().await;
        let critical = || json!({ "priorityClassName": "system-node-critical" });
        // Half a processor is left, and one wanted.
        cluster.create(bound("critical", "1", critical())).await?;
        cluster.settle().await;
        let phases = async |cluster: &Cluster| -> anyhow::Result<Vec<(String, String)>> {
            let pods = cluster.list("pods", Some("default")).await?;
            let phase = |pod: &Value| pod["status"]["phase"].as_str().unwrap_or_default().to_owned();
            Ok(pods.iter().map(|pod| (name(pod), phase(pod))).collect())
        };
        let told = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(name, phase)| ((*name).to_owned(), (*phase).to_owned())).collect()
        };
        let expected = [("critical", "Running"), ("large", "Running"), ("small", "Failed"), ("sure", "Running")];
        assert_eq!(phases(cluster).await?, told(&expected));
        let mut small = get(cluster, "pods", "small").await?["status"].clone();
        assert_eq!(
            (&small["reason"], &small["message"]),
            (&json!("Preempting"), &json!("Preempted in order to admit critical pod"))
        );
        let target = small["conditions"].as_array_mut().and_then(|conditions| conditions.pop()).unwrap_or_default();
        assert_eq!(
            (&target["type"], &target["status"], &target["reason"], &target["message"]),
            (&json!("DisruptionTarget"), &json!("True"), &json!("TerminationByKubelet"), &small["message"])
        );
        assert!(messages(cluster, "small").await?.contains(&"Preempted in order to admit critical pod".to_owned()));
        // Nothing ran beyond what there is: the critical pod began when the other had ended.
        let time = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ended = time(&small["containerStatuses"][0]["state"]["terminated"]["finishedAt"]);
        let began = get(cluster, "pods", "critical").await?["status"]["containerStatuses"][0].clone();
        let began = time(&began["state"]["running"]["startedAt"]);
        assert!(!ended.is_empty() && ended <= began, "{ended} {began}");

        cluster.create(bound("too-large", "3500m", critical())).await?;
        cluster.settle().await;
        let status = get(cluster, "pods", "too-large").await?["status"].clone();
        assert_eq!(status["reason"], "UnexpectedAdmissionError");
        assert_eq!(
            status["message"],
            "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error \
             finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 500), ]"
        );
        Ok(())
    });
}
