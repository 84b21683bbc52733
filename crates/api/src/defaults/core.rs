//! Core kinds besides pods, and the discovery of endpoints.

use serde_json::Value;

use super::{child, items, set, set_text};

/// A Service. Cluster IPs and IP families are the API server's allocation to decide.
pub fn service(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    } else if let Some(map) = spec.as_object_mut() {
        map.remove("sessionAffinityConfig");
    }
    set_text(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        set_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        if target.is_none_or(|target| target == 0 || target == "") {
            port["targetPort"] = port["port"].clone();
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// A Namespace: its name as a label.
pub fn namespace(object: &mut Value) {
    if let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) {
        child(child(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
    }
}

/// A Secret: `Opaque`; `stringData` is written into `data`.
pub fn secret(object: &mut Value) {
    use base64::Engine as _;
    if let Some(Value::Object(texts)) = object.as_object_mut().and_then(|map| map.remove("stringData")) {
        let data = child(object, "data");
        for (key, text) in texts {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data[key] = encoded.into();
        }
    }
    set_text(object, "type", "Opaque");
}

/// A PersistentVolumeClaim: a filesystem.
pub fn persistent_volume_claim(object: &mut Value) {
    claim_spec(child(object, "spec"));
}

pub(super) fn claim_spec(spec: &mut Value) {
    set(spec, "volumeMode", "Filesystem");
    // The two ways to name a source say the same when the old one is used.
    if let Some(source) = spec.get("dataSource").cloned().filter(Value::is_object) {
        set(spec, "dataSourceRef", source);
    }
}

/// A PersistentVolume: retained, a filesystem.
pub fn persistent_volume(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    if let Some(path) = super::at(spec, "hostPath") {
        set(path, "type", "");
    }
}

/// Endpoints: TCP.
pub fn endpoints(object: &mut Value) {
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            set_text(port, "protocol", "TCP");
        }
    }
}

/// An EndpointSlice: nameless TCP ports.
pub fn endpoint_slice(object: &mut Value) {
    for port in items(object, "ports") {
        set(port, "name", "");
        set(port, "protocol", "TCP");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_get_what_upstream_gives() {
        let mut object = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
        service(&mut object);
        assert_eq!(
            object["spec"],
            json!({
                "type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "allocateLoadBalancerNodePorts": true,
            })
        );
        let mut object = json!({"spec": {"sessionAffinity": "ClientIP", "ports": [{"port": 80, "targetPort": "web"}]}});
        service(&mut object);
        assert_eq!(object["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
        assert_eq!(object["spec"]["ports"][0]["targetPort"], "web");
    }

    #[test]
    fn a_secrets_texts_become_data() {
        let mut object = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        secret(&mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    }

    #[test]
    fn a_namespace_carries_its_name_as_a_label() {
        let mut object = json!({"metadata": {"name": "n"}});
        namespace(&mut object);
        assert_eq!(object["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    }
}
