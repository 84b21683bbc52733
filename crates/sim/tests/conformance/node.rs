//! Pods' surroundings: configuration, classes of runtimes, nodes, leases, devices.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;

fn config_map(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn secret(name: &str, data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": data })
}

const KEYS: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                    'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

#[test]
fn a_config_map_with_an_empty_key_is_refused() {
    api(async |cluster| {
        let maps = Objects::find(cluster, "v1", "ConfigMap").await?;
        let status = refused(maps.create(&config_map("emptykey", json!({ "": "value-1" }))).await, 422, "Invalid");
        assert_eq!(status.message, format!("ConfigMap \"emptykey\" is invalid: data[]: Invalid value: \"\": {KEYS}"));
        Ok(())
    });
}

#[test]
fn a_config_map_takes_every_verb() {
    takes_every_verb(
        config_map("test-configmap", json!({ "valueName": "value" })),
        json!({ "data": { "valueName": "value1" } }),
        Value::Null,
    );
}

#[test]
fn a_secret_with_an_empty_key_is_refused() {
    api(async |cluster| {
        let secrets = Objects::find(cluster, "v1", "Secret").await?;
        let status = refused(secrets.create(&secret("emptykey", json!({ "": "dmFsdWU=" }))).await, 422, "Invalid");
        assert_eq!(status.message, format!("Secret \"emptykey\" is invalid: data[]: Invalid value: \"\": {KEYS}"));
        Ok(())
    });
}

#[test]
fn a_secret_takes_every_verb() {
    takes_every_verb(
        secret("test-secret", json!({ "key": "dmFsdWU=" })),
        json!({ "data": { "key": "dmFsdWUx" } }),
        Value::Null,
    );
}

#[test]
fn a_lease_takes_every_verb() {
    let lease = |holder: &str, seconds: u32| {
        json!({
            "holderIdentity": holder, "leaseDurationSeconds": seconds, "leaseTransitions": 0,
            "acquireTime": "2026-01-01T00:00:00.000001Z", "renewTime": "2026-01-01T00:00:05.000000Z",
        })
    };
    takes_every_verb(
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "lease" }, "spec": lease("holder", 30) }),
        json!({ "spec": lease("holder2", 60) }),
        Value::Null,
    );
}

#[test]
fn a_made_up_node_and_its_status_take_every_verb() {
    let ready = |status: &str| {
        json!({ "conditions": [{
            "type": "Ready", "status": status, "reason": "E2E", "message": "Set from e2e test",
        }] })
    };
    takes_every_verb(
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "e2e-fake-node" },
            "spec": { "unschedulable": true }, "status": ready("True"),
        }),
        json!({ "metadata": { "labels": { "e2e": "patched" } } }),
        ready("False"),
    );
}

fn pod_template(image: &str) -> Value {
    json!({
        "metadata": { "labels": { "pod": "set" } },
        "spec": { "containers": [{ "name": "nginx", "image": image }] },
    })
}

fn pod_template_object(name: &str) -> Value {
    let template = pod_template("nginx:1");
    json!({ "apiVersion": "v1", "kind": "PodTemplate", "metadata": { "name": name }, "template": template })
}

#[test]
fn a_pod_template_takes_every_verb() {
    takes_every_verb(pod_template_object("pt"), json!({ "template": pod_template("nginx:2") }), Value::Null);
}

#[test]
fn pod_templates_are_deleted_as_a_collection() {
    api(async |cluster| {
        let templates = Objects::find(cluster, "v1", "PodTemplate").await?;
        for name in ["test-podtemplate-1", "test-podtemplate-2", "test-podtemplate-3"] {
            let mut template = pod_template_object(name);
            template["metadata"]["labels"] = json!({ "podtemplate-set": "true" });
            templates.create(&template).await?;
        }
        assert_eq!(templates.list("podtemplate-set=true").await?.len(), 3);
        templates.delete_collection("podtemplate-set=true").await?;
        assert!(templates.list("podtemplate-set=true").await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_pod_template_is_replaced() {
    api(async |cluster| {
        let templates = Objects::find(cluster, "v1", "PodTemplate").await?;
        let mut template = templates.create(&pod_template_object("pt")).await?;
        template["metadata"]["annotations"] = json!({ "updated": "true" });
        template["template"]["spec"]["containers"][0]["image"] = "nginx:2".into();
        let replaced = templates.replace(&template).await?;
        assert_contains(
            &replaced,
            &json!({
                "metadata": { "annotations": { "updated": "true" } }, "template": pod_template("nginx:2"),
            }),
        );
        Ok(())
    });
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
    if pod["spec"]["containers"].is_null() {
        pod["spec"]["containers"] = json!([{ "name": "main", "image": "busybox:1" }]);
    }
    pod
}

#[test]
fn a_pod_whose_requests_are_its_limits_is_guaranteed() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let amounts = json!({ "cpu": "100m", "memory": "100Mi" });
        let resources = json!({ "requests": amounts, "limits": amounts });
        let container = json!({ "name": "main", "image": "pause:1", "resources": resources });
        pods.create(&pod("pod-qos-class", json!({ "containers": [container] }))).await?;
        assert_eq!(text(&pods.get("pod-qos-class").await?, "/status/qosClass"), "Guaranteed");
        Ok(())
    });
}

#[test]
fn a_pod_whose_command_always_fails_can_be_deleted() {
    cluster(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let container = json!({ "name": "main", "image": "busybox:1", "command": ["sh", "-c", "exit 1"] });
        pods.create(&pod("bin-false", json!({ "containers": [container] }))).await?;
        cluster.advance(Duration::from_secs(60)).await;
        let status = pods.get("bin-false").await?["status"]["containerStatuses"][0].clone();
        assert!(status["restartCount"].as_u64() > Some(0), "{status}");
        pods.delete("bin-false").await?;
        until("the pod is gone", async || Ok(!pods.exists("bin-false").await?)).await
    });
}

