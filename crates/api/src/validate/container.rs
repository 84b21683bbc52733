//! Containers of a pod spec.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, not_negative, one_of, quantity, report, required_name, text};
use crate::field::FieldErrors;
use crate::names::{
    check_config_key, check_dns_label, check_env_name, check_port_name, check_port_number, check_qualified_name,
};

/// What containers refer to in their pod.
pub(super) struct Containers<'a> {
    pub(super) volumes: &'a BTreeSet<String>,
    pub(super) claims: &'a BTreeSet<&'a str>,
}

/// All containers of a pod spec; their names are unique across the lists.
pub(super) fn containers(spec: &Value, path: &str, pod: &Containers<'_>, errors: &mut FieldErrors) {
    if list(spec, "containers").is_empty() {
        errors.required(&join(path, "containers"), "");
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (path, container) in each(spec, path, key) {
            one(container, &path, pod, errors);
            if !names.insert(text(container, "name")) && !text(container, "name").is_empty() {
                errors.duplicate(&join(&path, "name"), text(container, "name"));
            }
            let sidecar = text(container, "restartPolicy") == "Always";
            if key == "initContainers" {
                one_of(container, &path, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
            }
            if key == "initContainers" && !sidecar {
                for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                    if !container[field].is_null() {
                        let why = "may not be set for init containers without restartPolicy=Always";
                        errors.forbidden(&join(&path, field), why);
                    }
                }
            }
            if key == "containers" {
                ports_are_free(container, &path, &mut host_ports, errors);
            }
        }
    }
}

fn ports_are_free(container: &Value, path: &str, taken: &mut BTreeSet<String>, errors: &mut FieldErrors) {
    for (path, port) in each(container, path, "ports") {
        let number = port["hostPort"].as_i64().unwrap_or_default();
        let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if number != 0 && !taken.insert(key.clone()) {
            errors.duplicate(&join(&path, "hostPort"), key);
        }
    }
}

fn one(container: &Value, path: &str, pod: &Containers<'_>, errors: &mut FieldErrors) {
    required_name(container, path, "name", check_dns_label, errors);
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&join(path, "image"), "");
    } else if image.trim() != image {
        errors.invalid(&join(path, "image"), image, "must not have leading or trailing whitespace");
    }
    one_of(container, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    one_of(container, path, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    ports(container, path, errors);
    environment(container, path, errors);
    mounts(container, path, pod, errors);
    resources(container, path, pod, errors);
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe(&container[name], &join(path, name), name, errors);
    }
    for hook in ["postStart", "preStop"] {
        let handler_value = &container["lifecycle"][hook];
        if handler_value.is_object() {
            handler(
                handler_value,
                &format!("{path}.lifecycle.{hook}"),
                &["exec", "httpGet", "tcpSocket", "sleep"],
                errors,
            );
        }
    }
    security_context(&container["securityContext"], &join(path, "securityContext"), errors);
}

fn ports(container: &Value, path: &str, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (path, port) in each(container, path, "ports") {
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = check_port_name(name);
            if problems.is_empty() && !names.insert(name) {
                errors.duplicate(&join(&path, "name"), name);
            }
            report(problems, &join(&path, "name"), name, errors);
        }
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.required(&join(&path, "containerPort"), ""),
            Some(number) => numbers(number, &join(&path, "containerPort"), errors),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
            numbers(number, &join(&path, "hostPort"), errors);
        }
        match text(port, "protocol") {
            "" => errors.required(&join(&path, "protocol"), ""),
            _ => one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors),
        }
    }
}

