//! Admission webhooks, and the `clientConfig` that they share with conversion webhooks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_dns1035_label, check_port_number};

/// The versions of `AdmissionReview` and `ConversionReview` that are spoken.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A webhook: where it is and what it understands.
pub(super) fn webhook(webhook: &Value, path: &str, errors: &mut FieldErrors) {
    client_config(&webhook["clientConfig"], &join(path, "clientConfig"), errors);
    review_versions(webhook, &join(path, "admissionReviewVersions"), errors);
}

/// A condition is an expression.
pub(super) fn match_condition(condition: &Value, path: &str, errors: &mut FieldErrors) {
    if text(condition, "expression").trim().is_empty() {
        errors.required(&join(path, "expression"), "");
    }
}

/// The versions of a review that a webhook accepts: one that is spoken here among them.
pub(crate) fn review_versions(webhook: &Value, path: &str, errors: &mut FieldErrors) {
    let field = path.rsplit('.').next().unwrap_or_default();
    let versions: Vec<&str> = list(webhook, field).iter().map(|version| version.as_str().unwrap_or_default()).collect();
    if versions.is_empty() {
        return errors.required(path, format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
    }
    let mut seen = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if !seen.insert(*version) {
            errors.invalid(&path, *version, "duplicate version");
            continue;
        }
        report(check_dns1035_label(version), &path, version, errors);
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        let why = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path, webhook[field].clone(), why);
    }
}

/// Where a webhook is.
pub(crate) fn client_config(config: &Value, path: &str, errors: &mut FieldErrors) {
    match (config["url"].as_str(), &config["service"]) {
        (Some(url), Value::Null) => webhook_url(url, &join(path, "url"), errors),
        (None, service) if service.is_object() => webhook_service(service, &join(path, "service"), errors),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn webhook_url(url: &str, path: &str, errors: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{FORM}"));
    }
    for (part, why) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.invalid(path, part, why);
        }
    }
}

fn webhook_service(service: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.required(&join(path, field), format!("service {field} is required"));
        }
    }
    if let Some(port) = service["port"].as_i64() {
        let problems = check_port_number(port);
        if !problems.is_empty() {
            errors.invalid(&join(path, "port"), port, format!("port is not valid: {}", problems.join(",")));
        }
    }
    let (path, url) = (join(path, "path"), text(service, "path"));
    let Some(rest) = url.strip_prefix('/').or((!url.is_empty()).then_some(url)) else { return };
    if url == "/" {
        return;
    }
    if url == "//" {
        return errors.invalid(&path, url, "segment[0] may not be empty");
    }
    if !url.starts_with('/') {
        errors.invalid(&path, url, "must start with a '/'");
    }
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&path, url, format!("segment[{index}] may not be empty"));
            continue;
        }
        for problem in check_dns_subdomain(step) {
            errors.invalid(&path, url, format!("segment[{index}]: {problem}"));
        }
    }
}

/// What a wildcard in a rule's resources covers is not named again.
pub(super) fn resources(rule: &Value, path: &str, errors: &mut FieldErrors) {
    let path = join(path, "resources");
    let names: Vec<&str> = list(rule, "resources").iter().map(|name| name.as_str().unwrap_or_default()).collect();
    let (mut all_of, mut in_all) = (BTreeSet::new(), BTreeSet::new());
    for (index, name) in names.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some((resource, sub)) = name.split_once('/') else { continue };
        if all_of.contains(resource) {
            errors.invalid(&path, *name, format!("if '{resource}/*' is present, must not specify {name}"));
        }
        if in_all.contains(sub) {
            errors.invalid(&path, *name, format!("if '*/{sub}' is present, must not specify {name}"));
        }
        if sub == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            in_all.insert(sub);
        }
    }
    let has = |wanted: &str| names.contains(&wanted);
    let mut refuse = |why: &str| errors.invalid(&path, rule["resources"].clone(), why);
    if names.len() > 1 && has("*/*") {
        refuse("if '*/*' is present, must not specify other resources");
    }
    if has("*") && names.iter().any(|name| *name != "*" && !name.contains('/') && !name.is_empty()) {
        refuse("if '*' is present, must not specify other resources without subresources");
    }
}
