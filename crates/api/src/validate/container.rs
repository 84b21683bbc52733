//! Containers of a pod spec.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, quantity, report, resources, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_port_name, check_port_number, check_qualified_name};

/// All containers of a pod spec; their names are unique across the lists. `claims` are the pod's.
pub(super) fn containers(spec: &Value, path: &str, claims: &BTreeSet<&str>, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (path, container) in each(spec, path, key) {
            let name = text(container, "name");
            if !names.insert(name) && !name.is_empty() {
                errors.duplicate(&join(&path, "name"), name);
            }
            resources(container, &join(&path, "resources"), claims, errors);
            resize_policies(container, &path, text(spec, "restartPolicy"), errors);
            restart_rules(container, &path, errors);
            mounts(container, &path, spec, errors);
            devices(container, &path, spec, errors);
            let grace = spec["terminationGracePeriodSeconds"].as_i64();
            match key {
                "containers" => {
                    probes(container, &path, errors);
                    hooks(container, &path, grace, errors);
                    host_ports_are_free(container, &path, &mut host_ports, errors);
                }
                "initContainers" => {
                    init(container, &path, grace, errors);
                    // One runs after the other, so that each may have a port.
                    host_ports_are_free(container, &path, &mut BTreeSet::new(), errors);
                }
                _ => ephemeral(container, &path, spec, errors),
            }
        }
    }
}

fn resources(container: &Value, path: &str, claims: &BTreeSet<&str>, errors: &mut FieldErrors) {
    let own = &container["resources"];
    resources::requirements(own, path, resources::container_resource_name, errors);
    resources::claims(own, path, claims, errors);
}

/// What makes an init container one that goes on beside the others.
fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn init(container: &Value, path: &str, grace: Option<i64>, errors: &mut FieldErrors) {
    if is_sidecar(container) {
        probes(container, path, errors);
        hooks(container, path, grace, errors);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            errors.forbidden(&join(path, field), "may not be set for init containers without restartPolicy=Always");
        }
    }
    if !list(container, "resizePolicy").is_empty() {
        let why = "must not be set for init containers";
        errors.invalid(&join(path, "resizePolicy"), container["resizePolicy"].clone(), why);
    }
}

/// What an ephemeral container may have: it is for looking around.
const EPHEMERAL: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "env",
    "envFrom",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

fn ephemeral(container: &Value, path: &str, spec: &Value, errors: &mut FieldErrors) {
    let target = text(container, "targetContainerName");
    let others = || list(spec, "containers").iter().chain(list(spec, "initContainers"));
    if !target.is_empty() && !others().any(|other| text(other, "name") == target) {
        errors.not_found(&join(path, "targetContainerName"), target);
    }
    const WHY: &str = "cannot be set for an Ephemeral Container";
    for (key, value) in container.as_object().into_iter().flatten() {
        if !EPHEMERAL.contains(&key.as_str()) && !crate::rules::is_empty(value) {
            errors.forbidden(&join(path, key), WHY);
        }
    }
    for (path, mount) in each(container, path, "volumeMounts") {
        for key in ["subPath", "subPathExpr"].iter().filter(|key| !text(mount, key).is_empty()) {
            errors.forbidden(&join(&path, key), WHY);
        }
    }
}

fn host_ports_are_free(container: &Value, path: &str, taken: &mut BTreeSet<String>, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (path, port) in each(container, path, "ports") {
        let number = port["hostPort"].as_i64().unwrap_or_default();
        let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if number != 0 && !taken.insert(key.clone()) {
            errors.duplicate(&join(&path, "hostPort"), key);
        }
        let name = text(port, "name");
        if !name.is_empty() && check_port_name(name).is_empty() && !names.insert(name) {
            errors.duplicate(&join(&path, "name"), name);
        }
    }
}

fn resize_policies(container: &Value, path: &str, pod_policy: &str, errors: &mut FieldErrors) {
    let base = join(path, "resizePolicy");
    let mut seen = BTreeSet::new();
    for (path, policy) in each(container, path, "resizePolicy") {
        let resource = text(policy, "resourceName");
        if !seen.insert(resource) {
            errors.duplicate(&path, resource);
        }
        for (value, allowed) in
            [(resource, ["cpu", "memory"]), (text(policy, "restartPolicy"), ["NotRequired", "RestartContainer"])]
        {
            match value {
                "" => errors.required(&base, ""),
                value if !allowed.contains(&value) => errors.not_supported(&base, value, &allowed),
                _ => {}
            }
        }
        if pod_policy == "Never" && text(policy, "restartPolicy") != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.invalid(&base, text(policy, "restartPolicy"), why);
        }
    }
}

