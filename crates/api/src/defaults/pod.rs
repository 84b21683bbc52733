//! Pods and pod templates.

use serde_json::{Value, json};

use super::{at, child, items, set, set_nonzero, set_text};

/// A Pod: its spec, and requests that follow from limits (templates do not get these).
pub fn pod(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "enableServiceLinks", true);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_spec(spec);
    if spec["hostNetwork"] == true {
        for list in ["containers", "initContainers"] {
            items(spec, list).for_each(host_ports);
        }
    }
}

/// A pod spec, in a Pod or in a template.
pub fn pod_spec(spec: &mut Value) {
    set_text(spec, "restartPolicy", "Always");
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "securityContext", json!({}));
    service_account(spec);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        items(spec, list).for_each(container);
    }
    items(spec, "volumes").for_each(volume);
    for constraint in items(spec, "topologySpreadConstraints") {
        if constraint["whenUnsatisfiable"].is_null() {
            set(constraint, "whenUnsatisfiable", "DoNotSchedule");
        }
    }
    if spec["hostNetwork"] == true {
        for list in ["containers", "initContainers"] {
            items(spec, list).for_each(host_ports);
        }
    }
}

/// The old name `serviceAccount` and the new one always say the same.
fn service_account(spec: &mut Value) {
    let name = |key: &str| spec.get(key).and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
    if let Some(name) = name("serviceAccountName").or_else(|| name("serviceAccount")) {
        spec["serviceAccountName"] = name.clone().into();
        spec["serviceAccount"] = name.into();
    }
}

/// A pod on the host's network takes the host's ports of the same number.
fn host_ports(container: &mut Value) {
    for port in items(container, "ports") {
        let number = port["containerPort"].as_i64().unwrap_or_default();
        set_nonzero(port, "hostPort", number);
    }
}

fn container(container: &mut Value) {
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    set_text(container, "imagePullPolicy", policy);
    set(container, "resources", json!({}));
    for port in items(container, "ports") {
        set_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(field) = at(variable, "valueFrom").and_then(|from| at(from, "fieldRef")) {
            set_text(field, "apiVersion", "v1");
        }
        // A divisor of zero means one.
        if let Some(field) = at(variable, "valueFrom").and_then(|from| at(from, "resourceFieldRef")) {
            set(field, "divisor", "0");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = at(container, name) {
            probe(found);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = at(container, "lifecycle").and_then(|l| at(l, hook)).and_then(|hook| at(hook, "httpGet")) {
            http_get(get);
        }
    }
}

/// `Always` for `latest` or no tag, else `IfNotPresent`; a digest never changes.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("", |(_, tag)| tag);
    match (tag, digest) {
        ("latest", _) | ("", "") => "Always",
        _ => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    set_nonzero(probe, "timeoutSeconds", 1);
    set_nonzero(probe, "periodSeconds", 10);
    set_nonzero(probe, "successThreshold", 1);
    set_nonzero(probe, "failureThreshold", 3);
    if let Some(get) = at(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = at(probe, "grpc") {
        set(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    set_text(get, "path", "/");
    set_text(get, "scheme", "HTTP");
}

/// What is limited but not requested is requested up to the limit.
fn requests_from_limits(container: &mut Value) {
    let resources = child(container, "resources");
    let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let requests = child(resources, "requests");
    for (name, limit) in limits {
        set(requests, &name, limit);
    }
}

/// The mode of files in volumes of files.
const DEFAULT_MODE: i64 = 0o644;

fn volume(volume: &mut Value) {
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = at(volume, source) {
            set(source, "defaultMode", DEFAULT_MODE);
            field_versions(source);
            for projection in items(source, "sources") {
                if let Some(token) = at(projection, "serviceAccountToken") {
                    set(token, "expirationSeconds", 3600);
                }
                if let Some(api) = at(projection, "downwardAPI") {
                    field_versions(api);
                }
            }
        }
    }
    if let Some(path) = at(volume, "hostPath") {
        set(path, "type", "");
    }
    if let Some(iscsi) = at(volume, "iscsi") {
        set_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(template) = at(volume, "ephemeral").and_then(|e| at(e, "volumeClaimTemplate")) {
        super::core::claim_spec(child(template, "spec"));
    }
    // A volume that names no source is an empty directory.
    if volume.as_object().is_some_and(|map| map.keys().all(|key| key == "name")) {
        volume["emptyDir"] = json!({});
    }
}

fn field_versions(source: &mut Value) {
    for item in items(source, "items") {
        if let Some(field) = at(item, "fieldRef") {
            set_text(field, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_gets_what_upstream_gives() {
        let mut object = json!({"spec": {"containers": [{"name": "c", "image": "nginx", "resources": {}}]}});
        pod(&mut object);
        assert_eq!(
            object,
            json!({"spec": {
                "containers": [{
                    "name": "c", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            }})
        );
        let once = object.clone();
        pod(&mut object);
        assert_eq!(object, once, "defaulting twice changes nothing");
    }

    #[test]
    fn pull_policies_follow_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn the_parts_of_a_container_get_theirs() {
        let mut object = json!({"spec": {
            "hostNetwork": true, "serviceAccount": "sa",
            "containers": [{
                "name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
            }],
            "volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "e"}, {"name": "h", "hostPath": {"path": "/"}}],
        }});
        pod(&mut object);
        let spec = &object["spec"];
        let container = &spec["containers"][0];
        assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
        assert_eq!(container["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(
            container["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 5, "timeoutSeconds": 1,
                   "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][1], json!({"name": "e", "emptyDir": {}}));
        assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
        assert_eq!(spec["serviceAccountName"], "sa");
    }
}
