//! ConfigMaps, Secrets, Nodes, Endpoints and their slices, Events, Leases.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{check_config_key, check_domain, check_ip, check_qualified_name, check_special_ip};

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
    for (name, _) in object["data"].as_object().into_iter().flatten() {
        if !object["binaryData"][name.as_str()].is_null() {
            errors.invalid(&format!("data[{name}]"), name.as_str(), "duplicate of key present in binaryData");
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

/// Why base64 text is not that of a JSON object, in the words of Go's decoder.
fn not_a_json_object(base64: &str) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default();
    let kind = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Err(why) if why.is_eof() => return Some("unexpected end of JSON input".into()),
        Err(why) => {
            let line = bytes.split(|byte| *byte == b'\n').nth(why.line().saturating_sub(1)).unwrap_or_default();
            let at = line.get(why.column().saturating_sub(1)).copied().unwrap_or_default();
            return Some(format!("invalid character {:?} looking for beginning of value", char::from(at)));
        }
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

/// A Secret.
pub fn secret(object: &Value, errors: &mut FieldErrors) {
    data_keys(object, "data", errors);
    if data_size(object, &["data"], true) > MAX_DATA_SIZE_BYTES {
        errors.too_long("data", MAX_DATA_SIZE_BYTES);
    }
    let kind = text(object, "type");
    for key in SECRET_KEYS.iter().filter(|(of, _)| *of == kind).flat_map(|(_, keys)| *keys) {
        let value = &object["data"][*key];
        if value.is_null() || value == "" && kind == "kubernetes.io/ssh-auth" {
            errors.required(&format!("data[{key}]"), "");
        }
    }
    for key in [".dockercfg", ".dockerconfigjson"].iter().filter(|_| kind.starts_with("kubernetes.io/dockerc")) {
        if let Some(why) = object["data"][*key].as_str().and_then(not_a_json_object) {
            errors.invalid(&format!("data[{key}]"), "<secret contents redacted>", why);
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

/// A Secret that says it is immutable is.
pub fn secret_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    immutable_update(new, old, &["data"], errors);
}

/// A Namespace: who must have finished before it goes.
pub fn namespace(object: &Value, errors: &mut FieldErrors) {
    for finalizer in list(&object["spec"], "finalizers").iter().filter_map(Value::as_str) {
        report(check_qualified_name(finalizer), "spec.finalizers", finalizer, errors);
        crate::meta::validate_standard_finalizer(finalizer, "spec.finalizers", errors);
    }
}

/// A namespace's phase follows from whether it is being deleted.
pub fn namespace_update(new: &Value, _: &Value, subresource: &str, errors: &mut FieldErrors) {
    let phase = text(&new["status"], "phase");
    let (right, is) =
        if new["metadata"]["deletionTimestamp"].is_null() { ("Active", "") } else { ("Terminating", "not ") };
    if subresource == "status" && phase != right {
        let why = format!("may only be '{right}' if `deletionTimestamp` is {is}empty");
        errors.invalid("status.Phase", phase, why);
    }
}

/// A Node.
pub fn node(object: &Value, errors: &mut FieldErrors) {
    let mut taints = BTreeSet::new();
    for (path, taint) in each(&object["spec"], "metadata", "taints") {
        crate::rules::check_type("core.v1.Taint", taint, &path, errors);
        if !taints.insert((text(taint, "key"), text(taint, "effect"))) {
            errors.duplicate_by(&path, taint.clone(), "taints must be unique by key and effect pair");
        }
    }
    let networks = list(&object["spec"], "podCIDRs");
    let six = |network: &Value| network.as_str().is_some_and(|text| text.contains(':'));
    if networks.len() > 2 || networks.len() == 2 && six(&networks[0]) == six(&networks[1]) {
        let why = "may specify no more than one CIDR for each IP family";
        errors.invalid("spec.podCIDRs", object["spec"]["podCIDRs"].clone(), why);
    }
    for of in ["capacity", "allocatable"] {
        for (name, value) in object["status"][of].as_object().into_iter().flatten() {
            super::resources::amount(name, value, &format!("status.{of}.{name}"), errors);
        }
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

/// An address that others reach. A cluster in one process has servers behind its loopback, which upstream refuses.
fn check_endpoint_ip(text: &str) -> crate::names::Problems {
    let loopback = text.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback { Vec::new() } else { check_special_ip(text) }
}

/// Endpoints.
pub fn endpoints(object: &Value, errors: &mut FieldErrors) {
    for (path, subset) in each(object, "", "subsets") {
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (path, address) in each(subset, &path, key) {
                report(check_endpoint_ip(text(address, "ip")), &join(&path, "ip"), text(address, "ip"), errors);
            }
        }
        for (path, port) in each(subset, &path, "ports") {
            if list(subset, "ports").len() > 1 && text(port, "name").is_empty() {
                errors.required(&join(&path, "name"), "");
            }
        }
    }
}

/// An EndpointSlice.
pub fn endpoint_slice(object: &Value, errors: &mut FieldErrors) {
    let kind = text(object, "addressType");
    for (path, endpoint) in each(object, "", "endpoints") {
        for (i, address) in list(endpoint, "addresses").iter().filter_map(Value::as_str).enumerate() {
            let path = format!("{path}.addresses[{i}]");
            let six = address.parse::<std::net::IpAddr>().map(|ip| ip.is_ipv6());
            match (kind, six) {
                ("FQDN", _) if address.is_empty() => errors.required(&path, ""),
                ("FQDN", _) => {
                    report(check_domain(address.strip_suffix('.').unwrap_or(address), 2), &path, address, errors);
                }
                (_, Err(_)) => report(check_ip(address), &path, address, errors),
                ("IPv4", Ok(true)) => errors.invalid(&path, address, "must be an IPv4 address"),
                ("IPv6", Ok(false)) => errors.invalid(&path, address, "must be an IPv6 address"),
                _ => report(check_endpoint_ip(address), &path, address, errors),
            }
        }
    }
}

/// An Event of `v1`.
pub fn event(object: &Value, errors: &mut FieldErrors) {
    any_event(object, "involvedObject", "message", "reportingComponent", errors);
}

/// The same, as `events.k8s.io` names it.
pub fn event_regarding(object: &Value, errors: &mut FieldErrors) {
    any_event(object, "regarding", "note", "reportingController", errors);
}

/// An event lives in the namespace of what it is about. One with a time says all that it should.
fn any_event(object: &Value, about: &str, note: &str, reporter: &str, errors: &mut FieldErrors) {
    let (about, namespace) = (text(&object[about], "namespace"), text(&object["metadata"], "namespace"));
    let modern = !object["eventTime"].is_null();
    // Events about cluster objects go to the default namespace, or the system's.
    let fits = match (about, modern) {
        ("", _) => matches!(namespace, "" | "default") || modern && namespace == "kube-system",
        (_, true) => true,
        (about, false) => about == namespace,
    };
    if !fits {
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
    if !modern {
        return;
    }
    let controller = text(object, reporter);
    if controller.is_empty() {
        errors.required(reporter, "");
    }
    report(check_qualified_name(controller), reporter, controller, errors);
    for (key, shown, most) in [
        ("reportingInstance", "reportingInstance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
        (note, "message", 1024),
    ] {
        match text(object, key).len() {
            0 if key != note => errors.required(shown, ""),
            count if count > most => errors.invalid(shown, "", format!("can have at most {most} characters")),
            _ => {}
        }
    }
}

fn series(object: &Value, errors: &mut FieldErrors) {
    let series = &object["series"];
    if series.is_object() && series["count"].as_i64() < Some(2) {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if series.is_object() && series["lastObservedTime"].is_null() {
        errors.required("series.lastObservedTime", "");
    }
}

/// A new event of `events.k8s.io` has a time; one that an old client made may still be updated.
pub fn event_v1(object: &Value, errors: &mut FieldErrors) {
    series(object, errors);
    if object["eventTime"].is_null() {
        errors.required("eventTime", "");
    }
    if !matches!(text(object, "type"), "Normal" | "Warning") {
        errors.invalid("type", "", format!("has invalid value: {}", text(object, "type")));
    }
    let source = &object["deprecatedSource"];
    for (given, shown) in [
        (!object["deprecatedFirstTimestamp"].is_null(), "firstTimestamp"),
        (!object["deprecatedLastTimestamp"].is_null(), "lastTimestamp"),
        (object["deprecatedCount"].as_i64().is_some_and(|count| count != 0), "count"),
        (!text(source, "component").is_empty() || !text(source, "host").is_empty(), "source"),
    ] {
        if given {
            errors.invalid(shown, "", "needs to be unset");
        }
    }
}

/// Of an event only its series grows.
pub fn event_update(new: &Value, old: &Value, _subresource: &str, errors: &mut FieldErrors) {
    if new["series"] != old["series"] {
        series(new, errors);
    }
}

/// A Lease.
pub fn lease(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    // One of Kubernetes' own has no domain.
    match text(spec, "strategy") {
        "" | "OldestEmulationVersion" => {}
        name if name.contains('/') => report(check_qualified_name(name), "spec.strategy.strategy", name, errors),
        other => errors.not_supported("spec.strategy.strategy", other, &["OldestEmulationVersion"]),
    }
    if !text(spec, "preferredHolder").is_empty() && text(spec, "strategy").is_empty() {
        errors.forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::{told, updated};

    #[test]
    fn data_has_a_size() {
        let big = "x".repeat(MAX_DATA_SIZE_BYTES + 1);
        let told = told("core.v1.ConfigMap", &json!({"data": {"a": big}}));
        assert_eq!(told, [": Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}, "type": "Opaque"});
        let new = json!({"immutable": true, "data": {"a": "2"}, "type": "Opaque"});
        assert_eq!(
            updated(config_map_update, &new, &old),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
    }
}
