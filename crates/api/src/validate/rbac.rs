//! Roles and their bindings.

use serde_json::Value;

use super::{each, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::check_dns_subdomain;

const GROUP: &str = "rbac.authorization.k8s.io";

fn rules(object: &Value, namespaced: bool, errors: &mut FieldErrors) {
    for (path, rule) in each(object, "", "rules") {
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

/// An account of a ClusterRoleBinding says where it is.
pub fn cluster_role_binding(object: &Value, errors: &mut FieldErrors) {
    for (path, subject) in each(object, "", "subjects").filter(|(_, subject)| subject["kind"] == "ServiceAccount") {
        if text(subject, "namespace").is_empty() {
            errors.required(&join(&path, "namespace"), "");
        }
    }
}

/// Who is bound: users and groups are RBAC's, accounts nobody's.
pub(super) fn subject(subject: &Value, path: &str, errors: &mut FieldErrors) {
    let (kind, name) = (text(subject, "kind"), text(subject, "name"));
    let group = match kind {
        "ServiceAccount" => "",
        "User" | "Group" => GROUP,
        _ => return,
    };
    if group.is_empty() && !name.is_empty() {
        report(check_dns_subdomain(name), &join(path, "name"), name, errors);
    } else if name.is_empty() && !group.is_empty() {
        errors.invalid(&join(path, "name"), "", format!("{} name cannot be empty", kind.to_lowercase()));
    }
    if text(subject, "apiGroup") != group {
        errors.not_supported(&join(path, "apiGroup"), text(subject, "apiGroup"), &[group]);
    }
}
