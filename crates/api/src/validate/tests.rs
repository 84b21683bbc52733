//! One line a rule: an object that is good, what is done to it, and what is said of it then.

use serde_json::{Value, json};

use super::{told, told_of_change};

const CASES: &str = include_str!("cases.tsv");

fn good(definition: &str) -> Value {
    let pod = json!({ "containers": [{ "name": "c", "image": "i" }] });
    let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": pod });
    let selector = json!({ "matchLabels": { "a": "b" } });
    match definition {
        "core.v1.Pod" => json!({ "metadata": { "name": "p" }, "spec": pod }),
        "core.v1.Service" => json!({ "spec": { "ports": [{ "port": 80 }] } }),
        "core.v1.ReplicationController" => json!({ "spec": { "template": template } }),
        "core.v1.PersistentVolume" => {
            json!({ "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "nfs": { "server": "s", "path": "/p" } } })
        }
        "core.v1.PersistentVolumeClaim" => {
            json!({ "spec": { "resources": { "requests": { "storage": "1Gi" } }, "accessModes": ["ReadWriteOnce"] } })
        }
        "batch.v1.Job" => {
            json!({ "spec": { "selector": {}, "manualSelector": true, "template": { "spec": { "restartPolicy": "Never", "containers": pod["containers"] } } } })
        }
        "batch.v1.CronJob" => {
            json!({ "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": pod["containers"] } } } } } })
        }
        "autoscaling.v2.HorizontalPodAutoscaler" => {
            json!({ "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "g/v1", "kind": "k", "name": "n" } } })
        }
        "storage.v1.StorageClass" => json!({ "provisioner": "p.example.com" }),
        "storage.v1.VolumeAttachment" => {
            json!({ "spec": { "attacher": "a.example.com", "nodeName": "n", "source": { "persistentVolumeName": "v" } } })
        }
        "storage.v1.CSINode" => json!({ "spec": { "drivers": [{ "name": "d", "nodeID": "n" }] } }),
        "storage.v1.VolumeAttributesClass" => json!({ "driverName": "d.example.com", "parameters": { "a": "b" } }),
        "storage.v1.CSIStorageCapacity" => json!({ "storageClassName": "s" }),
        "node.v1.RuntimeClass" => json!({ "handler": "h" }),
        "networking.v1.IPAddress" => {
            json!({ "spec": { "parentRef": { "resource": "services", "namespace": "n", "name": "s" } } })
        }
        "networking.v1.ServiceCIDR" => json!({ "spec": { "cidrs": ["10.0.0.0/24"] } }),
        "networking.v1.NetworkPolicy" => {
            json!({ "spec": { "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }], "ports": [{ "port": 80 }] }] } })
        }
        "networking.v1.Ingress" => {
            json!({ "spec": { "defaultBackend": { "service": { "name": "s", "port": { "number": 80 } } } } })
        }
        "networking.v1.IngressClass" => json!({ "spec": { "controller": "example.com/c" } }),
        "discovery.v1.EndpointSlice" => json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }] }),
        "rbac.v1.Role" => json!({}),
        "rbac.v1.RoleBinding" => {
            json!({ "roleRef": { "kind": "Role", "name": "r" }, "subjects": [{ "kind": "User", "name": "u" }] })
        }
        "rbac.v1.ClusterRoleBinding" => json!({ "roleRef": { "kind": "ClusterRole", "name": "r" } }),
        "admissionregistration.v1.MutatingWebhookConfiguration" => json!({ "webhooks": [{
            "name": "a.example.com",
            "clientConfig": { "service": { "name": "s", "namespace": "n", "path": "/p", "port": 443 } },
            "rules": [{ "operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"] }],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }] }),
        "admissionregistration.v1.ValidatingAdmissionPolicy" => json!({ "metadata": { "name": "p" }, "spec": {
            "paramKind": { "apiVersion": "g.io/v1", "kind": "Limit" },
            "matchConstraints": { "resourceRules": [
                { "operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"] },
            ] },
            "validations": [{ "expression": "true" }],
        } }),
        "admissionregistration.v1.ValidatingAdmissionPolicyBinding" => {
            json!({ "spec": { "policyName": "p", "validationActions": ["Deny"], "paramRef": { "name": "n" } } })
        }
        "flowcontrol.v1.FlowSchema" => json!({ "metadata": { "name": "mine" }, "spec": {
            "priorityLevelConfiguration": { "name": "workload-low" },
            "distinguisherMethod": { "type": "ByUser" },
            "rules": [{
                "subjects": [{ "kind": "Group", "group": { "name": "dev" } }],
                "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"] }],
                "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/x/*"] }],
            }],
        } }),
        "flowcontrol.v1.PriorityLevelConfiguration" => {
            let limited = json!({ "limitResponse": { "type": "Queue", "queuing": {} } });
            json!({ "metadata": { "name": "mine" }, "spec": { "type": "Limited", "limited": limited } })
        }
        "apiregistration.v1.APIService" => json!({ "metadata": { "name": "v1.g.io" }, "spec": {
            "group": "g.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1000,
            "service": { "namespace": "n", "name": "s" },
        } }),
        "apiextensions.v1.CustomResourceDefinition" => crate::custom::definition::good(),
        "core.v1.Event" => json!({}),
        "events.v1.Event" => json!({
            "metadata": { "namespace": "default" }, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r",
        }),
        "scheduling.v1.PriorityClass" => json!({ "metadata": { "name": "high" }, "value": 1 }),
        "resource.v1.ResourceClaim" => {
            json!({ "spec": { "devices": { "requests": [{ "name": "r", "exactly": { "deviceClassName": "gpu" } }] } } })
        }
        "resource.v1.ResourceSlice" => {
            json!({ "spec": { "driver": "d.example.com", "nodeName": "n", "pool": { "name": "p", "generation": 1, "resourceSliceCount": 1 }, "devices": [{ "name": "gpu" }] } })
        }
        kind if kind.starts_with("apps.") && kind != "apps.v1.ControllerRevision" => {
            json!({ "spec": { "selector": selector, "template": template } })
        }
        _ => json!({ "spec": {} }),
    }
}