fn numbers(port: i64, path: &str, errors: &mut FieldErrors) {
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

fn environment(container: &Value, path: &str, errors: &mut FieldErrors) {
    for (path, variable) in each(container, path, "env") {
        required_name(variable, &path, "name", check_env_name, errors);
        let from = &variable["valueFrom"];
        if !from.is_object() {
            continue;
        }
        let path = join(&path, "valueFrom");
        let sources: Vec<&String> = from.as_object().into_iter().flatten().map(|(key, _)| key).collect();
        if sources.is_empty() {
            errors.invalid(
                &path,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            );
        } else if sources.len() > 1 {
            errors.invalid(&path, "", "may not have more than one field specified at a time");
        }
        if !text(variable, "value").is_empty() {
            errors.invalid(&path, "", "may not be specified when `value` is not empty");
        }
        let field = text(&from["fieldRef"], "fieldPath");
        let subscript = field.starts_with("metadata.labels['") || field.starts_with("metadata.annotations['");
        if from["fieldRef"].is_object() && field.is_empty() {
            errors.required(&join(&path, "fieldRef.fieldPath"), "");
        } else if from["fieldRef"].is_object() && !subscript && !ENV_FIELDS.contains(&field) {
            errors.not_supported(&join(&path, "fieldRef.fieldPath"), field, &ENV_FIELDS);
        }
        for reference in ["configMapKeyRef", "secretKeyRef"] {
            let (key, path) = (&from[reference], join(&path, reference));
            if key.is_object() {
                if text(key, "name").is_empty() {
                    errors.required(&join(&path, "name"), "");
                }
                required_name(key, &path, "key", check_config_key, errors);
            }
        }
    }
    for (path, from) in each(container, path, "envFrom") {
        let sources = ["configMapRef", "secretRef"].iter().filter(|key| from[**key].is_object()).count();
        match sources {
            0 => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(container: &Value, path: &str, pod: &Containers<'_>, errors: &mut FieldErrors) {
    let mut points = BTreeSet::new();
    for (path, mount) in each(container, path, "volumeMounts") {
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(&join(&path, "name"), "");
        } else if !pod.volumes.contains(name) {
            errors.not_found(&join(&path, "name"), name);
        }
        let point = text(mount, "mountPath");
        if point.is_empty() {
            errors.required(&join(&path, "mountPath"), "");
        } else if !points.insert(point) {
            errors.invalid(&join(&path, "mountPath"), point, "must be unique");
        }
        for key in ["subPath", "subPathExpr"] {
            let sub = text(mount, key);
            if sub.starts_with('/') {
                errors.invalid(&join(&path, key), sub, "must be a relative path");
            } else if sub.split('/').any(|part| part == "..") {
                errors.invalid(&join(&path, key), sub, "must not contain '..'");
            }
        }
        let allowed = ["Bidirectional", "HostToContainer", "None"];
        one_of(mount, &path, "mountPropagation", &allowed, errors);
    }
}

fn resources(container: &Value, path: &str, pod: &Containers<'_>, errors: &mut FieldErrors) {
    let resources = &container["resources"];
    let path = join(path, "resources");
    for of in ["limits", "requests"] {
        for (name, amount) in resources[of].as_object().into_iter().flatten() {
            let path = format!("{path}.{of}");
            let key = format!("{path}[{name}]");
            report(check_qualified_name(name), &path, name, errors);
            let standard =
                matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if !name.contains('/') && !standard {
                errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
            }
            if quantity(amount).is_negative() {
                errors.invalid(&key, amount.clone(), "must be greater than or equal to 0");
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name.as_str()];
        if !limit.is_null() && quantity(request) > quantity(limit) {
            let limit = limit.as_str().unwrap_or_default();
            errors.invalid(
                &format!("{path}.requests"),
                request.clone(),
                format!("must be less than or equal to {name} limit of {limit}"),
            );
        }
    }
    for (path, claim) in each(resources, &path, "claims") {
        if !pod.claims.contains(text(claim, "name")) {
            errors.not_found(&join(&path, "name"), text(claim, "name"));
        }
    }
}

fn probe(probe: &Value, path: &str, kind: &str, errors: &mut FieldErrors) {
    if !probe.is_object() {
        return;
    }
    handler(probe, path, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(probe, path, key, errors);
    }
    let success = probe["successThreshold"].as_i64().unwrap_or(1);
    if kind != "readinessProbe" && success != 1 {
        errors.invalid(&join(path, "successThreshold"), success, "must be 1");
    }
    if let Some(seconds) = probe["terminationGracePeriodSeconds"].as_i64().filter(|s| *s <= 0) {
        errors.invalid(&join(path, "terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn handler(handler: &Value, path: &str, kinds: &[&str], errors: &mut FieldErrors) {
    let given: Vec<&&str> = kinds.iter().filter(|kind| handler[**kind].is_object()).collect();
    match given.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => {
            for kind in more {
                errors.forbidden(&join(path, kind), "may not specify more than 1 handler type");
            }
        }
    }
    if handler["exec"].is_object() && list(&handler["exec"], "command").is_empty() {
        errors.required(&join(path, "exec.command"), "");
    }
    let get = &handler["httpGet"];
    if get.is_object() {
        one_of(get, &join(path, "httpGet"), "scheme", &["HTTP", "HTTPS"], errors);
        port_reference(&get["port"], &join(path, "httpGet.port"), errors);
    }
    if handler["tcpSocket"].is_object() {
        port_reference(&handler["tcpSocket"]["port"], &join(path, "tcpSocket.port"), errors);
    }
    if handler["grpc"].is_object() {
        numbers(handler["grpc"]["port"].as_i64().unwrap_or_default(), &join(path, "grpc.port"), errors);
    }
}

/// A port by number or name.
pub(super) fn port_reference(port: &Value, path: &str, errors: &mut FieldErrors) {
    match port {
        Value::String(name) => report(check_port_name(name), path, name, errors),
        number => numbers(number.as_i64().unwrap_or_default(), path, errors),
    }
}

fn security_context(context: &Value, path: &str, errors: &mut FieldErrors) {
    for key in ["runAsUser", "runAsGroup"] {
        if let Some(id) = context[key].as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            errors.invalid(&join(path, key), id, "must be between 0 and 2147483647, inclusive");
        }
    }
    if context["allowPrivilegeEscalation"] == false && context["privileged"] == true {
        errors.invalid(
            path,
            context.clone(),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::{errors_of, pod};

    fn with(container: serde_json::Value) -> Vec<String> {
        let mut object = json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}});
        for (key, value) in container.as_object().unwrap() {
            object["spec"]["containers"][0][key.as_str()] = value.clone();
        }
        crate::defaults::pod(&mut object);
        errors_of(pod, &object)
    }

    #[test]
    fn what_people_get_wrong_is_named() {
        for (container, errors) in [
            (
                json!({"ports": [{"containerPort": 70_000}]}),
                vec![
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"ports": [{"containerPort": 80, "name": "a-very-long-port-name"}]}),
                vec![
                    "spec.containers[0].ports[0].name: Invalid value: \"a-very-long-port-name\": must be no more than 15 bytes",
                ],
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
                vec!["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                vec![
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                json!({"livenessProbe": {}}),
                vec!["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                json!({"livenessProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2}}),
                vec!["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
            ),
            (
                json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
                vec![
                    "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                ],
            ),
            (
                json!({"imagePullPolicy": "Maybe"}),
                vec![
                    "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                ],
            ),
        ] {
            assert_eq!(with(container), errors);
        }
    }
}
