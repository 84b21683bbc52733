//! ValidatingAdmissionPolicies, MutatingAdmissionPolicies and their bindings, but for what their expressions say.

use serde_json::Value;

use super::{each, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_dns1035_label, check_qualified_name};

/// A ValidatingAdmissionPolicy says something; its annotations have its name in front.
pub fn validating_policy(object: &Value, errors: &mut FieldErrors) {
    let (spec, name) = (&object["spec"], text(&object["metadata"], "name"));
    let annotations = list(spec, "auditAnnotations");
    if list(spec, "validations").is_empty() && annotations.is_empty() {
        for field in ["spec.validations", "spec.auditAnnotations"] {
            errors.required(field, "validations or auditAnnotations must contain at least one item");
        }
    }
    if annotations.len() > 20 {
        let why = "must not have more than 20 auditAnnotations";
        errors.invalid("spec.auditAnnotations", spec["auditAnnotations"].clone(), why);
    }
    for (path, annotation) in each(spec, "spec", "auditAnnotations") {
        let full = format!("{name}/{}", text(annotation, "key"));
        report(check_qualified_name(&full), &join(&path, "key"), &full, errors);
    }
}

/// The kind of a policy's parameters.
pub(super) fn param_kind(kind: &Value, path: &str, errors: &mut FieldErrors) {
    let (version_path, kind_path) = (join(path, "apiVersion"), join(path, "kind"));
    let mut joined = |problems: Vec<String>, path: &str, value: &str, hint: &str| {
        if !problems.is_empty() {
            errors.invalid(path, value, format!("{hint}{}", problems.join(",")));
        }
    };
    let (given, name) = (text(kind, "apiVersion"), text(kind, "kind"));
    match given.split('/').collect::<Vec<_>>()[..] {
        [""] => {}
        [version] => joined(check_dns1035_label(version), &version_path, version, ""),
        [group, version] => {
            joined(check_dns_subdomain(group), &version_path, group, "");
            match version {
                "" => joined(vec!["version must be specified".into()], &version_path, given, ""),
                version => joined(check_dns1035_label(version), &version_path, version, ""),
            }
        }
        _ => joined(vec![format!("unexpected GroupVersion string: {given}")], &version_path, given, ""),
    }
    if !name.is_empty() {
        let hint = "may have mixed case, but should otherwise match: ";
        joined(check_dns1035_label(&name.to_lowercase()), &kind_path, name, hint);
    }
    for (value, path) in [(given, version_path), (name, kind_path)] {
        if value.is_empty() {
            errors.required(&path, "");
        }
    }
}

/// What a refusal says.
pub(super) fn validation(validation: &Value, path: &str, errors: &mut FieldErrors) {
    let (message, rule) = (text(validation, "message"), text(validation, "messageExpression"));
    if !rule.is_empty() && rule.trim().is_empty() {
        errors.invalid(&join(path, "messageExpression"), rule, "must be non-empty if specified");
    }
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&join(path, "message"), message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&join(path, "message"), message, "message must not contain line breaks");
    }
}

/// Parameters are those of one name, or selected ones.
pub(super) fn param_ref(params: &Value, path: &str, errors: &mut FieldErrors) {
    match (text(params, "name").is_empty(), params["selector"].is_null()) {
        (true, true) => errors.required(path, "one of name or selector must be specified"),
        (false, false) => {
            for key in ["name", "selector"] {
                errors.forbidden(&join(path, key), "name and selector are mutually exclusive");
            }
        }
        _ => {}
    }
}

/// A failure is not told twice.
pub(super) fn validation_actions(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let has = |wanted: &str| list(spec, "validationActions").iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                   response and headers serves no purpose)";
        errors.invalid(&join(path, "validationActions"), spec["validationActions"].clone(), why);
    }
}
