//! Core kinds besides pods.

use serde_json::Value;

use super::{child, items, set, set_text};

/// A Service. Cluster IPs and IP families are the API server's allocation to decide.
pub(super) fn service(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "sessionAffinity", "None");
    set_text(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        set(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    } else if let Some(map) = spec.as_object_mut() {
        map.remove("sessionAffinityConfig");
    }
    for port in items(spec, "ports") {
        let target = port.get("targetPort");
        if target.is_none_or(|target| target.is_null() || target == 0 || target == "") {
            port["targetPort"] = port["port"].clone();
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    let outside = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && outside {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
        let balancer = object.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
        for ingress in balancer.into_iter().flat_map(|balancer| items(balancer, "ingress")) {
            if ingress["ip"].as_str().is_some_and(|ip| !ip.is_empty()) {
                set(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// A Namespace: its name as a label.
pub(super) fn namespace(object: &mut Value) {
    if let Some(name) = object["metadata"]["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned) {
        child(child(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
    }
}

/// A Secret: `stringData` is written into `data`.
pub(super) fn secret(object: &mut Value) {
    use base64::Engine as _;
    if let Some(Value::Object(texts)) = object.as_object_mut().and_then(|map| map.remove("stringData")) {
        let data = child(object, "data");
        for (key, text) in texts {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data[key] = encoded.into();
        }
    }
}

/// What a node has is what pods may have, unless its kubelet says otherwise.
pub(super) fn node_status(status: &mut Value) {
    if let Some(capacity) = status.get("capacity").cloned().filter(Value::is_object) {
        set(status, "allocatable", capacity);
    }
}

/// A claim: the two ways to name a source say the same when one is used.
pub(super) fn claim_spec(spec: &mut Value) {
    let of = |key: &str| spec.get(key).cloned().filter(Value::is_object);
    match (of("dataSource"), of("dataSourceRef")) {
        (Some(source), None) => spec["dataSourceRef"] = source,
        (None, Some(reference)) if reference["namespace"].as_str().unwrap_or_default().is_empty() => {
            // Other kinds than claims and snapshots exist in the newer field only.
            let group = reference["apiGroup"].as_str().unwrap_or_default();
            let known = [("", "PersistentVolumeClaim"), ("snapshot.storage.k8s.io", "VolumeSnapshot")];
            if known.iter().any(|(g, kind)| *g == group && reference["kind"] == *kind) {
                spec["dataSource"] = reference;
            }
        }
        _ => {}
    }
}

/// A container's default limit is the most there may be, its default request that limit, or else the least.
pub(super) fn limit_range_item(item: &mut Value) {
    if item["type"] != "Container" {
        return;
    }
    for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        for (name, amount) in item[from].as_object().cloned().into_iter().flatten() {
            set(child(item, to), &name, amount);
        }
    }
}
