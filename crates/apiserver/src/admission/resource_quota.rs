//! ResourceQuota: a namespace holds no more than its quotas say.
//!
//! What is used is counted from the objects there are, not from a quota's status, so a refusal is never
//! based on an old count. Two creations at the same moment may both pass: the count is taken before either
//! is stored.

use std::collections::BTreeMap;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::quantity::Quantity;
use serde_json::Value;

use super::{items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct ResourceQuota;

/// Amounts by the names quotas know them by: `pods`, `requests.cpu`, `count/jobs.batch`.
type Amounts = BTreeMap<String, Quantity>;

#[async_trait]
impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if !request.resource.namespaced() || !request.subresource.is_empty() || !request.resource.stored {
            return Ok(());
        }
        let quotas = context.storage.list("", "resourcequotas", &request.namespace).await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let (group, plural) = (request.resource.group.as_str(), request.resource.plural.as_str());
        let wanted = usage(group, plural, &request.object);
        let had = if request.old_object.is_null() { Amounts::new() } else { usage(group, plural, &request.old_object) };
        let others = context.storage.list(group, plural, &request.namespace).await?;
        for quota in quotas.iter().filter(|quota| in_scope(quota, plural, &request.object)) {
            let used = others.iter().filter(|o| in_scope(quota, plural, o)).fold(Amounts::new(), |mut sum, other| {
                for (name, amount) in usage(group, plural, other) {
                    let total = sum.remove(&name).unwrap_or(Quantity::ZERO) + amount;
                    sum.insert(name, total);
                }
                sum
            });
            if let Some(why) = objection(quota, plural, &request.object, &wanted, &had, &used) {
                return Err(refuse(request, why));
            }
        }
        Ok(())
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    if value.is_null() { None } else { Quantity::from_json(value).ok() }
}

/// What an object takes of every quota that counts it.
fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let one = Quantity::from_value(1);
    let count = if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    let mut amounts = Amounts::from([(count, one)]);
    let mut add = |name: &str, amount: Quantity| {
        let total = amounts.remove(name).unwrap_or(Quantity::ZERO) + amount;
        amounts.insert(name.to_owned(), total);
    };
    let spec = &object["spec"];
    match (group, plural) {
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => add(plural, one),
        ("", "services") => {
            add("services", one);
            let ports = i64::try_from(items(&spec["ports"]).filter(|p| p["nodePort"].is_u64()).count()).unwrap_or(0);
            add("services.nodeports", Quantity::from_value(ports));
            add("services.loadbalancers", Quantity::from_value((spec["type"] == "LoadBalancer").into()));
        }
        ("", "persistentvolumeclaims") => {
            let storage = amount(&spec["resources"]["requests"]["storage"]).unwrap_or(Quantity::ZERO);
            add("persistentvolumeclaims", one);
            add("requests.storage", storage);
            let class = text(object, "/spec/storageClassName");
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                add(&format!("{prefix}/persistentvolumeclaims"), one);
                add(&format!("{prefix}/requests.storage"), storage);
            }
        }
        ("", "pods") if !matches!(text(object, "/status/phase"), "Succeeded" | "Failed") => {
            add("pods", one);
            for kind in ["requests", "limits"] {
                for (name, amount) in pod_total(spec, kind) {
                    add(&format!("{kind}.{name}"), amount);
                    if kind == "requests" && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                        add(&name, amount);
                    }
                }
            }
        }
        // A pod that is over takes nothing, but is still counted as an object.
        _ => {}
    }
    amounts
}

/// A pod's requests or limits: its containers together, or its largest init container if that is more.
fn pod_total(spec: &Value, kind: &str) -> Amounts {
    let mut total = Amounts::new();
    for container in items(&spec["containers"]) {
        for (name, value) in container["resources"][kind].as_object().into_iter().flatten() {
            let sum = total.remove(name).unwrap_or(Quantity::ZERO) + amount(value).unwrap_or(Quantity::ZERO);
            total.insert(name.clone(), sum);
        }
    }
    for container in items(&spec["initContainers"]) {
        for (name, value) in container["resources"][kind].as_object().into_iter().flatten() {
            let most = total.remove(name).unwrap_or(Quantity::ZERO).max(amount(value).unwrap_or(Quantity::ZERO));
            total.insert(name.clone(), most);
        }
    }
    total
}

