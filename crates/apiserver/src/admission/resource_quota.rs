//! ResourceQuota: a namespace holds no more than its quotas say.
//!
//! What is used is counted from the objects there are, not from a quota's status, so a refusal is never
//! based on an old count. Two creations at the same moment may both pass: the count is taken before either
//! is stored.

use std::collections::BTreeSet;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::quantity::Quantity;
use coracle_api::quota::{Amounts, add, amounts, in_scope, usage};
use serde_json::Value;

use super::{items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct ResourceQuota;

#[async_trait]
impl AdmissionPlugin for ResourceQuota {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && counts(request)
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let quotas = context.list("", "resourcequotas", &request.namespace).await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let (group, plural) = (request.resource.group.as_str(), request.resource.plural.as_str());
        let wanted = usage(group, plural, &request.object);
        let had = if request.old_object.is_null() { Amounts::new() } else { usage(group, plural, &request.old_object) };
        let others = context.storage.list(group, plural, &request.namespace).await?;
        for quota in quotas.iter().filter(|quota| in_scope(quota, group, plural, &request.object)) {
            let mut used = Amounts::new();
            for other in others.iter().filter(|other| in_scope(quota, group, plural, other)) {
                add(&mut used, &usage(group, plural, other));
            }
            if let Some(why) = objection(quota, plural, &request.object, &wanted, &had, &used) {
                return Err(refuse(request, why));
            }
        }
        Ok(())
    }
}

/// Whether the request may take more of a quota: what is made, what of it may grow, and pods' resizes.
fn counts(request: &AdmissionRequest) -> bool {
    let (resource, created) = (&request.resource, request.operation == Operation::Create);
    let grows = ["persistentvolumeclaims", "resourceclaims.resource.k8s.io", "services"];
    match (resource.qualified().as_str(), request.subresource.as_str()) {
        _ if !resource.namespaced() || !resource.stored => false,
        ("pods", "resize") => !created,
        (name, "") => created || grows.contains(&name),
        _ => false,
    }
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
    let hard = amounts(&quota["spec"]["hard"]);
    // What is said for the pod as a whole goes for its containers.
    let requested = &object["spec"]["resources"]["requests"];
    if plural == "pods" && requested.as_object().is_none_or(serde_json::Map::is_empty) {
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
    let silent: BTreeSet<&str> = items(&pod["spec"]["containers"])
        .chain(items(&pod["spec"]["initContainers"]))
        .filter(|container| container["resources"][kind][resource].is_null())
        .map(|container| text(container, "/name"))
        .collect();
    let silent: Vec<&str> = silent.into_iter().collect();
    (!silent.is_empty()).then(|| format!("{name} for: {}", silent.join(",")))
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_namespace_holds_no_more_than_its_quota() {
        in_world("ResourceQuota", async |world| {
            let quota = json!({ "metadata": { "name": "q", "namespace": "default" },
                "spec": { "hard": { "pods": "2", "limits.cpu": "1" } } });
            put(&world.storage, "", "resourcequotas", quota).await;
            let with = |name: &str, cpu: &str| {
                let mut pod =
                    pod(json!({ "containers": [{ "name": "c", "resources": { "limits": { "cpu": cpu } } }] }));
                pod["metadata"]["name"] = name.into();
                pod
            };
            put(&world.storage, "", "pods", with("one", "600m")).await;
            world.create("", "pods", with("two", "400m")).await.unwrap();
            assert_eq!(
                world.create("", "pods", with("two", "500m")).await.unwrap_err(),
                "pods \"two\" is forbidden: exceeded quota: q, requested: limits.cpu=500m, used: limits.cpu=600m, limited: limits.cpu=1"
            );
            assert_eq!(
                world.create("", "pods", pod(json!({}))).await.unwrap_err(),
                "pods \"web\" is forbidden: failed quota: q: must specify limits.cpu for: c"
            );
            let mut resize = world.request(Operation::Update, "", "pods", with("one", "1100m"));
            resize.old_object = with("one", "600m");
            assert!(world.run(resize.clone()).await.is_ok(), "no other update makes a pod larger");
            resize.subresource = "resize".into();
            assert_eq!(
                world.run(resize).await.unwrap_err().message,
                "pods \"one\" is forbidden: exceeded quota: q, requested: limits.cpu=500m, used: limits.cpu=600m, limited: limits.cpu=1"
            );
        });
    }
}