fn restart_rules(container: &Value, path: &str, errors: &mut FieldErrors) {
    let rules = list(container, "restartPolicyRules");
    if !rules.is_empty() && text(container, "restartPolicy").is_empty() {
        errors.required(&join(path, "restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
}

fn volume<'a>(spec: &'a Value, name: &str) -> Option<&'a Value> {
    list(spec, "volumes").iter().find(|volume| text(volume, "name") == name)
}

fn mounts(container: &Value, path: &str, spec: &Value, errors: &mut FieldErrors) {
    let base = join(path, "volumeMounts");
    let mut points = BTreeSet::new();
    for (path, mount) in each(container, path, "volumeMounts") {
        let (name, point) = (text(mount, "name"), text(mount, "mountPath"));
        let source = volume(spec, name);
        if source.is_none() {
            errors.not_found(&join(&path, "name"), name);
        }
        if !points.insert(point) {
            errors.invalid(&join(&path, "mountPath"), point, "must be unique");
        }
        for device in list(container, "volumeDevices") {
            if text(device, "name") == name {
                errors.invalid(&join(&path, "name"), name, "must not already exist in volumeDevices");
            }
            if text(device, "devicePath") == point {
                let why = "must not already exist as a path in volumeDevices";
                errors.invalid(&join(&path, "mountPath"), point, why);
            }
        }
        let (sub, expr) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !expr.is_empty() && !sub.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&join(&path, "subPathExpr"), expr, why);
        }
        if source.is_some_and(|source| source["image"].is_object()) {
            for key in ["subPath", "subPathExpr"].iter().filter(|key| !text(mount, key).is_empty()) {
                errors.invalid(&join(&path, key), text(mount, key), "not allowed in image volume sources");
            }
        }
        let propagation = text(mount, "mountPropagation");
        if propagation == "Bidirectional" && container["securityContext"]["privileged"] != true {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&join(&base, "mountPropagation"), why);
        }
        if matches!(text(mount, "recursiveReadOnly"), "Enabled" | "IfPossible") {
            let path = join(&base, "recursiveReadOnly");
            if mount["readOnly"] != true {
                errors.forbidden(&path, "may only be specified when readOnly is true");
            }
            if !matches!(propagation, "" | "None") {
                errors.forbidden(&path, "may only be specified when mountPropagation is None or not specified");
            }
        }
    }
}

fn devices(container: &Value, path: &str, spec: &Value, errors: &mut FieldErrors) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (path, device) in each(container, path, "volumeDevices") {
        let (name, at) = (text(device, "name"), text(device, "devicePath"));
        let name_path = join(&path, "name");
        if !names.insert(name) {
            errors.invalid(&name_path, name, "must be unique");
        }
        match volume(spec, name) {
            None => errors.not_found(&name_path, name),
            Some(v) if !v["persistentVolumeClaim"].is_object() && !v["ephemeral"].is_object() => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name_path, name, why);
            }
            Some(_) => {}
        }
        if !paths.insert(at) {
            errors.invalid(&join(&path, "devicePath"), at, "must be unique");
        }
        if !crate::names::check_no_backsteps(at).is_empty() {
            errors.invalid(&join(&path, "devicePath"), at, "can not contain backsteps ('..')");
        }
        for mount in list(container, "volumeMounts") {
            if text(mount, "name") == name {
                errors.invalid(&name_path, name, "must not already exist in volumeMounts");
            }
            if text(mount, "mountPath") == at {
                let why = "must not already exist as a path in volumeMounts";
                errors.invalid(&join(&path, "devicePath"), at, why);
            }
        }
    }
}

fn probes(container: &Value, path: &str, errors: &mut FieldErrors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[kind];
        let path = join(path, kind);
        let success = probe["successThreshold"].as_i64().unwrap_or(1);
        if kind != "readinessProbe" && success != 1 {
            errors.invalid(&join(&path, "successThreshold"), success, "must be 1");
        }
        if kind == "readinessProbe" && probe["terminationGracePeriodSeconds"].is_i64() {
            let given = probe["terminationGracePeriodSeconds"].clone();
            errors.invalid(&join(&path, "terminationGracePeriodSeconds"), given, "must not be set for readinessProbes");
        }
    }
}

fn hooks(container: &Value, path: &str, grace: Option<i64>, errors: &mut FieldErrors) {
    for hook in ["postStart", "preStop"] {
        let sleep = container["lifecycle"][hook]["sleep"]["seconds"].as_i64();
        if let (Some(seconds), Some(grace)) = (sleep, grace)
            && !(0..=grace).contains(&seconds)
        {
            let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(&format!("{path}.lifecycle.{hook}.sleep"), seconds, why);
        }
    }
}

