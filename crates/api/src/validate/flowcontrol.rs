//! FlowSchemas and PriorityLevelConfigurations: priority and fairness.

use serde_json::Value;

use super::{each, join, list, one_of, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_label, check_dns_subdomain};

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const NON_RESOURCE_VERBS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];
const PRECEDENCE_MAX: i64 = 10_000;

/// A FlowSchema.
pub fn flow_schema(object: &Value, errors: &mut FieldErrors) {
    let (spec, name) = (&object["spec"], text(&object["metadata"], "name"));
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or_default();
    let at = "spec.matchingPrecedence";
    if precedence <= 0 {
        errors.invalid(at, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(at, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != "exempt" {
        errors.invalid(at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    if spec["distinguisherMethod"].is_object() {
        let method = &spec["distinguisherMethod"];
        let kind = text(method, "type");
        if !["ByNamespace", "ByUser"].contains(&kind) {
            errors.not_supported("spec.distinguisherMethod", kind, &["ByNamespace", "ByUser"]);
        }
    }
    let level = "spec.priorityLevelConfiguration.name";
    match text(&spec["priorityLevelConfiguration"], "name") {
        "" => errors.required(level, "must reference a priority level"),
        name => report(check_dns_subdomain(name), level, name, errors),
    }
    for (path, rule) in each(spec, "spec", "rules") {
        policy_rule(rule, &path, errors);
    }
}

fn policy_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    if list(rule, "subjects").is_empty() {
        errors.required(&join(path, "subjects"), "subjects must contain at least one value");
    }
    for (path, subject) in each(rule, path, "subjects") {
        subject_rule(subject, &path, errors);
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (path, rule) in each(rule, path, "resourceRules") {
        words(rule, &path, "verbs", "verbs", "", Some(&VERBS), errors);
        let some = |what: &str| format!("resource rules must supply at least one {what}");
        words(rule, &path, "apiGroups", "api groups", &some("api group"), None, errors);
        words(rule, &path, "resources", "resources", &some("resource"), None, errors);
        let namespaces = list(rule, "namespaces");
        if namespaces.is_empty() && rule["clusterScope"] != true {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(&join(&path, "namespaces"), why);
        } else if !namespaces.is_empty() {
            words(rule, &path, "namespaces", "namespaces", "", None, errors);
        }
        for (path, namespace) in each(rule, &path, "namespaces") {
            let name = namespace.as_str().unwrap_or_default();
            if name != "*" {
                let problems = check_dns_label(name).into_iter().map(|why| format!("must be a valid namespace: {why}"));
                report(problems.collect(), &path, name, errors);
            }
        }
    }
    for (path, rule) in each(rule, path, "nonResourceRules") {
        words(rule, &path, "verbs", "verbs", "", Some(&NON_RESOURCE_VERBS), errors);
        let some = "nonResourceURLs must contain at least one value";
        words(rule, &path, "nonResourceURLs", "non-resource URLs", some, None, errors);
        for (path, url) in each(rule, &path, "nonResourceURLs") {
            non_resource_url(url.as_str().unwrap_or_default(), &path, errors);
        }
    }
}

/// A list that has at least one word; `*` stands alone.
fn words(
    rule: &Value,
    path: &str,
    key: &str,
    noun: &str,
    missing: &str,
    allowed: Option<&[&str]>,
    errors: &mut FieldErrors,
) {
    let (path, all) = (join(path, key), list(rule, key));
    if all.is_empty() {
        errors.required(&path, missing);
    }
    if all.iter().any(|word| word == "*") {
        if all.len() > 1 {
            errors.invalid(&path, rule[key].clone(), format!("if '*' is present, must not specify other {noun}"));
        }
    } else if let Some(allowed) = allowed
        && all.iter().any(|word| !allowed.contains(&word.as_str().unwrap_or_default()))
    {
        errors.not_supported(&path, rule[key].clone(), allowed);
    }
}

fn non_resource_url(url: &str, path: &str, errors: &mut FieldErrors) {
    let why = match url {
        "*" => return,
        "" => "must not be empty",
        url if !url.starts_with('/') => "must start with slash",
        url if url.contains(' ') => "must not contain white-space",
        url if url.contains("//") => "must not contain double slash",
        url if url.contains('*') && (url.matches('*').count() > 1 || !url.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    errors.invalid(path, url, why);
}

/// A subject has the one field that its kind names.
fn subject_rule(subject: &Value, path: &str, errors: &mut FieldErrors) {
    const FIELDS: [(&str, &str); 3] = [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = text(subject, "kind");
    if !FIELDS.iter().any(|(known, _)| *known == kind) {
        return errors.not_supported(&join(path, "kind"), kind, &FIELDS.map(|(kind, _)| kind));
    }
    for (owner, field) in FIELDS {
        let at = join(path, field);
        match (owner == kind, subject[field].is_object()) {
            (true, false) => errors.required(&at, format!("{field} is required when subject kind is '{kind}'")),
            (false, true) => errors.forbidden(&at, format!("{field} is forbidden when subject kind is not '{owner}'")),
            (true, true) => {
                let named = &subject[field];
                if text(named, "name").is_empty() {
                    errors.required(&join(&at, "name"), "");
                }
                if kind == "ServiceAccount" {
                    let name = text(named, "name");
                    if name != "*" && !name.is_empty() {
                        report(check_dns_subdomain(name), &join(&at, "name"), name, errors);
                    }
                    let namespace = text(named, "namespace");
                    match namespace {
                        "" => errors.required(&join(&at, "namespace"), "must specify namespace for service account"),
                        name => report(check_dns_label(name), &join(&at, "namespace"), name, errors),
                    }
                }
            }
            (false, false) => {}
        }
    }
}

/// A PriorityLevelConfiguration.
pub fn priority_level(object: &Value, errors: &mut FieldErrors) {
    let (spec, name) = (&object["spec"], text(&object["metadata"], "name"));
    let kind = text(spec, "type");
    if kind.is_empty() {
        errors.required("spec.type", "");
    }
    one_of(spec, "spec", "type", &["Exempt", "Limited"], errors);
    if (name == "exempt") != (kind == "Exempt") {
        errors.invalid("spec.type", kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if spec["limited"].is_object() {
                errors.forbidden("spec.limited", "must be nil if the type is not Limited");
            }
            shares(&spec["exempt"], "spec.exempt", 0, errors);
        }
        "Limited" => {
            if spec["exempt"].is_object() {
                errors.forbidden("spec.exempt", "must be nil if the type is Limited");
            }
            if spec["limited"].is_object() {
                limited(&spec["limited"], "spec.limited", errors);
            } else {
                errors.required("spec.limited", "must not be empty when type is Limited");
            }
        }
        _ => {}
    }
}

fn shares(config: &Value, path: &str, least: i64, errors: &mut FieldErrors) {
    if let Some(shares) = config["nominalConcurrencyShares"].as_i64().filter(|shares| *shares < least) {
        let why = if least == 0 { "must be a non-negative integer" } else { "must be positive" };
        errors.invalid(&join(path, "nominalConcurrencyShares"), shares, why);
    }
    if let Some(percent) = config["lendablePercent"].as_i64().filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(&join(path, "lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn limited(config: &Value, path: &str, errors: &mut FieldErrors) {
    shares(config, path, 0, errors);
    if let Some(percent) = config["borrowingLimitPercent"].as_i64().filter(|percent| *percent < 0) {
        errors.invalid(&join(path, "borrowingLimitPercent"), percent, "if specified, must be a non-negative integer");
    }
    let (response, path) = (&config["limitResponse"], join(path, "limitResponse"));
    let queuing = &response["queuing"];
    match text(response, "type") {
        "Reject" => {
            if queuing.is_object() {
                errors.forbidden(&join(&path, "queuing"), "must be nil if limited.limitResponse.type is not Limited");
            }
        }
        "Queue" if queuing.is_object() => queues(queuing, &join(&path, "queuing"), errors),
        "Queue" => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&join(&path, "queuing"), why);
        }
        "" => errors.required(&join(&path, "type"), ""),
        other => errors.not_supported(&join(&path, "type"), other, &["Queue", "Reject"]),
    }
}

fn queues(config: &Value, path: &str, errors: &mut FieldErrors) {
    let number = |key: &str| config[key].as_i64().unwrap_or_default();
    let (queues, hand) = (number("queues"), number("handSize"));
    if number("queueLengthLimit") <= 0 {
        errors.invalid(&join(path, "queueLengthLimit"), number("queueLengthLimit"), "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&join(path, "queues"), queues, "must be positive");
    } else if queues > 10_000_000 {
        errors.invalid(&join(path, "queues"), queues, "must not be greater than 10000000");
    }
    let at = join(path, "handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    } else if (0..hand).map(|dealt| ((queues - dealt) as f64).log2()).sum::<f64>() > 60.0 {
        // A hand is dealt from one hash of 64 bits.
        errors.invalid(
            &at,
            hand,
            format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60"),
        );
    }
}
