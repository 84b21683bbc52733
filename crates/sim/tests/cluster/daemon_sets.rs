//! DaemonSets on nodes in trouble, and on controllers in trouble.

use coracle_sim::{Cluster, Component};
use serde_json::{Value, json};

use crate::support::*;

fn daemon(image: &str) -> Value {
    workload("DaemonSet", "log", image, json!({}))
}

async fn nodes(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let pods = pods(cluster, "log").await?;
    let mut nodes: Vec<_> =
        pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()).collect();
    nodes.sort();
    Ok(nodes)
}

#[test]
fn daemons_stay_on_a_node_that_is_cordoned_or_lost_and_leave_one_that_is_tainted() {
    simulate(async |cluster| {
        cluster.create(daemon("fluentd:1")).await?;
        cluster.settle().await;
        let all = ["coracle-1", "coracle-2", "coracle-3"];
        assert_eq!(nodes(cluster).await?, all);
        cluster.patch("nodes", "coracle-1", json!({ "spec": { "unschedulable": true } })).await?;
        cluster.crash(&Component::Kubelet("coracle-2".into()));
        cluster.advance(seconds(900)).await;
        assert_eq!(nodes(cluster).await?, all);
        let status = get(cluster, "daemonsets", "log").await?["status"].clone();
        // The lost node has a taint against new pods that daemons do not tolerate; they only stay.
        assert_eq!((&status["desiredNumberScheduled"], &status["numberMisscheduled"]), (&json!(2), &json!(1)));
        let taint = json!({ "key": "gone", "effect": "NoExecute" });
        cluster.patch("nodes", "coracle-3", json!({ "spec": { "taints": [taint] } })).await?;
        cluster.settle().await;
        assert_eq!(nodes(cluster).await?, all[..2]);
        cluster.patch("nodes", "coracle-3", json!({ "spec": { "taints": null } })).await?;
        cluster.settle().await;
        assert_eq!(nodes(cluster).await?, all);
        Ok(())
    });
}

#[test]
fn templates_are_counted_and_pods_labelled_with_the_count() {
    simulate(async |cluster| {
        let count = async || -> anyhow::Result<(Value, Vec<Value>)> {
            let set = get(cluster, "daemonsets", "log").await?;
            let labels = pods(cluster, "log").await?;
            let of_pods = labels.iter().map(|pod| pod["metadata"]["labels"]["pod-template-generation"].clone());
            Ok((set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone(), of_pods.collect()))
        };
        cluster.create(daemon("fluentd:1")).await?;
        cluster.settle().await;
        assert_eq!(count().await?, (json!("1"), vec![json!("1"); 3]));
        cluster.patch("daemonsets", "log", json!({ "spec": { "minReadySeconds": 1 } })).await?;
        let forged = json!({ "metadata": { "annotations": { "deprecated.daemonset.template.generation": "7" } } });
        cluster.patch("daemonsets", "log", forged).await?;
        cluster.settle().await;
        assert_eq!(count().await?.0, json!("1"));
        let template = json!({ "spec": { "template": pod_template("log", "fluentd:2") } });
        cluster.patch("daemonsets", "log", template).await?;
        cluster.settle().await;
        assert_eq!(count().await?, (json!("2"), vec![json!("2"); 3]));
        Ok(())
    });
}

#[test]
fn a_crash_after_any_write_leads_to_the_same_daemons() {
    for writes in (1..16).step_by(2) {
        simulate(async |cluster| {
            cluster.create(daemon("fluentd:1")).await?;
            cluster.crash_after(&Component::ControllerManager, writes);
            cluster.settle().await;
            cluster
                .patch("daemonsets", "log", json!({ "spec": { "template": pod_template("log", "fluentd:2") } }))
                .await?;
            cluster.settle().await;
            if !cluster.is_running(&Component::ControllerManager) {
                cluster.restart(&Component::ControllerManager).await?;
                cluster.advance(seconds(120)).await;
            }
            assert_eq!(nodes(cluster).await?, ["coracle-1", "coracle-2", "coracle-3"], "{writes}");
            let status = get(cluster, "daemonsets", "log").await?["status"].clone();
            assert_eq!(
                (&status["updatedNumberScheduled"], &status["numberAvailable"]),
                (&json!(3), &json!(3)),
                "{writes}"
            );
            Ok(())
        });
    }
}
