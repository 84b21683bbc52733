//! FlowSchemas and PriorityLevelConfigurations: priority and fairness.

use serde_json::Value;

use super::{each, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_label, check_dns_subdomain};

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// A FlowSchema.
pub fn flow_schema(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if spec["matchingPrecedence"] == 1 && object["metadata"]["name"] != "exempt" {
        errors.invalid("spec.matchingPrecedence", 1, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = &spec["distinguisherMethod"];
    if method.is_object() && !["ByNamespace", "ByUser"].contains(&text(method, "type")) {
        errors.not_supported("spec.distinguisherMethod.type", method.clone(), &["ByNamespace", "ByUser"]);
    }
}

/// What requests a FlowSchema is about.
pub(super) fn policy_rules(rule: &Value, path: &str, errors: &mut FieldErrors) {
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
}

fn has(rule: &Value, key: &str, word: &str) -> bool {
    list(rule, key).iter().any(|item| item == word)
}

fn verbs(rule: &Value, path: &str, errors: &mut FieldErrors) {
    if !has(rule, "verbs", "*") && list(rule, "verbs").iter().any(|verb| !VERBS.iter().any(|known| verb == known)) {
        errors.not_supported(&join(path, "verbs"), rule["verbs"].clone(), &VERBS);
    }
}

/// Requests for resources: in the whole cluster, in namespaces, or both.
pub(super) fn resource_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    if list(rule, "namespaces").is_empty() && rule["clusterScope"] != true {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&join(path, "namespaces"), why);
    }
    for (path, namespace) in each(rule, path, "namespaces").filter(|_| !has(rule, "namespaces", "*")) {
        let name = namespace.as_str().unwrap_or_default();
        let intro = "each member of this list must be '*' or a DNS-1123 label; ";
        let problems = check_dns_label(name).into_iter().map(|why| format!("{intro}{why}"));
        report(problems.collect(), &path, name, errors);
    }
}

/// Requests for anything else.
pub(super) fn non_resource_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    verbs(rule, path, errors);
    for (path, url) in each(rule, path, "nonResourceURLs").filter(|_| !has(rule, "nonResourceURLs", "*")) {
        non_resource_url(url.as_str().unwrap_or_default(), &path, errors);
    }
}

fn non_resource_url(url: &str, path: &str, errors: &mut FieldErrors) {
    let why = match url {
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
pub(super) fn subject(subject: &Value, path: &str, errors: &mut FieldErrors) {
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
            _ => {}
        }
    }
    let account = text(&subject["serviceAccount"], "name");
    if !matches!(account, "" | "*") {
        report(check_dns_subdomain(account), &join(path, "serviceAccount.name"), account, errors);
    }
}

/// A PriorityLevelConfiguration.
pub fn priority_level(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let (kind, limited) = (text(spec, "type"), &spec["limited"]);
    if (object["metadata"]["name"] == "exempt") != (kind == "Exempt") {
        errors.invalid("spec.type", kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind {
        "Exempt" if limited.is_object() => {
            errors.forbidden("spec.limited", "must be nil if the type is not Limited");
        }
        "Limited" if !limited.is_object() => {
            errors.required("spec.limited", "must not be empty when type is Limited");
        }
        _ => {}
    }
    if kind == "Limited" && spec["exempt"].is_object() {
        errors.forbidden("spec.exempt", "must be nil if the type is Limited");
    }
}

/// What happens to requests beyond the limit: they wait exactly if the type says so.
pub(super) fn limit_response(response: &Value, path: &str, errors: &mut FieldErrors) {
    let path = join(path, "queuing");
    match (text(response, "type"), response["queuing"].is_object()) {
        ("Reject", true) => errors.forbidden(&path, "must be nil if limited.limitResponse.type is not Limited"),
        ("Queue", false) => errors.required(&path, "must not be empty if limited.limitResponse.type is Limited"),
        _ => {}
    }
}

/// A hand of queues is dealt from one hash of 64 bits.
pub(super) fn queues(config: &Value, path: &str, errors: &mut FieldErrors) {
    let number = |key: &str| config[key].as_i64().unwrap_or_default();
    let (queues, hand) = (number("queues"), number("handSize"));
    let why = if hand > queues {
        format!("should not be greater than queues ({queues})")
    } else if (0..hand).map(|dealt| ((queues - dealt) as f64).log2()).sum::<f64>() > 60.0 {
        format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60")
    } else {
        return;
    };
    errors.invalid(&join(path, "handSize"), hand, why);
}
