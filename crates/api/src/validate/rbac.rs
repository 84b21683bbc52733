//! Roles and their bindings.

use serde_json::Value;

use super::{each, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_path_segment};

const GROUP: &str = "rbac.authorization.k8s.io";

fn rules(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    for (path, rule) in each(object, "", "rules") {
        if list(rule, "verbs").is_empty() {
            errors.required(&join(&path, "verbs"), "verbs must contain at least one value");
        }
        if !list(rule, "nonResourceURLs").is_empty() {
            if namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&join(&path, "nonResourceURLs"), rule["nonResourceURLs"].clone(), why);
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|key| !list(rule, key).is_empty()) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&join(&path, "nonResourceURLs"), rule["nonResourceURLs"].clone(), why);
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(&join(&path, "apiGroups"), "resource rules must supply at least one api group");
        }
        if list(rule, "resources").is_empty() {
            errors.required(&join(&path, "resources"), "resource rules must supply at least one resource");
        }
    }
}

/// A Role.
pub fn role(object: &Value, errors: &mut FieldErrors) {
    rules(object, true, errors);
}

/// A ClusterRole.
pub fn cluster_role(object: &Value, errors: &mut FieldErrors) {
    rules(object, false, errors);
}

/// A RoleBinding, which may refer to a Role or a ClusterRole.
pub fn role_binding(object: &Value, errors: &mut FieldErrors) {
    binding(object, &["Role", "ClusterRole"], true, errors);
}

/// A ClusterRoleBinding.
pub fn cluster_role_binding(object: &Value, errors: &mut FieldErrors) {
    binding(object, &["ClusterRole"], false, errors);
}

fn binding(object: &Value, kinds: &[&str], namespaced: bool, errors: &mut FieldErrors) {
    let role = &object["roleRef"];
    if text(role, "apiGroup") != GROUP {
        errors.not_supported("roleRef.apiGroup", text(role, "apiGroup"), &[GROUP]);
    }
    if !kinds.contains(&text(role, "kind")) {
        errors.not_supported("roleRef.kind", text(role, "kind"), kinds);
    }
    match text(role, "name") {
        "" => errors.required("roleRef.name", ""),
        name => report(check_path_segment(name), "roleRef.name", name, errors),
    }
    for (path, subject) in each(object, "", "subjects") {
        self::subject(subject, &path, namespaced, errors);
    }
}

fn subject(subject: &Value, path: &str, namespaced: bool, errors: &mut FieldErrors) {
    if text(subject, "name").is_empty() {
        errors.required(&join(path, "name"), "");
    }
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            let name = text(subject, "name");
            if !name.is_empty() {
                report(check_dns_subdomain(name), &join(path, "name"), name, errors);
            }
            if !group.is_empty() {
                errors.not_supported(&join(path, "apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.required(&join(path, "namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if text(subject, "name").is_empty() {
                let why = format!("{} name cannot be empty", kind.to_lowercase());
                errors.invalid(&join(path, "name"), "", why);
            }
            if group != GROUP {
                errors.not_supported(&join(path, "apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(&join(path, "kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

/// A binding keeps its role: another role is another binding.
pub fn role_binding_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    if new["roleRef"] != old["roleRef"] {
        errors.invalid("roleRef", new["roleRef"].clone(), "cannot change roleRef");
    }
}