#[test]
fn malformed_sysctl_names_are_refused() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let sysctls = json!([
            { "name": "foo-", "value": "bar" },
            { "name": "kernel.shmmax", "value": "100000000" },
            { "name": "safe-and-unsafe", "value": "100000000" },
            { "name": "bar..", "value": "42" },
        ]);
        let pod = pod("sysctl", json!({ "securityContext": { "sysctls": sysctls } }));
        let why = refused(pods.create(&pod).await, 422, "Invalid").message;
        for (number, name, bad) in
            [(0, "foo-", true), (1, "kernel.shmmax", false), (2, "safe-and-unsafe", false), (3, "bar..", true)]
        {
            let part = format!("spec.securityContext.sysctls[{number}].name: Invalid value: {name:?}");
            assert_eq!(why.contains(&part), bad, "{part}: {why}");
        }
        Ok(())
    });
}

fn runtime_class(name: &str, overhead: Value) -> Value {
    let mut class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": name }, "handler": "runc",
    });
    if !overhead.is_null() {
        class["overhead"] = json!({ "podFixed": overhead });
    }
    class
}

#[test]
fn a_runtime_class_takes_every_verb() {
    let overhead = json!({ "overhead": { "podFixed": { "cpu": "10m" } } });
    takes_every_verb(runtime_class("conformance-runtime-class", Value::Null), overhead, Value::Null);
}

#[test]
fn a_pod_that_names_no_runtime_class_there_is_is_refused() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let pod = pod("test-runtimeclass", json!({ "runtimeClassName": "nonexistent" }));
        let why = refused(pods.create(&pod).await, 403, "Forbidden").message;
        assert!(why.ends_with("pod rejected: RuntimeClass \"nonexistent\" not found"), "{why}");
        Ok(())
    });
}

#[test]
fn a_pod_that_names_a_deleted_runtime_class_is_refused() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let classes = Objects::find(cluster, "node.k8s.io/v1", "RuntimeClass").await?;
        classes.create(&runtime_class("delete-me", Value::Null)).await?;
        pods.create(&pod("before", json!({ "runtimeClassName": "delete-me" }))).await?;
        classes.delete("delete-me").await?;
        until("the class is gone", async || Ok(!classes.exists("delete-me").await?)).await?;
        refused(pods.create(&pod("after", json!({ "runtimeClassName": "delete-me" }))).await, 403, "Forbidden");
        Ok(())
    });
}

/// A pod of a RuntimeClass with this overhead is scheduled, and carries `overhead`.
#[track_caller]
fn is_scheduled_with(overhead: Value) {
    cluster(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let class = runtime_class("preconfigured-handler", overhead.clone());
        Objects::of(cluster, &class).await?.create(&class).await?;
        pods.create(&pod("test-runtimeclass", json!({ "runtimeClassName": "preconfigured-handler" }))).await?;
        until("the pod is scheduled", async || {
            Ok(!text(&pods.get("test-runtimeclass").await?, "/spec/nodeName").is_empty())
        })
        .await?;
        assert_eq!(pods.get("test-runtimeclass").await?["spec"]["overhead"], overhead);
        Ok(())
    });
}

#[test]
fn a_pod_of_a_runtime_class_without_overhead_is_scheduled() {
    is_scheduled_with(Value::Null);
}

#[test]
fn a_pod_of_a_runtime_class_gets_its_overhead_and_is_scheduled() {
    is_scheduled_with(json!({ "cpu": "10m", "memory": "1Mi" }));
}

const RESOURCE_GROUP: &str = "resource.k8s.io/v1";

fn device_request() -> Value {
    json!({ "devices": { "requests": [{ "name": "req-0", "exactly": { "deviceClassName": "test-class" } }] } })
}

#[test]
fn a_device_class_takes_every_verb() {
    takes_every_verb(
        json!({ "apiVersion": RESOURCE_GROUP, "kind": "DeviceClass", "metadata": { "name": "test" }, "spec": {} }),
        json!({ "spec": { "selectors": [{ "cel": { "expression": "device.driver == \"dra.example.com\"" } }] } }),
        Value::Null,
    );
}

#[test]
fn a_resource_claim_and_its_status_take_every_verb() {
    takes_every_verb(
        json!({ "apiVersion": RESOURCE_GROUP, "kind": "ResourceClaim", "metadata": { "name": "test" }, "spec": device_request() }),
        json!({ "metadata": { "labels": { "patched": "true" } } }),
        json!({ "allocation": { "devices": { "results": [{
            "request": "req-0", "driver": "dra.example.com", "pool": "pool", "device": "device-0",
        }] } } }),
    );
}

#[test]
fn a_resource_claim_template_takes_every_verb() {
    takes_every_verb(
        json!({
            "apiVersion": RESOURCE_GROUP, "kind": "ResourceClaimTemplate", "metadata": { "name": "test" },
            "spec": { "spec": device_request() },
        }),
        json!({ "metadata": { "labels": { "patched": "true" } } }),
        Value::Null,
    );
}

#[test]
fn a_resource_slice_takes_every_verb() {
    takes_every_verb(
        json!({
            "apiVersion": RESOURCE_GROUP, "kind": "ResourceSlice", "metadata": { "name": "test" },
            "spec": {
                "nodeName": "worker-1", "driver": "dra.example.com",
                "pool": { "name": "pool", "generation": 1, "resourceSliceCount": 1 },
            },
        }),
        json!({ "spec": { "devices": [{ "name": "device-0" }] } }),
        Value::Null,
    );
}
