//! Replicas follow load: metrics, the autoscaler, and all between.

use coracle_sim::Cluster;
use http::Request;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use serde_json::{Value, json};

use crate::support::*;

/// A Deployment whose containers request a tenth of a processor each.
fn web() -> Value {
    let mut web = deployment("web", 1, "nginx:1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "100m" } });
    web
}

fn autoscaler(name: &str, target: &str, behavior: Value) -> Value {
    let cpu = json!({ "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } });
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": name },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": target },
            "maxReplicas": 5, "metrics": [{ "type": "Resource", "resource": cpu }], "behavior": behavior,
        },
    })
}

/// Lets time pass while the ready pods share a load, in thousandths of a processor.
async fn under_load(cluster: &Cluster, load: u64, seconds: u64) -> anyhow::Result<()> {
    for _ in 0..seconds {
        let all = pods(cluster, "web").await?;
        let ready: Vec<&Value> = all.iter().filter(|pod| is_ready(pod)).collect();
        for pod in &ready {
            cluster.set_use("default", &name(pod), load / ready.len() as u64, 32 << 20);
        }
        cluster.advance(crate::support::seconds(1)).await;
    }
    Ok(())
}

/// Waits until the autoscaler looks. It sees averages since it last did: what changes now, the next look sees whole.
async fn measured(cluster: &Cluster) -> anyhow::Result<()> {
    let looks = || asked(cluster, "/metrics.k8s.io/");
    let before = looks();
    cluster.until("the autoscaler looks", async |_| Ok(looks() > before)).await
}

/// How many requests there were whose paths have this in them.
fn asked(cluster: &Cluster, path: &str) -> u64 {
    cluster.requests().iter().filter(|(what, _)| what.contains(path)).map(|(_, count)| count).sum()
}

async fn replicas(cluster: &Cluster) -> anyhow::Result<i64> {
    Ok(get(cluster, "deployments", "web").await?["spec"]["replicas"].as_i64().unwrap_or_default())
}

/// The status of an autoscaler, and its conditions as `Type=Status/Reason`.
async fn status(cluster: &Cluster, name: &str) -> anyhow::Result<(Value, Vec<String>)> {
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(cluster.client(), "default");
    let status = serde_json::to_value(api.get(name).await?.status)?;
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions = conditions.map(|c| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason")));
    Ok((status.clone(), conditions.collect()))
}

async fn metrics(cluster: &Cluster, path: &str) -> anyhow::Result<Value> {
    Ok(cluster.client().request(Request::get(format!("/apis/metrics.k8s.io/v1beta1/{path}")).body(Vec::new())?).await?)
}

#[test]
fn when_traffic_rises_more_containers_are_deployed_and_fewer_when_it_falls() {
    simulate(async |cluster| {
        cluster.create(web()).await?;
        cluster.create(autoscaler("web", "web", Value::Null)).await?;
        under_load(cluster, 50, 120).await?;
        let (now, conditions) = status(cluster, "web").await?;
        assert_eq!((replicas(cluster).await?, &now["currentReplicas"]), (1, &json!(1)), "{now}");
        let current = &now["currentMetrics"][0]["resource"]["current"];
        assert_eq!(current, &json!({ "averageUtilization": 50, "averageValue": "50m" }));
        let quiet = [
            "AbleToScale=True/ReadyForNewScale",
            "ScalingActive=True/ValidMetricFound",
            "ScalingLimited=False/DesiredWithinRange",
        ];
        assert_eq!(conditions, quiet);

        // 200 % of what one pod requests, then 100 % of what four do: four times and twice what is aimed at.
        for (load, size) in [(200, 4), (400, 5)] {
            measured(cluster).await?;
            under_load(cluster, load, 120).await?;
            assert_eq!((replicas(cluster).await?, ready_pods(cluster, "web").await?), (size, size as usize));
        }
        let (now, conditions) = status(cluster, "web").await?;
        assert_eq!(now["currentMetrics"][0]["resource"]["current"]["averageUtilization"], 80, "{now}");
        assert!(conditions.contains(&"ScalingLimited=True/TooManyReplicas".to_owned()), "{conditions:?}");

        // What was called for in the last five minutes still counts. So little is left that one pod is enough, even if
        // the next look sees a second of the time before.
        measured(cluster).await?;
        under_load(cluster, 25, 240).await?;
        assert_eq!(replicas(cluster).await?, 5);
        assert!(status(cluster, "web").await?.1.contains(&"AbleToScale=True/ScaleDownStabilized".to_owned()));
        under_load(cluster, 25, 120).await?;
        assert_eq!(replicas(cluster).await?, 1);
        let mut said = messages(cluster, "web").await?;
        said.retain(|message| message.starts_with("New size"));
        let sizes = [
            "New size: 4; reason: cpu resource utilization (percentage of request) above target",
            "New size: 5; reason: cpu resource utilization (percentage of request) above target",
            "New size: 1; reason: All metrics below target",
        ];
        assert_eq!(said, sizes);
        Ok(())
    });
}

#[test]
fn a_behaviour_makes_haste_or_takes_its_time() {
    simulate(async |cluster| {
        cluster.create(web()).await?;
        let slowly = json!({ "policies": [{ "type": "Pods", "value": 1, "periodSeconds": 60 }] });
        let behavior = json!({ "scaleUp": slowly, "scaleDown": { "stabilizationWindowSeconds": 0 } });
        cluster.create(autoscaler("web", "web", behavior)).await?;
        under_load(cluster, 400, 70).await?;
        assert_eq!(replicas(cluster).await?, 2);
        assert!(status(cluster, "web").await?.1.contains(&"ScalingLimited=True/ScaleUpLimit".to_owned()));
        under_load(cluster, 400, 60).await?;
        assert_eq!(replicas(cluster).await?, 3);
        under_load(cluster, 10, 60).await?;
        assert_eq!(replicas(cluster).await?, 1);
        Ok(())
    });
}

#[test]
fn custom_resources_with_a_scale_are_scaled_too() {
    simulate(async |cluster| {
        let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
        let scale = json!({ "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" });
        let version = json!({ "name": "v1", "served": true, "storage": true, "schema": schema, "subresources": { "scale": scale } });
        let names = json!({ "plural": "wolves", "kind": "Wolf" });
        cluster
            .create(json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": { "name": "wolves.example.com" },
                "spec": { "group": "example.com", "scope": "Namespaced", "names": names, "versions": [version] },
            }))
            .await?;
        cluster.settle().await;
        let wolves = "/apis/example.com/v1/namespaces/default/wolves";
        let wolf = json!({ "apiVersion": "example.com/v1", "kind": "Wolf", "metadata": { "name": "grey" }, "spec": { "replicas": 1 } });
        let request =
            Request::post(wolves).header("content-type", "application/json").body(serde_json::to_vec(&wolf)?)?;
        cluster.client().request::<Value>(request).await?;
        let mut pack = autoscaler("pack", "grey", Value::Null);
        pack["spec"]["scaleTargetRef"] = json!({ "apiVersion": "example.com/v1", "kind": "Wolf", "name": "grey" });
        pack["spec"]["minReplicas"] = 3.into();
        cluster.create(pack).await?;
        cluster.advance(seconds(20)).await;
        let found: Value = cluster.client().request(Request::get(format!("{wolves}/grey")).body(Vec::new())?).await?;
        assert_eq!(found["spec"]["replicas"], 3);
        let said = messages(cluster, "pack").await?;
        assert_eq!(said, ["New size: 3; reason: Current number of replicas below Spec.MinReplicas"]);
        Ok(())
    });
}

