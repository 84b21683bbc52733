//! Core kinds besides pods and Services, EndpointSlices, Leases.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{IMMUTABLE, each, join, label_selector, list, one_of, quantity, report, required, text, unchanged};
use crate::field::FieldErrors;
use crate::names::{check_cidr, check_config_key, check_dns_subdomain, check_ip, check_qualified_name};

/// The largest ConfigMap or Secret: etcd's limit with some room.
const MAX_DATA_SIZE_BYTES: usize = 1 << 20;

fn data_size(object: &Value, keys: &[&str], base64: bool) -> usize {
    let values = keys.iter().flat_map(|key| object[*key].as_object().into_iter().flatten());
    values.map(|(_, value)| value.as_str().map_or(0, str::len)).sum::<usize>() * if base64 { 3 } else { 4 } / 4
}

fn data_keys(object: &Value, key: &str, errors: &mut FieldErrors) {
    for (name, _) in object[key].as_object().into_iter().flatten() {
        report(check_config_key(name), &format!("{key}[{name}]"), name, errors);
    }
}

/// A ConfigMap.
pub fn config_map(object: &Value, errors: &mut FieldErrors) {
    for key in ["data", "binaryData"] {
        data_keys(object, key, errors);
    }
    for (name, _) in object["binaryData"].as_object().into_iter().flatten() {
        if !object["data"][name.as_str()].is_null() {
            errors.invalid(&format!("binaryData[{name}]"), name.as_str(), "duplicate of key present in data");
        }
    }
    if data_size(object, &["data"], false) + data_size(object, &["binaryData"], true) > MAX_DATA_SIZE_BYTES {
        errors.too_long("", MAX_DATA_SIZE_BYTES);
    }
}

fn immutable_update(new: &Value, old: &Value, keys: &[&str], errors: &mut FieldErrors) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for key in keys {
        if new[*key] != old[*key] {
            errors.forbidden(key, "field is immutable when `immutable` is set");
        }
    }
}

/// A ConfigMap that says it is immutable is.
pub fn config_map_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    immutable_update(new, old, &["data", "binaryData"], errors);
}

/// What the data of typed Secrets must hold.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

/// A Secret.
pub fn secret(object: &Value, errors: &mut FieldErrors) {
    data_keys(object, "data", errors);
    if data_size(object, &["data"], true) > MAX_DATA_SIZE_BYTES {
        errors.too_long("data", MAX_DATA_SIZE_BYTES);
    }
    let kind = text(object, "type");
    for key in SECRET_KEYS.iter().filter(|(of, _)| *of == kind).flat_map(|(_, keys)| *keys) {
        if object["data"][*key].is_null() {
            errors.required(&format!("data[{key}]"), "");
        }
    }
    if kind == "kubernetes.io/basic-auth"
        && object["data"]["username"].is_null()
        && object["data"]["password"].is_null()
    {
        errors.required("data[username]", "");
        errors.required("data[password]", "");
    }
    let account = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
    if kind == "kubernetes.io/service-account-token" && account.as_str().unwrap_or_default().is_empty() {
        errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
    }
}

/// A Secret keeps its type, and its data if it says it is immutable.
pub fn secret_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    unchanged(new, old, "", "type", errors);
    immutable_update(new, old, &["data"], errors);
}

/// A Node.
pub fn node(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let mut taints = BTreeSet::new();
    for (path, taint) in each(spec, "spec", "taints") {
        let key = text(taint, "key");
        report(check_qualified_name(key), &join(&path, "key"), key, errors);
        if text(taint, "effect").is_empty() {
            errors.required(&join(&path, "effect"), "");
        }
        one_of(taint, &path, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
        if !taints.insert((key, text(taint, "effect"))) {
            errors.duplicate(&path, taint.clone());
        }
    }
    for (i, cidr) in list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        report(check_cidr(cidr), &format!("spec.podCIDRs[{i}]"), cidr, errors);
    }
}

/// A node's pod addresses and provider stay once set.
pub fn node_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    if !list(was, "podCIDRs").is_empty() && spec["podCIDRs"] != was["podCIDRs"] {
        errors.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    if !text(was, "providerID").is_empty() && spec["providerID"] != was["providerID"] {
        errors.forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
    }
}

