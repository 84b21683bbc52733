//! Services and the pods behind them.

use coracle_sim::Cluster;
use serde_json::{Value, json};

use crate::support::*;

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80 }] },
    })
}

/// How many endpoints of a Service are ready.
async fn ready_endpoints(cluster: &Cluster, service: &str) -> anyhow::Result<usize> {
    let mut slices = cluster.list("endpointslices", Some("default")).await?;
    slices.retain(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    Ok(endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count())
}

#[test]
fn only_ready_pods_are_behind_a_service() {
    simulate(async |cluster| {
        cluster.create(service("web")).await?;
        let mut web = deployment("web", 3, "nginx:1");
        web["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
            json!({ "httpGet": { "port": 80 }, "periodSeconds": 2, "failureThreshold": 1 });
        cluster.create(web).await?;
        cluster.settle().await;
        assert_eq!(ready_endpoints(cluster, "web").await?, 3);
        let one = pods(cluster, "web").await?.remove(0);
        let machine = cluster.machine(one["spec"]["nodeName"].as_str().unwrap_or_default());
        machine.set_healthy("default", &name(&one), "main", false);
        cluster.settle().await;
        assert_eq!(ready_endpoints(cluster, "web").await?, 2);
        machine.set_healthy("default", &name(&one), "main", true);
        cluster.settle().await;
        assert_eq!(ready_endpoints(cluster, "web").await?, 3);
        Ok(())
    });
}

#[test]
fn a_pod_leaves_its_service_before_its_container_ends() {
    let slow = coracle_kubelet::runtime::simulated::Behaviour { stop_delay: seconds(20), ..Default::default() };
    let rule =
        coracle_kubelet::runtime::simulated::Rule { image: "nginx".into(), behaviour: slow, ..Default::default() };
    let machine = coracle_kubelet::runtime::simulated::SimulatedConfig { rules: vec![rule], ..Default::default() };
    play(Cluster::builder().nodes(2).machine(machine), async |cluster| {
        cluster.create(service("web")).await?;
        cluster.create(deployment("web", 2, "nginx:1")).await?;
        cluster.settle().await;
        let one = name(&pods(cluster, "web").await?[0]);
        cluster.delete("pods", &one).await?;
        cluster.advance(seconds(2)).await;
        let status = get(cluster, "pods", &one).await?["status"].clone();
        assert!(!status["containerStatuses"][0]["state"]["running"].is_null(), "it has its grace: {status:#}");
        let slices = cluster.list("endpointslices", Some("default")).await?;
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let conditions: Vec<_> =
            endpoints.filter(|e| e["targetRef"]["name"] == *one).map(|e| e["conditions"].clone()).collect();
        assert_eq!(conditions, [json!({ "ready": false, "serving": true, "terminating": true })]);
        cluster.advance(seconds(30)).await;
        assert!(cluster.get("pods", &one).await?.is_none());
        assert_eq!(ready_endpoints(cluster, "web").await?, 2);
        Ok(())
    });
}