/// A probe or hook does one thing.
pub(super) fn handler(handler: &Value, path: &str, errors: &mut FieldErrors) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&&str> = kinds.iter().filter(|kind| handler[**kind].is_object()).collect();
    match given.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_, more @ ..] => {
            for kind in more {
                errors.forbidden(&join(path, kind), "may not specify more than 1 handler type");
            }
        }
    }
    for kind in ["httpGet", "tcpSocket"].iter().filter(|kind| handler[**kind].is_object()) {
        port_reference(&handler[*kind]["port"], &join(&join(path, kind), "port"), errors);
    }
}

/// A port by number or name.
pub(super) fn port_reference(port: &Value, path: &str, errors: &mut FieldErrors) {
    match port {
        Value::String(name) => report(check_port_name(name), path, name, errors),
        number => port_number(number.as_i64().unwrap_or_default(), path, errors),
    }
}

pub(super) fn port_number(port: i64, path: &str, errors: &mut FieldErrors) {
    for problem in check_port_number(port) {
        errors.invalid(path, port, problem);
    }
}

/// The fields of a pod that an environment variable can hold.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// An environment variable has a value or one source of it.
pub(super) fn env(variable: &Value, path: &str, errors: &mut FieldErrors) {
    let from = &variable["valueFrom"];
    if !from.is_object() {
        return;
    }
    let path = join(path, "valueFrom");
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let why = match (sources.iter().filter(|key| from[**key].is_object()).count(), text(variable, "value")) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (1, "") => "",
        (_, "") => "may not have more than one field specified at a time",
        _ => "may not be specified when `value` is not empty",
    };
    if !why.is_empty() {
        errors.invalid(&path, "", why);
    }
    if from["fieldRef"].is_object() {
        field_reference(&from["fieldRef"], &join(&path, "fieldRef"), &ENV_FIELDS, errors);
    }
    if from["resourceFieldRef"].is_object() {
        resource_reference(&from["resourceFieldRef"], &join(&path, "resourceFieldRef"), false, errors);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if from[key].is_object() && text(&from[key], "name").is_empty() {
            report(check_dns_subdomain(""), &join(&join(&path, key), "name"), "", errors);
        }
    }
}

/// A source of many variables is one ConfigMap or one Secret.
pub(super) fn env_from(from: &Value, path: &str, errors: &mut FieldErrors) {
    let path = crate::rules::without_index(path);
    match ["configMapRef", "secretRef"].iter().filter(|key| from[**key].is_object()).count() {
        0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

/// A reference to a field of the pod: one of `allowed`, or a label or annotation by its key.
pub(super) fn field_reference(reference: &Value, path: &str, allowed: &[&str], errors: &mut FieldErrors) {
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        return;
    }
    match field.strip_suffix("']").and_then(|head| head.split_once("['")) {
        Some(("metadata.annotations", key)) => report(check_qualified_name(&key.to_lowercase()), path, key, errors),
        Some(("metadata.labels", key)) => report(check_qualified_name(key), path, key, errors),
        Some((other, _)) => errors.invalid(path, other, "does not support subscript"),
        None if !allowed.contains(&field) => errors.not_supported(&join(path, "fieldPath"), field, allowed),
        None => {}
    }
}

const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to an amount that a container asks for; in a volume it must say which container.
pub(super) fn resource_reference(reference: &Value, path: &str, volume: bool, errors: &mut FieldErrors) {
    let resource = text(reference, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if volume && text(reference, "containerName").is_empty() {
        errors.required(&join(path, "containerName"), "");
    } else if resource.is_empty() {
        errors.required(&join(path, "resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge {
        errors.not_supported(&join(path, "resource"), resource, &RESOURCE_FIELDS);
    }
    let divisor = quantity(&reference["divisor"]);
    let shown = divisor.to_string();
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, noun): (&[&str], &str) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "cpu"),
        "limits.memory" | "requests.memory" => (&bytes, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (&bytes, "local ephemeral storage"),
        _ => (&bytes, "hugepages"),
    };
    if !divisor.is_zero() && !allowed.contains(&shown.as_str()) {
        let list = if noun == "cpu" { "1m and 1".to_owned() } else { allowed.join(", ") };
        let why = format!("only divisor's values {list} are supported with the {noun} resource");
        errors.invalid(&join(path, "divisor"), resource, why);
    }
}
