//! Limits of a namespace, the selector of nodes, and priorities.

use std::time::Duration;

use kube::api::Patch;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;

/// CPU, memory and ephemeral storage; an empty text leaves one out.
fn resources(cpu: &str, memory: &str, storage: &str) -> Value {
    let all = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)];
    all.into_iter().filter(|(_, amount)| !amount.is_empty()).collect()
}

fn limit_range(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": { "name": name },
        "spec": { "limits": [{
            "type": "Container",
            "min": resources("50m", "100Mi", "100Gi"), "max": resources("500m", "500Mi", "500Gi"),
            "default": resources("500m", "500Mi", "500Gi"), "defaultRequest": resources("100m", "200Mi", "200Gi"),
        }] },
    })
}

#[test]
fn a_limit_range_fills_in_defaults_and_refuses_what_is_out_of_range() {
    control_plane(async |cluster| {
        let ranges = Objects::find(cluster, "v1", "LimitRange").await?;
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let mut watch = ranges.watch("", &ranges.now().await?).await?;
        let mut range = ranges.create(&limit_range("limit-range")).await?;
        assert_eq!(watch.next().await?.0, "ADDED");
        assert_contains(&ranges.get("limit-range").await?, &limit_range("limit-range"));

        pods.create(&pod("pod-no-resources", json!({}), json!({}))).await?;
        let resources_of = async |name: &str| -> anyhow::Result<Value> {
            Ok(pods.get(name).await?["spec"]["containers"][0]["resources"].clone())
        };
        assert_eq!(
            resources_of("pod-no-resources").await?,
            json!({ "requests": resources("100m", "200Mi", "200Gi"), "limits": resources("500m", "500Mi", "500Gi") }),
        );
        let partial = pod("pod-partial-resources", resources("", "150Mi", "150Gi"), resources("300m", "", ""));
        pods.create(&partial).await?;
        assert_eq!(
            resources_of("pod-partial-resources").await?,
            json!({ "requests": resources("300m", "150Mi", "150Gi"), "limits": resources("300m", "500Mi", "500Gi") }),
            "a request that is missing is first the limit's, then the range's",
        );
        let small = pod("pfpod", resources("10m", "50Mi", "50Gi"), json!({}));
        let large = resources("600m", "600Mi", "600Gi");
        let large = pod("pfpod", large.clone(), large);
        let why = refused(pods.create(&small).await, 403, "Forbidden").message;
        assert!(why.contains("minimum cpu usage per Container is 50m, but request is 10m"), "{why}");
        let why = refused(pods.create(&large).await, 403, "Forbidden").message;
        assert!(why.contains("maximum cpu usage per Container is 500m"), "{why}");

        range["spec"]["limits"][0]["min"] = resources("9m", "49Mi", "49Gi");
        ranges.replace(&range).await?;
        assert_eq!(watch.next().await?.0, "MODIFIED");
        pods.create(&small).await?;
        refused(pods.create(&large).await, 403, "Forbidden");

        ranges.delete("limit-range").await?;
        assert_eq!(watch.next().await?.0, "DELETED");
        let mut large = large;
        large["metadata"]["name"] = "pfpod2".into();
        pods.create(&large).await?;
        Ok(())
    });
}

#[test]
fn limit_ranges_are_listed_patched_and_deleted_as_a_collection() {
    let limits = json!([{
        "type": "Container",
        "min": resources("9m", "49Mi", "49Gi"), "max": resources("500m", "500Mi", "500Gi"),
        "default": resources("500m", "500Mi", "500Gi"), "defaultRequest": resources("100m", "200Mi", "200Gi"),
    }]);
    takes_every_verb(limit_range("e2e-limitrange"), json!({ "spec": { "limits": limits } }), Value::Null);
}

#[test]
fn a_node_selector_that_matches_no_node_keeps_the_pod_pending() {
    cluster(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let mut restricted = pod("restricted-pod", json!({}), json!({}));
        restricted["spec"]["nodeSelector"] = json!({ "label": "nonempty" });
        pods.create(&restricted).await?;
        cluster.advance(Duration::from_secs(30)).await;
        let pod = pods.get("restricted-pod").await?;
        assert_eq!((text(&pod, "/status/phase"), text(&pod, "/spec/nodeName")), ("Pending", ""));
        let scheduled = &pod["status"]["conditions"][0];
        assert_eq!((&scheduled["type"], &scheduled["reason"]), (&json!("PodScheduled"), &json!("Unschedulable")));
        let events = Objects::find(cluster, "v1", "Event").await?.list("").await?;
        let failed = events.iter().find(|event| event["reason"] == "FailedScheduling").expect("it says so");
        let why = text(failed, "/message");
        assert!(
            why.starts_with("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector"),
            "{why}"
        );
        Ok(())
    });
}

#[test]
fn a_priority_class_takes_every_verb() {
    takes_every_verb(
        json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": "p1" }, "value": 1 }),
        json!({ "description": "patched" }),
        Value::Null,
    );
}

#[test]
fn a_priority_classs_value_is_immutable() {
    api(async |cluster| {
        let classes = Objects::find(cluster, "scheduling.k8s.io/v1", "PriorityClass").await?;
        for (name, value) in [("p1", 1), ("p2", 2)] {
            classes
                .create(&json!({
                    "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                    "metadata": { "name": name }, "value": value, "description": "old",
                }))
                .await?;
        }
        let patched = refused(classes.merge("p1", json!({ "value": 3 })).await, 422, "Invalid");
        assert!(patched.message.contains("value: Forbidden: may not be changed in an update."), "{}", patched.message);
        let mut p2 = classes.get("p2").await?;
        p2["value"] = 4.into();
        refused(classes.replace(&p2).await, 422, "Invalid");
        for name in ["p1", "p2"] {
            let patch = json!({ "description": "new" });
            assert_eq!(classes.patch(name, &Patch::Strategic(patch)).await?["description"], "new");
        }
        assert_eq!((&classes.get("p1").await?["value"], &classes.get("p2").await?["value"]), (&json!(1), &json!(2)));
        Ok(())
    });
}
