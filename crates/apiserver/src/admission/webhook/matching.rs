//! Which webhooks are asked about a request: rules, and selectors of objects and namespaces.

use std::sync::Arc;

use coracle_api::selector::Selector;
use coracle_api::{ApiError, ApiResult, Resource};
use serde_json::Value;

use super::{Equivalents, items, text};
use crate::hooks::{AdmissionContext, AdmissionRequest, Operation};
use crate::storage::ResourceTable;

/// The other versions of a resource: what shares its stored objects.
pub(in crate::admission) fn equivalents(table: &ResourceTable, resource: &Resource) -> Equivalents {
    let Some(own) = table.find(&resource.group, &resource.version, &resource.plural) else { return Vec::new() };
    let others = table.rows().iter().filter(|row| Arc::ptr_eq(&row.cache, &own.cache) && row.resource.stored);
    others.map(|row| row.resource.clone()).filter(|other| other.api_version() != resource.api_version()).collect()
}

/// In which version a webhook wants to be asked: the request's own if a rule has it, else one that is
/// equivalent, where `matchPolicy` allows. `None` if no rule matches.
pub(in crate::admission) fn called_for(
    hook: &Value,
    request: &AdmissionRequest,
    equivalents: &[Arc<Resource>],
) -> Option<Arc<Resource>> {
    let rules = || items(&hook["rules"]);
    if rules().any(|rule| matches(rule, request, &request.resource)) {
        return Some(request.resource.clone());
    }
    if hook["matchPolicy"] == "Exact" {
        return None;
    }
    rules().find_map(|rule| equivalents.iter().find(|other| matches(rule, request, other)).cloned())
}

fn operation(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn matches(rule: &Value, request: &AdmissionRequest, resource: &Resource) -> bool {
    let has = |list: &Value, wanted: &str| items(list).any(|item| item == "*" || item == wanted);
    let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
    // A namespace is in itself, and yet of the cluster.
    let namespaced = !is_namespace && !request.namespace.is_empty();
    let in_scope = match text(rule, "/scope") {
        "Namespaced" => namespaced,
        "Cluster" => !namespaced,
        _ => true,
    };
    let named = items(&rule["resources"]).filter_map(Value::as_str).any(|name| {
        let (name, sub) = name.split_once('/').unwrap_or((name, ""));
        (name == "*" || name == resource.plural) && (sub == "*" || sub == request.subresource)
    });
    in_scope
        && named
        && has(&rule["operations"], operation(request.operation))
        && has(&rule["apiGroups"], &resource.group)
        && has(&rule["apiVersions"], &resource.version)
}

fn selector(selector: &Value) -> Selector {
    // Validation took it; what cannot be read selects nothing.
    if selector.is_null() {
        Selector::everything()
    } else {
        Selector::from_json(selector).unwrap_or_else(|_| Selector::nothing())
    }
}

/// Whether one of the objects (the new and the old one) has the labels.
pub(in crate::admission) fn object_selected(wanted: &Value, objects: &[&Value]) -> bool {
    let wanted = selector(wanted);
    wanted.is_everything()
        || objects.iter().any(|object| object.is_object() && wanted.matches(&object["metadata"]["labels"]))
}

/// Whether the request's namespace has the labels. Whatever is in no namespace is selected.
pub(in crate::admission) async fn namespace_selected(
    wanted: &Value,
    request: &AdmissionRequest,
    context: &AdmissionContext,
) -> ApiResult<bool> {
    let wanted = selector(wanted);
    let is_namespace = request.resource.qualified() == "namespaces";
    if wanted.is_everything() || (request.namespace.is_empty() && !is_namespace) {
        return Ok(true);
    }
    // A namespace that is written is judged by what it will be.
    if is_namespace && request.subresource.is_empty() && request.operation != Operation::Delete {
        return Ok(wanted.matches(&request.object["metadata"]["labels"]));
    }
    let name = if is_namespace { &request.name } else { &request.namespace };
    let namespace = context.get("", "namespaces", "", name).await?;
    let namespace = namespace.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
    Ok(wanted.matches(&namespace["metadata"]["labels"]))
}
