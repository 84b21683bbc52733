//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{child, items, set, set_nonzero, set_text};
use crate::quantity::Quantity;

/// A Pod: requests that follow from limits, and host ports; templates do not get these.
pub(super) fn pod(object: &mut Value) {
    let spec = child(object, "spec");
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_requests(spec);
    if spec["hostNetwork"] == true {
        for list in ["containers", "initContainers"] {
            items(spec, list).for_each(host_ports);
        }
    }
}

/// What a pod as a whole is limited to it requests, unless its containers request less.
fn pod_requests(spec: &mut Value) {
    let limits = spec["resources"]["limits"].as_object().cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let empty = Vec::new();
    let containers = spec["containers"].as_array().unwrap_or(&empty);
    let of = |container: &Value, name: &str| container["resources"]["requests"].get(name).cloned();
    let names: BTreeSet<&String> =
        containers.iter().filter_map(|c| c["resources"]["requests"].as_object()).flat_map(|map| map.keys()).collect();
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let sums: Vec<(String, Value)> = names
        .into_iter()
        .filter(|name| supported(name))
        .map(|name| {
            let amounts = containers.iter().filter_map(|c| of(c, name));
            let sum: Quantity = amounts.filter_map(|amount| Quantity::from_json(&amount).ok()).sum();
            (name.clone(), sum.to_string().into())
        })
        .collect();
    let requests = child(&mut spec["resources"], "requests");
    for (name, amount) in sums.into_iter().chain(limits.into_iter().filter(|(name, _)| supported(name))) {
        set(requests, &name, amount);
    }
}

/// A pod spec: the old name `serviceAccount` and the new one always say the same.
pub(super) fn pod_spec(spec: &mut Value) {
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

/// A container's image is pulled as its tag suggests.
pub(super) fn container(container: &mut Value) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    set_text(container, "imagePullPolicy", policy);
}

/// A volume's image is pulled as a container's.
pub(super) fn image_volume(source: &mut Value) {
    let policy = pull_policy(source["reference"].as_str().unwrap_or_default());
    set_text(source, "pullPolicy", policy);
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

/// A volume that names no source is an empty directory.
pub(super) fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|map| map.keys().all(|key| key == "name")) {
        volume["emptyDir"] = json!({});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