#[test]
fn what_an_autoscaler_cannot_do_stands_in_its_conditions() {
    simulate(async |cluster| {
        cluster.create(autoscaler("lost", "nowhere", Value::Null)).await?;
        cluster.create(web()).await?;
        cluster.create(autoscaler("web", "web", Value::Null)).await?;
        cluster.create(autoscaler("twin", "web", Value::Null)).await?;
        cluster.create(deployment("off", 0, "nginx:1")).await?;
        cluster.create(autoscaler("off", "off", Value::Null)).await?;
        cluster.create(deployment("free", 1, "nginx:1")).await?;
        cluster.create(autoscaler("free", "free", Value::Null)).await?;
        under_load(cluster, 50, 60).await?;
        for (autoscaler, expected) in [
            ("lost", "AbleToScale=False/FailedGetScale"),
            ("web", "ScalingActive=False/AmbiguousSelector"),
            ("twin", "ScalingActive=False/AmbiguousSelector"),
            ("off", "ScalingActive=False/ScalingDisabled"),
            ("free", "ScalingActive=False/FailedGetResourceMetric"),
        ] {
            let (_, conditions) = status(cluster, autoscaler).await?;
            assert!(conditions.iter().any(|condition| condition == expected), "{autoscaler}: {conditions:?}");
        }
        let said = messages(cluster, "free").await?;
        let missing = "missing request for cpu in container main of Pod free-";
        assert!(said.iter().any(|message| message.contains(missing)), "{said:?}");
        let said = messages(cluster, "twin").await?;
        let rivals = "pods by selector app=web are controlled by multiple HPAs: [{twin default} {web default}]";
        assert!(said.iter().any(|message| message == rivals), "{said:?}");
        Ok(())
    });
}

#[test]
fn metrics_tell_what_nodes_and_pods_use_and_cost_nothing_unless_asked_for() {
    simulate(async |cluster| {
        cluster.create(web()).await?;
        cluster.settle().await;
        under_load(cluster, 70, 5).await?;
        let asked = |cluster: &Cluster| asked(cluster, "/metrics/resource");
        assert_eq!(asked(cluster), 0);
        let list = metrics(cluster, "namespaces/default/pods?labelSelector=app%3Dweb").await?;
        let pod = &list["items"][0];
        assert_eq!(
            (&list["kind"], &pod["containers"][0]["usage"]),
            (&json!("PodMetricsList"), &json!({ "cpu": "70m", "memory": "32Mi" }))
        );
        assert_eq!(
            (asked(cluster), pod["window"].as_str().is_some_and(|window| window.starts_with("1"))),
            (6, true),
            "{pod}"
        );
        assert_eq!(metrics(cluster, "namespaces/default/pods?labelSelector=app%3Dother").await?["items"], json!([]));
        let nodes = metrics(cluster, "nodes").await?;
        assert_eq!(nodes["items"].as_array().map(Vec::len), Some(3));
        assert_eq!(asked(cluster), 6);
        let name = name(pod);
        assert_eq!(
            metrics(cluster, &format!("namespaces/default/pods/{name}")).await?["metadata"]["name"],
            name.as_str()
        );
        let missing = metrics(cluster, "namespaces/default/pods/none").await.unwrap_err().to_string();
        assert!(missing.contains("not found"), "{missing}");
        Ok(())
    });
}
