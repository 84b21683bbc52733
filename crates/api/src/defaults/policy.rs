//! Kinds that set rules: RBAC, networking, devices, extension.

use serde_json::{Value, json};

use super::{child, set, set_nonzero, set_text};

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

/// A custom kind has a singular name and the name of its lists.
pub(super) fn custom_names(spec: &mut Value) {
    let names = child(spec, "names");
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    set_text(names, "singular", &kind.to_lowercase());
    set_text(names, "listKind", &format!("{kind}List"));
}
