//! ResourceQuota: what an object takes of a namespace's quotas, and which quotas look at it.
//!
//! Two read this: admission, which refuses what would be too much, and the controller that writes
//! `status.used`. Both count with the same functions, so a quota never shows what admission does not hold.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;

/// Amounts by the names quotas know them by: `pods`, `requests.cpu`, `count/jobs.batch`.
pub type Amounts = BTreeMap<String, Quantity>;

/// The most devices a claim for all devices of a pool may come to be allocated.
const ALL_DEVICES: i64 = 32;

/// Adds what `more` holds to `amounts`.
pub fn add(amounts: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        plus(amounts, name, *amount);
    }
}

fn plus(amounts: &mut Amounts, name: &str, amount: Quantity) {
    let total = amounts.remove(name).unwrap_or(Quantity::ZERO) + amount;
    amounts.insert(name.to_owned(), total);
}

fn at_least(amounts: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let most = amounts.remove(name).unwrap_or(Quantity::ZERO).max(*amount);
        amounts.insert(name.to_owned(), most);
    }
}

/// The quantities of a map such as `spec.hard` or a container's `requests`.
pub fn amounts(of: &Value) -> Amounts {
    let all = of.as_object().into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    if value.is_null() { None } else { Quantity::from_json(value).ok() }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn count(of: usize) -> Quantity {
    Quantity::from_value(i64::try_from(of).unwrap_or(i64::MAX))
}

/// What an object takes of every quota that counts it.
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let one = Quantity::from_value(1);
    let name = if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    let mut taken = Amounts::from([(name, one)]);
    let spec = &object["spec"];
    match (group, plural) {
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => plus(&mut taken, plural, one),
        ("", "services") => {
            let balanced = spec["type"] == "LoadBalancer";
            let given = balanced && spec["allocateLoadBalancerNodePorts"] == false;
            let ports = match spec["type"].as_str() {
                Some("NodePort" | "LoadBalancer") => items(&spec["ports"])
                    .filter(|port| !given || port["nodePort"].as_u64().is_some_and(|p| p != 0))
                    .count(),
                _ => 0,
            };
            plus(&mut taken, "services", one);
            plus(&mut taken, "services.nodeports", count(ports));
            plus(&mut taken, "services.loadbalancers", count(balanced.into()));
        }
        ("", "persistentvolumeclaims") => {
            let asked = quantity(&spec["resources"]["requests"]["storage"]).unwrap_or(Quantity::ZERO);
            let storage =
                asked.max(quantity(&object["status"]["allocatedResources"]["storage"]).unwrap_or(Quantity::ZERO));
            plus(&mut taken, "persistentvolumeclaims", one);
            plus(&mut taken, "requests.storage", storage);
            let beta = text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
            let class = if beta.is_empty() { text(object, "/spec/storageClassName") } else { beta };
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                plus(&mut taken, &format!("{prefix}/persistentvolumeclaims"), one);
                plus(&mut taken, &format!("{prefix}/requests.storage"), storage);
            }
        }
        ("resource.k8s.io", "resourceclaims") => {
            for request in items(&spec["devices"]["requests"]) {
                let mut most = Amounts::new();
                let choices = items(&request["firstAvailable"])
                    .chain((!request["exactly"].is_null()).then_some(&request["exactly"]));
                for choice in choices {
                    let class = format!("{}.deviceclass.resource.k8s.io/devices", text(choice, "/deviceClassName"));
                    let all = choice["allocationMode"] == "All";
                    let devices = if all { ALL_DEVICES } else { choice["count"].as_i64().unwrap_or(1) };
                    at_least(&mut most, &Amounts::from([(class, Quantity::from_value(devices))]));
                }
                add(&mut taken, &most);
            }
        }
        // A pod that is over takes nothing, but is still counted as an object.
        ("", "pods") if !matches!(text(object, "/status/phase"), "Succeeded" | "Failed") => {
            plus(&mut taken, "pods", one);
            for kind in ["requests", "limits"] {
                for (name, amount) in pod_total(spec, kind) {
                    let short = kind == "requests" && (is_computed(&name) || name.starts_with("hugepages-"));
                    if short {
                        plus(&mut taken, &name, amount);
                    }
                    if short || kind == "requests" && name.contains('/') || kind == "limits" && is_computed(&name) {
                        plus(&mut taken, &format!("{kind}.{name}"), amount);
                    }
                }
            }
        }
        _ => {}
    }
    taken
}

