//! Kinds that set rules: priority, disruption, autoscaling, networking.

use serde_json::{Value, json};

use super::{count_or_percent, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{check_network, network};

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
}

/// A PodDisruptionBudget.
pub fn pod_disruption_budget(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        errors.invalid("spec", spec.clone(), "minAvailable and maxUnavailable cannot be both set");
    }
    for key in ["minAvailable", "maxUnavailable"] {
        count_or_percent(spec, "spec", key, errors);
        super::at_most_all(spec, "spec", key, errors);
    }
}

/// A metric of a container is of something that containers can ask for.
pub(super) fn container_metric(source: &Value, path: &str, errors: &mut FieldErrors) {
    if !text(source, "name").is_empty() {
        super::resources::container_resource_name(text(source, "name"), &join(path, "name"), errors);
    }
}

/// A HorizontalPodAutoscaler.
pub fn hpa(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let (min, max) = (spec["minReplicas"].as_i64().unwrap_or(1), spec["maxReplicas"].as_i64().unwrap_or_default());
    if max < min {
        errors.invalid("spec.maxReplicas", max, "must be greater than or equal to `minReplicas`");
    }
}

fn api_version(of: &Value, path: &str, needs_group: bool, errors: &mut FieldErrors) {
    let version = text(of, "apiVersion");
    let why = match version.matches('/').count() {
        0 if needs_group => "apiVersion must specify API group".to_owned(),
        0 | 1 => return,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.invalid(&join(path, "apiVersion"), version, why);
}

/// What is scaled has a group, unless it is a ReplicationController.
pub fn hpa_create(object: &Value, errors: &mut FieldErrors) {
    let (spec, target) = (&object["spec"], &object["spec"]["scaleTargetRef"]);
    api_version(target, "spec.scaleTargetRef", text(target, "kind") != "ReplicationController", errors);
    for (path, metric) in super::each(spec, "spec", "metrics").filter(|(_, metric)| metric["object"].is_object()) {
        api_version(&metric["object"]["describedObject"], &join(&path, "object.describedObject"), false, errors);
    }
}

/// The same of what is scaled from now on.
pub fn hpa_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let of = |object: &Value| ["apiVersion", "kind"].map(|key| object["spec"]["scaleTargetRef"][key].clone());
    if subresource.is_empty() && of(new) != of(old) {
        hpa_create(new, errors);
    }
}

/// A metric to scale by: its type names the one source it has, and the source says what to aim at.
pub(super) fn metric(metric: &Value, path: &str, errors: &mut FieldErrors) {
    const SOURCES: [(&str, &str); 5] = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.required(&join(path, "type"), "must specify a metric source type");
    }
    if let Some((_, key)) = SOURCES.iter().find(|(known, _)| *known == kind) {
        if !metric[*key].is_object() {
            errors.required(&join(path, key), "must populate information for the given metric source");
        }
        for (_, other) in SOURCES.iter().filter(|(_, other)| other != key && metric[*other].is_object()) {
            let why = "must populate the given metric source only";
            errors.forbidden(&join(path, other), why);
        }
    } else {
        errors.not_supported(&join(path, "type"), kind, &SOURCES.map(|(kind, _)| kind));
    }
    let [raw, whole, per_pod] = [
        [
            "must set either a target raw value or a target utilization",
            "may not set both a target raw value and a target utilization",
        ],
        ["must set either a target value or averageValue", ""],
        [
            "must set either a target value for metric or a per-pod target",
            "may not set both a target value for metric and a per-pod target",
        ],
    ];
    // What is aimed at: one of two values, and why not none or both.
    for (key, one, other, [none, both]) in [
        ("resource", "averageUtilization", "averageValue", raw),
        ("containerResource", "averageUtilization", "averageValue", raw),
        ("object", "averageValue", "value", whole),
        ("external", "averageValue", "value", per_pod),
    ] {
        let (target, path) = (&metric[key]["target"], join(path, &format!("{key}.target")));
        match (target[one].is_null(), target[other].is_null()) {
            (true, true) if metric[key].is_object() => errors.required(&join(&path, one), none),
            (false, false) if !both.is_empty() => errors.forbidden(&join(&path, other), both),
            _ => {}
        }
    }
}

/// What a metric should be.
pub(super) fn metric_target(target: &Value, path: &str, errors: &mut FieldErrors) {
    if !matches!(text(target, "type"), "AverageValue" | "Utilization" | "Value") {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&join(path, "type"), text(target, "type"), why);
    }
    for value in ["value", "averageValue"].iter().filter(|value| !target[**value].is_null()) {
        if super::quantity(&target[*value]) <= crate::quantity::Quantity::ZERO {
            errors.invalid(&join(path, value), target[*value].clone(), "must be positive");
        }
    }
}

/// An Ingress.
pub fn ingress(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if list(spec, "rules").is_empty() && spec["defaultBackend"].is_null() {
        errors.invalid("spec", json!([]), "either `defaultBackend` or `rules` must be specified");
    }
}

/// A new Ingress names one class, even if it does so twice.
pub fn ingress_create(object: &Value, errors: &mut FieldErrors) {
    let class = &object["metadata"]["annotations"]["kubernetes.io/ingress.class"];
    if class.is_string()
        && object["spec"]["ingressClassName"].is_string()
        && *class != object["spec"]["ingressClassName"]
    {
        let why = "must match `ingressClassName` when both are specified";
        errors.invalid("annotations.kubernetes.io/ingress.class", class.clone(), why);
    }
}