/// Endpoints.
pub fn endpoints(object: &Value, errors: &mut FieldErrors) {
    for (path, subset) in each(object, "", "subsets") {
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (path, address) in each(subset, &path, key) {
                report(check_ip(text(address, "ip")), &join(&path, "ip"), text(address, "ip"), errors);
            }
        }
        for (path, port) in each(subset, &path, "ports") {
            if list(subset, "ports").len() > 1 && text(port, "name").is_empty() {
                errors.required(&join(&path, "name"), "");
            }
            super::container::port_reference(&port["port"], &join(&path, "port"), errors);
            one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        }
    }
}

/// An EndpointSlice.
pub fn endpoint_slice(object: &Value, errors: &mut FieldErrors) {
    match text(object, "addressType") {
        "" => errors.required("addressType", ""),
        _ => one_of(object, "", "addressType", &["FQDN", "IPv4", "IPv6"], errors),
    }
    if list(object, "endpoints").len() > 1000 {
        errors.0.push(crate::FieldError {
            field: "endpoints".into(),
            kind: crate::FieldErrorKind::TooMany,
            value: Value::Null,
            detail: "must have at most 1000 items".into(),
        });
    }
    for (path, endpoint) in each(object, "", "endpoints") {
        if list(endpoint, "addresses").is_empty() {
            errors.required(&join(&path, "addresses"), "must contain at least 1 address");
        }
        for (i, address) in list(endpoint, "addresses").iter().filter_map(Value::as_str).enumerate() {
            let check = if text(object, "addressType") == "FQDN" { check_dns_subdomain } else { check_ip };
            report(check(address), &format!("{path}.addresses[{i}]"), address, errors);
        }
    }
    let mut names = BTreeSet::new();
    for (path, port) in each(object, "", "ports") {
        if !names.insert(text(port, "name")) {
            errors.duplicate(&join(&path, "name"), text(port, "name"));
        }
        one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

/// A slice keeps its address type.
pub fn endpoint_slice_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    unchanged(new, old, "", "addressType", errors);
}

/// An Event lives in the namespace of what it is about.
pub fn event(object: &Value, errors: &mut FieldErrors) {
    let about = text(&object["involvedObject"], "namespace");
    let namespace = text(&object["metadata"], "namespace");
    // Events about cluster objects go to the default namespace.
    let fits = if about.is_empty() { matches!(namespace, "" | "default") } else { about == namespace };
    if !fits {
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
}

/// A Lease.
pub fn lease(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|seconds| *seconds <= 0) {
        errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0");
    }
    if let Some(count) = spec["leaseTransitions"].as_i64().filter(|count| *count < 0) {
        errors.invalid("spec.leaseTransitions", count, "must be greater than or equal to 0");
    }
    if spec["holderIdentity"] == "" {
        errors.invalid("spec.holderIdentity", "", "must not be empty");
    }
}

/// A ResourceQuota.
pub fn resource_quota(object: &Value, errors: &mut FieldErrors) {
    for (name, amount) in object["spec"]["hard"].as_object().into_iter().flatten() {
        report(check_qualified_name(name), "spec.hard", name, errors);
        if quantity(amount).is_negative() {
            errors.invalid(&format!("spec.hard[{name}]"), amount.clone(), "must be greater than or equal to 0");
        }
    }
}

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &Value, errors: &mut FieldErrors) {
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        errors.required("spec.accessModes", "at least 1 access mode is required");
    }
    for mode in modes.iter().filter_map(Value::as_str).filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.not_supported("spec.accessModes", mode, &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes");
    }
}

fn storage(amount: &Value, path: &str, errors: &mut FieldErrors) {
    if amount.is_null() {
        errors.required(path, "");
    } else if quantity(amount) <= crate::quantity::Quantity::ZERO {
        errors.invalid(path, amount.clone(), "must be greater than zero");
    }
}

/// A PersistentVolumeClaim.
pub fn persistent_volume_claim(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    if spec["selector"].is_object() {
        label_selector(&spec["selector"], "spec.selector", errors);
    }
    access_modes(spec, errors);
    storage(&spec["resources"]["requests"]["storage"], "spec.resources[storage]", errors);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        report(check_dns_subdomain(class), "spec.storageClassName", class, errors);
    }
    one_of(spec, "spec", "volumeMode", &["Block", "Filesystem"], errors);
}