fn is_computed(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory" | "ephemeral-storage")
}

/// A pod's `requests` or `limits`: what it needs when it needs most. Init containers run one after the
/// other, those that stay (sidecars) beside all that follow; what is said for the pod as a whole goes first.
pub fn pod_total(spec: &Value, kind: &str) -> Amounts {
    let (mut running, mut starting) = (Amounts::new(), Amounts::new());
    for container in items(&spec["initContainers"]) {
        let own = amounts(&container["resources"][kind]);
        let mut beside = running.clone();
        add(&mut beside, &own);
        at_least(&mut starting, &beside);
        if container["restartPolicy"] == "Always" {
            running = beside;
        }
    }
    for container in items(&spec["containers"]) {
        add(&mut running, &amounts(&container["resources"][kind]));
    }
    at_least(&mut running, &starting);
    running.extend(amounts(&spec["resources"][kind]));
    for (name, extra) in amounts(&spec["overhead"]) {
        if kind == "requests" || running.get(&name).is_some_and(|limit| !limit.is_zero()) {
            plus(&mut running, &name, extra);
        }
    }
    running
}

/// Whether a quota's scopes, all of them, cover the object.
pub fn in_scope(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let plain = items(&quota["spec"]["scopes"]).map(|scope| (scope, "Exists", &Value::Null));
    let selected = items(&quota["spec"]["scopeSelector"]["matchExpressions"])
        .map(|expression| (&expression["scopeName"], text(expression, "/operator"), &expression["values"]));
    plain.chain(selected).all(|(scope, operator, values)| match (group, plural, scope.as_str().unwrap_or_default()) {
        ("", "pods", scope) => pod_in_scope(scope, operator, values, object),
        ("", "persistentvolumeclaims", "VolumeAttributesClass") => {
            let classes = [
                "/spec/volumeAttributesClassName",
                "/status/currentVolumeAttributesClassName",
                "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
            ];
            let mut named = classes.iter().map(|at| text(object, at)).filter(|class| !class.is_empty()).peekable();
            match named.peek() {
                None => selects(operator, values, ""),
                Some(_) => named.any(|class| selects(operator, values, class)),
            }
        }
        _ => false,
    })
}

fn pod_in_scope(scope: &str, operator: &str, values: &Value, pod: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || {
        let of = |kind| {
            pod_total(spec, kind)
                .iter()
                .all(|(name, amount)| !matches!(name.as_str(), "cpu" | "memory") || amount.is_zero())
        };
        of("requests") && of("limits")
    };
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => selects(operator, values, text(spec, "/priorityClassName")),
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|which| {
            let terms = &spec["affinity"][which];
            items(&terms["requiredDuringSchedulingIgnoredDuringExecution"])
                .chain(
                    items(&terms["preferredDuringSchedulingIgnoredDuringExecution"])
                        .map(|term| &term["podAffinityTerm"]),
                )
                .any(|term| items(&term["namespaces"]).next().is_some() || !term["namespaceSelector"].is_null())
        }),
        _ => false,
    }
}

