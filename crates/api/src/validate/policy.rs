//! Kinds that set rules: storage, priority, disruption, autoscaling, networking, certificates, extension.

use serde_json::{Value, json};

use super::{count_or_percent, each, join, label_selector, list, one_of, report, required, text, unchanged};
use crate::field::FieldErrors;
use crate::names::{
    check_cidr, check_dns_subdomain, check_dns1035_label, check_qualified_name, check_wildcard_subdomain,
};

/// A StorageClass.
pub fn storage_class(object: &Value, errors: &mut FieldErrors) {
    match text(object, "provisioner") {
        "" => errors.required("provisioner", ""),
        name => report(check_qualified_name(&name.to_lowercase()), "provisioner", name, errors),
    }
    one_of(object, "", "reclaimPolicy", &["Delete", "Retain"], errors);
    one_of(object, "", "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], errors);
}

/// What a StorageClass does stays as it was.
pub fn storage_class_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    for (key, why) in [
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
        ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
    ] {
        if new[key] != old[key] {
            errors.forbidden(key, why);
        }
    }
    unchanged(new, old, "", "volumeBindingMode", errors);
}

/// Priorities above this are the system's.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// A PriorityClass.
pub fn priority_class(object: &Value, errors: &mut FieldErrors) {
    let name = text(&object["metadata"], "name");
    let value = object["value"].as_i64().unwrap_or_default();
    if name.starts_with("system-") {
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        if !known.contains(&(name, value)) {
            let why = "priority class names with 'system-' prefix are reserved for system use only. error: ";
            errors.forbidden("metadata.name", format!("{why}{name} is not a known system priority class"));
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.forbidden("value", why);
    }
    one_of(object, "", "preemptionPolicy", &["Never", "PreemptLowerPriority"], errors);
}

/// A PriorityClass keeps its value.
pub fn priority_class_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    if new["value"] != old["value"] {
        errors.forbidden("value", "may not be changed in an update.");
    }
    unchanged(new, old, "", "preemptionPolicy", errors);
}

/// A PodDisruptionBudget.
pub fn pod_disruption_budget(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.invalid("spec", spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for key in ["minAvailable", "maxUnavailable"] {
        count_or_percent(spec, "spec", key, errors);
    }
    label_selector(&spec["selector"], "spec.selector", errors);
    one_of(spec, "spec", "unhealthyPodEvictionPolicy", &["AlwaysAllow", "IfHealthyBudget"], errors);
}

/// A HorizontalPodAutoscaler.
pub fn hpa(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let (min, max) = (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or_default());
    if min < 1 {
        errors.invalid("spec.minReplicas", min, "must be greater than or equal to 1");
    }
    if max < 1 {
        errors.invalid("spec.maxReplicas", max, "must be greater than 0");
    }
    if max < min {
        errors.invalid("spec.maxReplicas", max, "must be greater than or equal to `minReplicas`");
    }
    for key in ["kind", "name"] {
        required(&spec["scaleTargetRef"], "spec.scaleTargetRef", key, errors);
    }
}

/// An Ingress.
pub fn ingress(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if list(spec, "rules").is_empty() && spec["defaultBackend"].is_null() {
        errors.invalid("spec", json!([]), "either `defaultBackend` or `rules` must be specified");
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], "spec.defaultBackend", errors);
    }
    for (path, rule) in each(spec, "spec", "rules") {
        let host = text(rule, "host");
        if !host.is_empty() {
            let check = if host.contains('*') { check_wildcard_subdomain } else { check_dns_subdomain };
            report(check(host), &join(&path, "host"), host, errors);
        }
        let http = join(&path, "http");
        if rule["http"].is_object() && list(&rule["http"], "paths").is_empty() {
            errors.required(&join(&http, "paths"), "");
        }
        for (path, route) in each(&rule["http"], &http, "paths") {
            let types = ["Exact", "ImplementationSpecific", "Prefix"];
            match text(route, "pathType") {
                "" => errors.required(&join(&path, "pathType"), "pathType must be specified"),
                "ImplementationSpecific" => {}
                kind if !types.contains(&kind) => errors.not_supported(&join(&path, "pathType"), kind, &types),
                _ if !text(route, "path").starts_with('/') => {
                    errors.invalid(&join(&path, "path"), text(route, "path"), "must be an absolute path");
                }
                _ => {}
            }
            backend(&route["backend"], &join(&path, "backend"), errors);
        }
    }
}

fn backend(backend: &Value, path: &str, errors: &mut FieldErrors) {
    let service = &backend["service"];
    match (service.is_object(), backend["resource"].is_object()) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => errors.required(path, "resource or service backend is required"),
        (true, false) => {
            let path = join(path, "service");
            match text(service, "name") {
                "" => errors.required(&join(&path, "name"), ""),
                name => report(check_dns1035_label(name), &join(&path, "name"), name, errors),
            }
            let port = &service["port"];
            if text(port, "name").is_empty() && port["number"].as_i64().unwrap_or_default() == 0 {
                errors.required(&path, "port name or number is required");
            }
        }
        (false, true) => {}
    }
}

/// A NetworkPolicy.
pub fn network_policy(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    label_selector(&spec["podSelector"], "spec.podSelector", errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (path, rule) in each(spec, "spec", direction) {
            for (path, port) in each(rule, &path, "ports") {
                one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
            }
            for (path, peer) in each(rule, &path, peers) {
                let block = &peer["ipBlock"];
                if block.is_object() {
                    report(check_cidr(text(block, "cidr")), &join(&path, "ipBlock.cidr"), text(block, "cidr"), errors);
                } else if peer["podSelector"].is_null() && peer["namespaceSelector"].is_null() {
                    errors.required(&path, "must specify a peer");
                }
                for key in ["podSelector", "namespaceSelector"] {
                    label_selector(&peer[key], &join(&path, key), errors);
                }
            }
        }
    }
    for kind in list(spec, "policyTypes").iter().filter_map(Value::as_str) {
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported("spec.policyTypes", kind, &["Egress", "Ingress"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::errors_of;

    #[test]
    fn what_people_get_wrong_is_named() {
        assert_eq!(errors_of(storage_class, &json!({})), ["provisioner: Required value"]);
        assert_eq!(
            errors_of(
                ingress,
                &json!({"spec": {"rules": [{"http": {"paths": [{"path": "/", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}})
            ),
            ["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"]
        );
        assert_eq!(
            errors_of(
                hpa,
                &json!({"spec": {"minReplicas": 3, "maxReplicas": 2, "scaleTargetRef": {"kind": "a", "name": "b"}}})
            ),
            ["spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`"]
        );
    }
}