/// `/spec/containers/0/image=""`: the value at a pointer, made if it is not there.
fn set(object: &mut Value, change: &str) {
    let (pointer, value) = change.split_once('=').unwrap();
    let slot = pointer[1..].split('/').fold(object, |value, key| match key.parse::<usize>() {
        Ok(at) => {
            if !value.is_array() {
                *value = json!([]);
            }
            let items = value.as_array_mut().unwrap();
            while items.len() <= at {
                items.push(json!({}));
            }
            &mut items[at]
        }
        Err(_) => &mut value[key.replace("~1", "/")],
    });
    *slot = serde_json::from_str(value).unwrap_or_else(|why| panic!("{change}: {why}"));
}

#[test]
fn every_case_is_told_what_upstream_tells() {
    let mut wrong = Vec::new();
    let mut definition = "";
    for line in CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('=') {
            definition = name;
            let errors = told(definition, &good(definition));
            if !errors.is_empty() {
                wrong.push(format!("{definition} should be good: {errors:?}"));
            }
            continue;
        }
        let (changes, expected) = line.split_once('\t').unwrap();
        let (update, changes) = match changes.split_at(1) {
            ("~", changes) => (Some(""), changes),
            ("^", changes) => (Some("status"), changes),
            _ => (None, changes),
        };
        let mut object = good(definition);
        changes.split(" ; ").for_each(|change| set(&mut object, change));
        let errors = match update {
            Some(subresource) => told_of_change(definition, &object, &good(definition), subresource),
            None => told(definition, &object),
        };
        let errors = errors.join(" | ");
        if errors != expected {
            wrong.push(format!("{definition} {changes}\n  is told    {errors}\n  instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
