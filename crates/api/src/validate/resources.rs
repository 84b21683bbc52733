//! Amounts of resources, and the names of those.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, quantity, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_label, check_qualified_name};
use crate::quantity::Quantity;

/// What a quota can bound by name, besides huge pages and `count/…`.
const QUOTA_NAMES: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that somebody's device plugin offers.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && check_qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether pods may ask for less of it than they are limited to.
pub(super) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Whether only whole numbers of it make sense.
fn is_counted(name: &str) -> bool {
    is_extended(name) || QUOTA_NAMES[10..19].contains(&name)
}

/// A resource's name. `also` refuses more of those without a domain, in its own words.
pub(super) fn resource_name(name: &str, path: &str, also: Option<&str>, errors: &mut FieldErrors) {
    let problems = check_qualified_name(name);
    let bare = !name.contains('/');
    if !problems.is_empty() {
        report(problems, path, name, errors);
    } else if bare && !QUOTA_NAMES.contains(&name) && !is_huge_page(name.trim_start_matches("requests.")) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    if let Some(words) = also {
        errors.invalid(path, name, words);
    }
}

/// The name of something a container can ask for.
pub(super) fn container_resource_name(name: &str, path: &str, errors: &mut FieldErrors) {
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name);
    let also = match name.contains('/') {
        false => (!known).then_some("must be a standard resource for containers"),
        true => (!is_native(name) && !is_extended(name)).then_some("doesn't follow extended resource name standard"),
    };
    resource_name(name, path, also, errors);
}

/// Whether quotas know a name without a domain.
pub(super) fn is_quota_name(name: &str) -> bool {
    QUOTA_NAMES[..19].contains(&name) || is_huge_page(name.trim_start_matches("requests."))
}

/// The name of something a quota can bound.
pub(super) fn quota_resource_name(name: &str, path: &str, errors: &mut FieldErrors) {
    let also = (!name.contains('/') && !is_quota_name(name)).then_some("must be a standard resource for quota");
    resource_name(name, path, also, errors);
}

/// An amount: not negative, and whole where parts make no sense.
pub(super) fn amount(name: &str, value: &Value, path: &str, errors: &mut FieldErrors) {
    let amount = quantity(value);
    if amount.is_negative() {
        errors.invalid(path, value.clone(), "must be greater than or equal to 0");
    }
    if is_counted(name) && !amount.is_whole() {
        errors.invalid(path, value.clone(), "must be an integer");
    }
}

/// The names and amounts of a map of them.
pub(super) fn amounts(map: &Value, path: &str, check: fn(&str, &str, &mut FieldErrors), errors: &mut FieldErrors) {
    for (name, value) in map.as_object().into_iter().flatten() {
        let path = format!("{path}[{name}]");
        check(name, &path, errors);
        amount(name, value, &path, errors);
        if let Some(page) = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok()) {
            let (bytes, page_bytes) = (quantity(value).to_value(), page.to_value());
            if page_bytes > 0 && bytes % page_bytes != 0 {
                let shown = quantity(value).to_string();
                let why = format!("{shown} is not positive integer multiple of {name}");
                errors.invalid(&path, shown, why);
            }
        }
    }
}

/// Requests and limits of a container or pod.
pub(super) fn requirements(
    resources: &Value,
    path: &str,
    check: fn(&str, &str, &mut FieldErrors),
    errors: &mut FieldErrors,
) {
    let (limits, requests) = (&resources["limits"], &resources["requests"]);
    let (limits_path, requests_path) = (join(path, "limits"), join(path, "requests"));
    amounts(limits, &limits_path, check, errors);
    amounts(requests, &requests_path, check, errors);
    for (name, request) in requests.as_object().into_iter().flatten() {
        let (asked, limit) = (quantity(request), &limits[name.as_str()]);
        if limit.is_null() {
            if !may_overcommit(name) {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            continue;
        }
        let most = quantity(limit);
        let relation = match () {
            () if asked != most && !may_overcommit(name) => "equal to",
            () if asked > most => "less than or equal to",
            () => continue,
        };
        errors.invalid(&requests_path, asked.to_string(), format!("must be {relation} {name} limit of {most}"));
    }
    let names: BTreeSet<&String> =
        [limits, requests].iter().filter_map(|map| map.as_object()).flat_map(|m| m.keys()).collect();
    if names.iter().any(|name| is_huge_page(name))
        && !names.iter().any(|name| matches!(name.as_str(), "cpu" | "memory"))
    {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// The claims that a container uses, of those its pod has.
pub(super) fn claims(resources: &Value, path: &str, pod: &BTreeSet<&str>, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (path, claim) in each(resources, path, "claims") {
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if !request.is_empty() {
            report(check_dns_label(request), &join(&path, "request"), request, errors);
        }
        // A claim as a whole includes each of its requests.
        if seen.iter().any(|(n, r)| *n == name && (r.is_empty() || request.is_empty() || *r == request)) {
            errors.duplicate(&path, if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") });
        }
        seen.push((name, request));
        if !pod.contains(name) {
            let all = match pod.is_empty() {
                true => " which is empty".to_owned(),
                false => format!(": {}", pod.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            errors.not_found_in(&path, name, format!("must be one of the names in pod.spec.resourceClaims{all}"));
        }
    }
}

/// What a pod as a whole may use: its containers fit into it.
pub(super) fn pod_level(spec: &Value, path: &str, errors: &mut FieldErrors) {
    fn pod_resource_name(name: &str, path: &str, errors: &mut FieldErrors) {
        if !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
            errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
        }
    }
    let resources = &spec["resources"];
    if !resources.is_object() {
        return;
    }
    let path = join(path, "resources");
    if !list(resources, "claims").is_empty() {
        errors.forbidden(&join(&path, "claims"), "claims cannot be set for Resources at pod-level");
    }
    requirements(resources, &path, pod_resource_name, errors);
    let containers = list(spec, "containers");
    for name in ["cpu", "memory"] {
        let of = |container: &Value| quantity(&container["resources"]["requests"][name]);
        let sum: Quantity = containers.iter().map(of).sum();
        let own = quantity(&resources["requests"][name]);
        if sum > own {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&format!("{path}.requests[{name}]"), own.to_string(), why);
        }
        let most = &resources["limits"][name];
        for (i, container) in containers.iter().enumerate().filter(|_| !most.is_null()) {
            let limit = quantity(&container["resources"]["limits"][name]);
            if limit > quantity(most) {
                let why = format!("must be less than or equal to pod limits of {}", quantity(most));
                errors.invalid(&format!("{path}.containers[{i}][{name}].limits"), limit.to_string(), why);
            }
        }
    }
}
