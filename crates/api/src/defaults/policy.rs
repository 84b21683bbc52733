//! Kinds that set rules: RBAC, networking, devices, admission, extension.

use serde_json::{Value, json};

use super::{at, child, items, set, set_nonzero, set_text};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// A binding's users and groups are of the RBAC group.
pub(super) fn subject(subject: &mut Value) {
    if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
        set_text(subject, "apiGroup", RBAC_GROUP);
    }
}

/// A NetworkPolicy is about ingress, and about egress if it says anything on it.
pub(super) fn network_policy(spec: &mut Value) {
    if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

/// A request for devices is for one.
pub(super) fn device_count(request: &mut Value) {
    if request["allocationMode"] == "ExactCount" {
        set_nonzero(request, "count", 1);
    }
}

/// A taint of a device counts from now.
pub(super) fn device_taint(taint: &mut Value) {
    set(taint, "timeAdded", coracle_clock::now_seconds().to_string());
}

fn webhooks(object: &mut Value, reinvocation: bool) {
    for webhook in items(object, "webhooks") {
        set(webhook, "failurePolicy", "Fail");
        set(webhook, "matchPolicy", "Equivalent");
        set(webhook, "namespaceSelector", json!({}));
        set(webhook, "objectSelector", json!({}));
        set(webhook, "timeoutSeconds", 10);
        if reinvocation {
            set(webhook, "reinvocationPolicy", "Never");
        }
        for rule in items(webhook, "rules") {
            set(rule, "scope", "*");
        }
        if let Some(service) = at(webhook, "clientConfig").and_then(|config| at(config, "service")) {
            set(service, "port", 443);
        }
    }
}

fn match_resources(resources: &mut Value) {
    set(resources, "matchPolicy", "Equivalent");
    set(resources, "namespaceSelector", json!({}));
    set(resources, "objectSelector", json!({}));
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in items(resources, list) {
            set(rule, "scope", "*");
        }
    }
}

/// A ValidatingAdmissionPolicy or MutatingAdmissionPolicy.
pub fn admission_policy(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "failurePolicy", "Fail");
    if let Some(constraints) = at(spec, "matchConstraints") {
        match_resources(constraints);
    }
}

/// A binding of one.
pub fn admission_policy_binding(object: &mut Value) {
    let spec = child(object, "spec");
    if let Some(resources) = at(spec, "matchResources") {
        match_resources(resources);
    }
    if let Some(params) = at(spec, "paramRef") {
        set(params, "parameterNotFoundAction", "Deny");
    }
}

/// A ValidatingWebhookConfiguration.
pub fn validating_webhooks(object: &mut Value) {
    webhooks(object, false);
}

/// A MutatingWebhookConfiguration.
pub fn mutating_webhooks(object: &mut Value) {
    webhooks(object, true);
}

/// An APIService: its Service's port.
pub fn api_service(object: &mut Value) {
    if let Some(service) = at(child(object, "spec"), "service") {
        set(service, "port", 443);
    }
}

/// A CustomResourceDefinition: singular and list names from the kind, no conversion.
pub fn custom_resource_definition(object: &mut Value) {
    let spec = child(object, "spec");
    let names = child(spec, "names");
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    set_text(names, "singular", &kind.to_lowercase());
    set_text(names, "listKind", &format!("{kind}List"));
    let conversion = child(spec, "conversion");
    set_text(conversion, "strategy", "None");
    if let Some(service) =
        at(conversion, "webhook").and_then(|w| at(w, "clientConfig")).and_then(|config| at(config, "service"))
    {
        set_nonzero(service, "port", 443);
    }
}
