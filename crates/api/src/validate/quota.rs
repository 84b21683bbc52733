//! LimitRanges and ResourceQuotas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, quantity, report, resources, text};
use crate::field::FieldErrors;
use crate::names::check_qualified_name;

/// What quotas of pods that run can bound.
const COMPUTED: [&str; 7] = ["pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// A ResourceQuota.
pub fn resource_quota(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    for part in ["spec.hard", "status.hard", "status.used"] {
        let amounts = part.split('.').fold(object, |value, key| &value[key]);
        for (name, amount) in amounts.as_object().into_iter().flatten() {
            let path = format!("{part}[{name}]");
            resources::quota_resource_name(name, &path, errors);
            resources::amount(name, amount, &path, errors);
        }
    }
    let hard: Vec<&String> = spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    let misfits = |scope: &str| -> usize {
        let fitting: &[&str] = match scope {
            "BestEffort" => &["pods"],
            "VolumeAttributesClass" => &["persistentvolumeclaims", "requests.storage"],
            scope if SCOPES.contains(&scope) => &COMPUTED,
            _ => return 0,
        };
        hard.iter().filter(|name| resources::is_quota_name(name) && !fitting.contains(&name.as_str())).count()
    };
    let scopes: BTreeSet<&str> = list(spec, "scopes").iter().filter_map(Value::as_str).collect();
    let shown = &spec["scopes"];
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid("spec.scopes", shown.clone(), "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            errors.invalid("spec.scopes", shown.clone(), "unsupported scope applied to resource");
        }
    }
    let terms = list(&spec["scopeSelector"], "matchExpressions");
    let selected: BTreeSet<&str> = terms.iter().map(|term| text(term, "scopeName")).collect();
    for set in [&scopes, &selected] {
        for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
            if set.contains(one) && set.contains(other) {
                errors.invalid("spec.scopes", shown.clone(), "conflicting scopes");
            }
        }
    }
    // Upstream does not say which of the expressions is wrong.
    let path = "spec.scopeSelector.matchExpressions";
    for term in terms {
        let (scope, operator, values) = (text(term, "scopeName"), text(term, "operator"), list(term, "values"));
        if !SCOPES.contains(&scope) {
            errors.invalid(&join(path, "scopeName"), scope, "unsupported scope");
        }
        for _ in 0..misfits(scope) {
            errors.invalid(path, spec["scopeSelector"].clone(), "unsupported scope applied to resource");
        }
        let by_value = matches!(scope, "PriorityClass" | "VolumeAttributesClass") || !SCOPES.contains(&scope);
        if !by_value && operator != "Exists" {
            errors.invalid(&join(path, "operator"), operator, ONLY_EXISTS);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&join(path, "values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&join(path, "values"), term["values"].clone(), why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(&join(path, "operator"), operator, "not a valid selector operator"),
        }
    }
}

const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const ONLY_EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                           ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                           ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

/// A ResourceQuota keeps its scopes.
pub fn resource_quota_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let scopes = |object: &Value| -> BTreeSet<String> {
        list(&object["spec"], "scopes").iter().map(ToString::to_string).collect()
    };
    if subresource.is_empty() && scopes(new) != scopes(old) {
        errors.invalid("spec.scopes", new["spec"]["scopes"].clone(), super::IMMUTABLE);
    }
}

/// What can be limited, without a domain.
const LIMITED: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

/// A LimitRange: for every resource, the least, the defaults and the most in that order.
pub fn limit_range(object: &Value, errors: &mut FieldErrors) {
    let mut kinds = BTreeSet::new();
    for (path, limit) in each(&object["spec"], "spec", "limits") {
        let kind = text(limit, "type");
        let problems = check_qualified_name(kind);
        if problems.is_empty() && !kind.contains('/') && !LIMITED.contains(&kind) {
            errors.invalid(&join(&path, "type"), kind, "must be a standard limit type or fully qualified");
        }
        report(problems, &join(&path, "type"), kind, errors);
        if !kinds.insert(kind) {
            errors.duplicate(&join(&path, "type"), kind);
        }
        if kind == "Pod" {
            for key in ["default", "defaultRequest"].iter().filter(|key| limit[**key].is_object()) {
                errors.forbidden(&join(&path, key), "may not be specified when `type` is 'Pod'");
            }
        }
        if kind == "PersistentVolumeClaim" && limit["min"]["storage"].is_null() && limit["max"]["storage"].is_null() {
            errors.required(
                &join(&path, "limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            );
        }
        let mut names = BTreeSet::new();
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (name, _) in
                limit[key].as_object().into_iter().flatten().filter(|_| kind != "Pod" || !key.starts_with('d'))
            {
                let path = format!("{path}.{key}[{name}]");
                match kind {
                    "Pod" | "Container" => resources::container_resource_name(name, &path, errors),
                    _ => resources::resource_name(name, &path, None, errors),
                }
                names.insert(name);
            }
        }
        for name in names {
            limits_of(limit, name, &path, errors);
        }
    }
}

fn limits_of(limit: &Value, name: &str, path: &str, errors: &mut FieldErrors) {
    let of = |key: &str| Some(&limit[key][name]).filter(|amount| !amount.is_null());
    let at = |key: &str| format!("{path}.{key}[{name}]");
    // In each pair the first may not be more than the second.
    for (low, high, named, less, more) in [
        ("min", "max", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
        ("min", "default", "default", "min value", "default value"),
        ("default", "max", "default", "default value", "max value"),
    ] {
        let (Some(least), Some(most)) = (of(low), of(high)) else { continue };
        if quantity(least) > quantity(most) {
            let shown = |amount: &Value| amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
            let (least, most) = (shown(least), shown(most));
            let value = if named == low { &least } else { &most };
            errors.invalid(&at(named), value.as_str(), format!("{less} {least} is greater than {more} {most}"));
        }
    }
    if let Some(ratio) = of("maxLimitRequestRatio")
        && quantity(ratio) < crate::quantity::Quantity::from_value(1)
    {
        let shown = ratio.as_str().unwrap_or_default();
        errors.invalid(&at("maxLimitRequestRatio"), shown, format!("ratio {shown} is less than 1"));
    }
    if let (Some(ratio), Some(min), Some(max)) = (of("maxLimitRequestRatio"), of("min"), of("max")) {
        let (most, shown) = (quantity(max).to_f64() / quantity(min).to_f64(), quantity(ratio).to_string());
        if quantity(ratio).to_f64() > most {
            let why = format!("ratio {shown} is greater than max/min = {most:.6}");
            errors.invalid(&at("maxLimitRequestRatio"), shown, why);
        }
    }
    if let (Some(limit), Some(request)) = (of("default"), of("defaultRequest"))
        && !resources::may_overcommit(name)
        && quantity(limit) != quantity(request)
    {
        let (limit, request) = (quantity(limit).to_string(), quantity(request).to_string());
        let why = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.invalid(&at("defaultRequest"), request, why);
    }
}