/// A path that URLs can have after they have been cleaned, and that matching understands.
pub(super) fn http_path(route: &Value, path: &str, errors: &mut FieldErrors) {
    let (at, given) = (join(path, "path"), text(route, "path"));
    if !matches!(text(route, "pathType"), "Exact" | "Prefix") {
        return;
    }
    if given.is_empty() {
        errors.invalid(&at, given, "must be an absolute path");
    }
    for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| given.contains(**part)) {
        errors.invalid(&at, given, format!("must not contain '{part}'"));
    }
    for end in ["/..", "/."].iter().filter(|end| given.ends_with(**end)) {
        errors.invalid(&at, given, format!("cannot end with '{end}'"));
    }
}

/// Where an Ingress sends requests.
pub(super) fn backend(backend: &Value, path: &str, errors: &mut FieldErrors) {
    let service = &backend["service"];
    match (service.is_object(), backend["resource"].is_object()) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
        (true, false) => {
            let port = &service["port"];
            match (text(port, "name").is_empty(), port["number"].as_i64().unwrap_or_default() == 0) {
                (true, true) => errors.required(path, "port name or number is required"),
                (false, false) => errors.invalid(path, "", "cannot set both port name & port number"),
                _ => {}
            }
        }
        (false, true) => {}
    }
}

/// The parameters of an IngressClass are in a namespace exactly if their scope says so.
pub(super) fn class_parameters(parameters: &Value, path: &str, errors: &mut FieldErrors) {
    let path_of = |key: &str| join(path, key);
    let namespace = text(parameters, "namespace");
    match text(parameters, "scope") {
        "Namespace" if namespace.is_empty() => {
            let why = "`parameters.scope` is set to 'Namespace'";
            errors.required(&path_of("namespace"), why);
        }
        "Cluster" if parameters["namespace"].is_string() => {
            errors.forbidden(&path_of("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        _ => {}
    }
}

/// A NetworkPolicy is about one direction or both.
pub(super) fn policy_types(spec: &Value, path: &str, errors: &mut FieldErrors) {
    if list(spec, "policyTypes").len() > 2 {
        let why = "may not specify more than two policyTypes";
        errors.invalid(&join(path, "policyTypes"), spec["policyTypes"].clone(), why);
    }
}

/// A peer is pods, namespaces or both; or addresses.
pub(super) fn peer(peer: &Value, path: &str, errors: &mut FieldErrors) {
    let pods = !peer["podSelector"].is_null() || !peer["namespaceSelector"].is_null();
    let block = &peer["ipBlock"];
    if !pods && block.is_null() {
        errors.required(path, "must specify a peer");
    }
    if pods && block.is_object() {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
    let whole = network(text(block, "cidr"));
    for (i, except) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
        if let (Some((inner, longer, width)), Some((outer, prefix, outer_width))) = (network(except), whole) {
            let shift = 128 - width;
            let within = width == outer_width && (prefix == 0 || (inner ^ outer) << shift >> (128 - prefix) == 0);
            if !within || longer <= prefix {
                let why = "must be a strict subset of `cidr`";
                errors.invalid(&format!("{path}.ipBlock.except[{i}]"), except, why);
            }
        }
    }
}

/// A port by number or name, or a range of numbers.
pub(super) fn policy_port(port: &Value, path: &str, errors: &mut FieldErrors) {
    let end = &port["endPort"];
    match &port["port"] {
        Value::Null if !end.is_null() => {
            errors.invalid(&join(path, "endPort"), end.clone(), "may not be specified when `port` is not specified");
        }
        Value::Null => {}
        Value::String(name) if !end.is_null() => {
            errors.invalid(&join(path, "endPort"), end.clone(), "may not be specified when `port` is non-numeric");
            super::container::port_reference(&Value::from(name.as_str()), &join(path, "port"), errors);
        }
        number => {
            super::container::port_reference(number, &join(path, "port"), errors);
            if end.as_i64().is_some_and(|end| end < number.as_i64().unwrap_or_default()) {
                errors.invalid(&join(path, "endPort"), end.clone(), "must be greater than or equal to `port`");
            }
        }
    }
}

/// A ServiceCIDR is a network or two, one of each family.
pub(super) fn service_cidrs(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let (path, cidrs) = (join(path, "cidrs"), list(spec, "cidrs"));
    if cidrs.len() > 2 {
        return errors.invalid(&path, spec.clone(), "may only hold up to 2 values");
    }
    for (i, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        report(check_network(cidr), &format!("{path}[{i}]"), cidr, errors);
    }
    let width = |cidr: &Value| cidr.as_str().and_then(network).map(|(_, _, width)| width);
    if let [one, other] = cidrs
        && width(one).is_some()
        && width(one) == width(other)
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, spec["cidrs"].clone(), why);
    }
}

/// A ServiceCIDR stays as it is; one of one family may get a second.
pub fn service_cidr_update(new: &Value, old: &Value, _: &str, errors: &mut FieldErrors) {
    let (now, then) = (list(&new["spec"], "cidrs"), list(&old["spec"], "cidrs"));
    let grown = then.len() == 1 && now.len() == 2;
    if now.len() != then.len() && !grown {
        return errors.invalid("spec.cidrs", new["spec"]["cidrs"].clone(), super::IMMUTABLE);
    }
    for (i, (now, _)) in now.iter().zip(then).enumerate().filter(|(_, (now, then))| now != then) {
        errors.invalid(&format!("spec.cidrs[{i}]"), now.clone(), super::IMMUTABLE);
    }
}