/// Whether a quota's scopes cover the object.
fn in_scope(quota: &Value, plural: &str, object: &Value) -> bool {
    let spec = &object["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let none = |kind: &str| pod_total(spec, kind).values().all(|amount| amount.is_zero());
    let best_effort = || none("requests") && none("limits");
    let class = text(object, "/spec/priorityClassName");
    let selected = items(&quota["spec"]["scopeSelector"]["matchExpressions"]).all(|expression| {
        let named = items(&expression["values"]).any(|value| value == class);
        match (text(expression, "/scopeName"), text(expression, "/operator")) {
            ("PriorityClass", "In") => named,
            ("PriorityClass", "NotIn") => !named,
            ("PriorityClass", "Exists") => !class.is_empty(),
            ("PriorityClass", _) => class.is_empty(),
            ("Terminating", _) => terminating,
            ("NotTerminating", _) => !terminating,
            ("BestEffort", _) => best_effort(),
            ("NotBestEffort", _) => !best_effort(),
            _ => false,
        }
    });
    let mut scopes = items(&quota["spec"]["scopes"]).peekable();
    if scopes.peek().is_some() && plural != "pods" {
        return false;
    }
    selected
        && scopes.all(|scope| match scope.as_str().unwrap_or_default() {
            "Terminating" => terminating,
            "NotTerminating" => !terminating,
            "BestEffort" => best_effort(),
            "NotBestEffort" => !best_effort(),
            "PriorityClass" => !class.is_empty(),
            _ => false,
        })
}

/// Why a quota does not let the object in, or nothing.
fn objection(
    quota: &Value,
    plural: &str,
    object: &Value,
    wanted: &Amounts,
    had: &Amounts,
    used: &Amounts,
) -> Option<String> {
    let name = text(quota, "/metadata/name");
    let hard: Amounts = quota["spec"]["hard"]
        .as_object()?
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), amount(value)?)))
        .collect();
    if plural == "pods" {
        let missing: Vec<String> = hard.keys().filter_map(|name| unspecified(name, object)).collect();
        if !missing.is_empty() {
            return Some(format!("failed quota: {name}: must specify {}", missing.join("; ")));
        }
    }
    let zero = Quantity::ZERO;
    let exceeded: Vec<&String> = hard
        .iter()
        .filter(|(name, limit)| {
            let more = wanted.get(*name).copied().unwrap_or(zero) - had.get(*name).copied().unwrap_or(zero);
            more > zero && used.get(*name).copied().unwrap_or(zero) + more > **limit
        })
        .map(|(name, _)| name)
        .collect();
    if exceeded.is_empty() {
        return None;
    }
    let list = |of: &dyn Fn(&String) -> Quantity| {
        exceeded.iter().map(|name| format!("{name}={}", of(name))).collect::<Vec<_>>().join(",")
    };
    let get = |amounts: &Amounts, name: &String| amounts.get(name).copied().unwrap_or(zero);
    Some(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(&|name| get(wanted, name) - get(had, name)),
        list(&|name| get(used, name)),
        list(&|name| get(&hard, name)),
    ))
}

/// `limits.cpu for: a,b` if a quota on this needs every container to say it, and some do not.
fn unspecified(name: &str, pod: &Value) -> Option<String> {
    let (kind, resource) = match name {
        "cpu" | "memory" => ("requests", name),
        other => other.split_once('.').filter(|(kind, resource)| {
            matches!(*kind, "requests" | "limits") && matches!(*resource, "cpu" | "memory")
        })?,
    };
    let silent: Vec<&str> = items(&pod["spec"]["containers"])
        .chain(items(&pod["spec"]["initContainers"]))
        .filter(|container| container["resources"][kind][resource].is_null())
        .map(|container| text(container, "/name"))
        .collect();
    (!silent.is_empty()).then(|| format!("{name} for: {}", silent.join(",")))
}