/// Whether a class's name (empty: none) is what a scope selects.
fn selects(operator: &str, values: &Value, class: &str) -> bool {
    let named = || items(values).any(|value| value == class);
    match operator {
        "In" => !class.is_empty() && named(),
        "NotIn" => class.is_empty() || !named(),
        "DoesNotExist" => class.is_empty(),
        _ => !class.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_kind_is_counted_the_way_quotas_name_it() {
        let sidecar = json!({ "initContainers": [
            { "restartPolicy": "Always", "resources": { "requests": { "cpu": "1" } } },
            { "resources": { "requests": { "cpu": "2", "hugepages-2Mi": "4Mi" } } } ],
            "containers": [{ "resources": { "requests": { "cpu": "1", "example.com/gpu": 2 }, "limits": { "memory": "1Gi", "example.com/gpu": 2 } } }],
            "overhead": { "cpu": "100m", "memory": "1Mi" } });
        for (group, plural, object, expected) in [
            ("batch", "jobs", json!({}), "count/jobs.batch=1"),
            ("", "configmaps", json!({}), "configmaps=1 count/configmaps=1"),
            (
                "",
                "services",
                json!({ "spec": { "type": "ClusterIP", "ports": [{}] } }),
                "count/services=1 services=1 services.loadbalancers=0 services.nodeports=0",
            ),
            (
                "",
                "services",
                json!({ "spec": { "type": "LoadBalancer", "ports": [{}, {}] } }),
                "count/services=1 services=1 services.loadbalancers=1 services.nodeports=2",
            ),
            (
                "",
                "services",
                json!({ "spec": { "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{ "nodePort": 30000 }, {}] } }),
                "count/services=1 services=1 services.loadbalancers=1 services.nodeports=1",
            ),
            (
                "",
                "persistentvolumeclaims",
                json!({ "spec": { "storageClassName": "fast", "resources": { "requests": { "storage": "1Gi" } } } }),
                "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi",
            ),
            (
                "",
                "pods",
                json!({ "spec": sidecar }),
                "count/pods=1 cpu=3100m hugepages-2Mi=4Mi limits.memory=1025Mi memory=1Mi pods=1 requests.cpu=3100m requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi requests.memory=1Mi",
            ),
            ("", "pods", json!({ "spec": sidecar, "status": { "phase": "Succeeded" } }), "count/pods=1"),
            (
                "",
                "pods",
                json!({ "spec": { "resources": { "requests": { "cpu": "2" } }, "containers": [{ "resources": { "requests": { "cpu": "1" } } }] } }),
                "count/pods=1 cpu=2 pods=1 requests.cpu=2",
            ),
            (
                "resource.k8s.io",
                "resourceclaims",
                json!({ "spec": { "devices": { "requests": [
                { "exactly": { "deviceClassName": "gpu", "count": 2, "allocationMode": "ExactCount" } },
                { "firstAvailable": [{ "deviceClassName": "gpu", "count": 1 }, { "deviceClassName": "nic", "allocationMode": "All" }] }] } } }),
                "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=3 nic.deviceclass.resource.k8s.io/devices=32",
            ),
        ] {
            assert_eq!(shown(&usage(group, plural, &object)), expected, "{plural}");
        }
    }

    #[test]
    fn a_quota_sees_only_what_all_its_scopes_cover() {
        let busy = json!({ "spec": { "priorityClassName": "high", "activeDeadlineSeconds": 5, "containers": [{ "resources": { "limits": { "cpu": 1 } } }] } });
        let idle = json!({ "spec": { "containers": [{ "resources": { "limits": { "example.com/gpu": 1 } } }],
            "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{ "podAffinityTerm": { "namespaces": ["x"] } }] } } } });
        for (scope, of_busy, of_idle) in [
            ("Terminating", true, false),
            ("NotTerminating", false, true),
            ("BestEffort", false, true),
            ("NotBestEffort", true, false),
            ("PriorityClass", true, false),
            ("CrossNamespacePodAffinity", false, true),
            ("VolumeAttributesClass", false, false),
        ] {
            let quota = json!({ "spec": { "scopes": [scope] } });
            assert_eq!(
                (in_scope(&quota, "", "pods", &busy), in_scope(&quota, "", "pods", &idle)),
                (of_busy, of_idle),
                "{scope}"
            );
            assert!(!in_scope(&quota, "", "services", &json!({})), "{scope}");
        }
        for (operator, values, of_busy, of_idle) in [
            ("In", json!(["high"]), true, false),
            ("NotIn", json!(["high"]), false, true),
            ("Exists", json!(null), true, false),
            ("DoesNotExist", json!(null), false, true),
        ] {
            let quota = json!({ "spec": { "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": operator, "values": values }] } } });
            assert_eq!(
                (in_scope(&quota, "", "pods", &busy), in_scope(&quota, "", "pods", &idle)),
                (of_busy, of_idle),
                "{operator}"
            );
        }
        assert!(in_scope(&json!({ "spec": {} }), "apps", "deployments", &json!({})));
    }
}
