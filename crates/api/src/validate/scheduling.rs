//! Where a pod may go: affinities, tolerations, spreading.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, label_values, list, report, requirement, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_label_value, check_qualified_name};

/// A Toleration.
pub(super) fn toleration(toleration: &Value, path: &str, errors: &mut FieldErrors) {
    let (operator, value) = (text(toleration, "operator"), text(toleration, "value"));
    let operator_path = join(path, "operator");
    if text(toleration, "key").is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&operator_path, operator, why);
    }
    if toleration["tolerationSeconds"].is_i64() && text(toleration, "effect") != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&join(path, "effect"), text(toleration, "effect"), why);
    }
    match operator {
        "" | "Equal" => {
            let problems = check_label_value(value);
            if !problems.is_empty() {
                errors.invalid(&operator_path, value, problems.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&operator_path, value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        other => errors.not_supported(&operator_path, other, &["Equal", "Exists"]),
    }
}

/// A DeviceToleration.
pub(super) fn device_toleration(toleration: &Value, path: &str, errors: &mut FieldErrors) {
    let (operator, value) = (text(toleration, "operator"), text(toleration, "value"));
    match operator {
        "Exists" if !value.is_empty() => {
            errors.invalid(&join(path, "value"), value, "must be empty for operator `Exists`");
        }
        "Equal" => report(check_label_value(value), &join(path, "value"), value, errors),
        _ => {}
    }
    if operator == "Equal" && text(toleration, "key").is_empty() {
        errors.required(&join(path, "key"), "must be set for operator `Equal`");
    }
}

/// A NodeSelectorTerm. Values of preferred terms are not judged: they may match nothing.
pub(super) fn node_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    let preferred = path.ends_with(".preference");
    for (path, expression) in each(term, path, "matchExpressions") {
        requirement(expression, &path, &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"], errors);
        if !preferred {
            label_values(expression, &path, errors);
        }
    }
    for (path, expression) in each(term, path, "matchFields") {
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.len() != 1 => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&join(&path, "values"), why);
            }
            "In" | "NotIn" => {}
            other => errors.invalid(&join(&path, "operator"), other, "not a valid selector operator"),
        }
        if text(expression, "key") != "metadata.name" {
            errors.invalid(&join(&path, "key"), text(expression, "key"), "not a valid field selector key");
            continue;
        }
        for (i, value) in values.iter().filter_map(Value::as_str).enumerate() {
            report(check_dns_subdomain(value), &format!("{path}.values[{i}]"), value, errors);
        }
    }
}

fn selected_keys(selector: &Value) -> BTreeSet<&str> {
    let labels = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    labels.chain(list(selector, "matchExpressions").iter().map(|e| text(e, "key"))).collect()
}

/// A PodAffinityTerm.
pub(super) fn pod_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    let selector = &term["labelSelector"];
    for key in ["matchLabelKeys", "mismatchLabelKeys"] {
        let path = join(path, key);
        if list(term, key).is_empty() {
            continue;
        }
        if selector.is_null() {
            errors.forbidden(&path, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, label) in list(term, key).iter().filter_map(Value::as_str).enumerate() {
            report(check_qualified_name(label), &format!("{path}[{i}]"), label, errors);
        }
    }
    for (i, key) in list(term, "matchLabelKeys").iter().filter_map(Value::as_str).enumerate() {
        if list(term, "mismatchLabelKeys").iter().any(|other| other == key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&format!("{path}.matchLabelKeys[{i}]"), key, why);
        }
    }
}

/// A TopologySpreadConstraint.
pub(super) fn spread(constraint: &Value, path: &str, errors: &mut FieldErrors) {
    let action = text(constraint, "whenUnsatisfiable");
    if let Some(domains) = constraint["minDomains"].as_i64()
        && action != "DoNotSchedule"
    {
        let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.invalid(&join(path, "minDomains"), domains, why);
    }
    let keys: Vec<&str> = list(constraint, "matchLabelKeys").iter().filter_map(Value::as_str).collect();
    let path = join(path, "matchLabelKeys");
    if !keys.is_empty() && constraint["labelSelector"].is_null() {
        errors.forbidden(&path, "must not be specified when labelSelector is not set");
    }
    let selected = selected_keys(&constraint["labelSelector"]);
    for (i, key) in keys.into_iter().enumerate() {
        report(check_qualified_name(key), &format!("{path}[{i}]"), key, errors);
        if selected.contains(key) {
            errors.invalid(&format!("{path}[{i}]"), key, "exists in both matchLabelKeys and labelSelector");
        }
    }
}