/// Of a bound claim's spec, only the request may grow; a class may be given where there was none.
pub fn persistent_volume_claim_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            for key in ["resources", "volumeAttributesClassName"] {
                map.remove(key);
            }
            // The binder and the default class fill these in.
            for (key, was) in [("volumeName", &was["volumeName"]), ("storageClassName", &was["storageClassName"])] {
                if was.is_null() || was == "" {
                    map.remove(key);
                }
            }
        }
        spec
    };
    if fixed(spec) != fixed(was) {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
        return;
    }
    let amount = |spec: &Value| quantity(&spec["resources"]["requests"]["storage"]);
    if amount(spec) < amount(was) {
        errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    } else if amount(spec) > amount(was) && text(&old["status"], "phase") != "Bound" {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
}

/// The sources that a PersistentVolume can have.
const VOLUME_SOURCES: [&str; 12] = [
    "hostPath",
    "local",
    "nfs",
    "csi",
    "iscsi",
    "fc",
    "rbd",
    "cephfs",
    "awsElasticBlockStore",
    "gcePersistentDisk",
    "azureDisk",
    "azureFile",
];

/// A PersistentVolume.
pub fn persistent_volume(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    access_modes(spec, errors);
    if spec["capacity"].as_object().is_none_or(serde_json::Map::is_empty) {
        errors.required("spec.capacity", "");
    } else {
        storage(&spec["capacity"]["storage"], "spec.capacity[storage]", errors);
    }
    let reclaim = ["Delete", "Recycle", "Retain"];
    one_of(spec, "spec", "persistentVolumeReclaimPolicy", &reclaim, errors);
    one_of(spec, "spec", "volumeMode", &["Block", "Filesystem"], errors);
    match VOLUME_SOURCES.iter().filter(|source| spec[**source].is_object()).count() {
        0 => errors.required("spec", "must specify a volume type"),
        1 => {}
        _ => errors.forbidden("spec", "may not specify more than 1 volume type"),
    }
    if spec["hostPath"].is_object() {
        required(&spec["hostPath"], "spec.hostPath", "path", errors);
    }
    if spec["local"].is_object() && spec["nodeAffinity"].is_null() {
        errors.required("spec.nodeAffinity", "Local volume requires node affinity");
    }
}

/// A PersistentVolume stays where it is.
pub fn persistent_volume_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    for source in VOLUME_SOURCES {
        if spec[source] != was[source] {
            errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
            break;
        }
    }
    unchanged(spec, was, "spec", "volumeMode", errors);
    if !was["nodeAffinity"].is_null() && spec["nodeAffinity"] != was["nodeAffinity"] {
        errors.invalid("spec.nodeAffinity", spec["nodeAffinity"].clone(), IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::errors_of;

    fn updated(update: fn(&Value, &Value, &str, &mut FieldErrors), new: &Value, old: &Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        update(new, old, "", &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_and_sizes_of_data_are_checked() {
        assert_eq!(errors_of(config_map, &json!({"data": {"a.b-c_D": "x"}})), Vec::<String>::new());
        assert!(
            errors_of(config_map, &json!({"data": {"a/b": "x"}}))[0]
                .starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must")
        );
        let big = "x".repeat(MAX_DATA_SIZE_BYTES + 1);
        assert!(
            errors_of(config_map, &json!({"data": {"a": big}}))[0]
                .contains("Too long: may not be more than 1048576 bytes")
        );
        assert_eq!(
            errors_of(secret, &json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
            ["data[tls.key]: Required value"]
        );
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}, "type": "Opaque"});
        let new = json!({"immutable": true, "data": {"a": "2"}, "type": "Opaque"});
        assert_eq!(
            updated(config_map_update, &new, &old),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
        assert_eq!(
            updated(secret_update, &json!({"type": "x"}), &json!({"type": "y"})),
            ["type: Invalid value: \"x\": field is immutable"]
        );
    }

    #[test]
    fn claims_need_a_mode_and_a_size_and_only_grow() {
        let claim = |size: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": "v"},
                   "status": {"phase": "Bound"}})
        };
        assert_eq!(errors_of(persistent_volume_claim, &claim("1Gi")), Vec::<String>::new());
        assert_eq!(
            errors_of(persistent_volume_claim, &json!({"spec": {}})),
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value"
            ]
        );
        assert_eq!(updated(persistent_volume_claim_update, &claim("2Gi"), &claim("1Gi")), Vec::<String>::new());
        assert_eq!(
            updated(persistent_volume_claim_update, &claim("1Gi"), &claim("2Gi")),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        let mut moved = claim("1Gi");
        moved["spec"]["volumeName"] = "other".into();
        assert!(
            updated(persistent_volume_claim_update, &moved, &claim("1Gi"))[0]
                .starts_with("spec: Forbidden: spec is immutable")
        );
    }
}
