//! Devices: what claims ask for and what slices offer (`resource.k8s.io`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, text};
use crate::field::FieldErrors;

/// The devices, counters and devices with taints or counters that a slice may hold.
const MAX_DEVICES: usize = 128;
const MAX_COMPLEX_DEVICES: usize = 64;

fn exactly_one(object: &Value, path: &str, keys: &[&str], errors: &mut FieldErrors) {
    let names = || keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    match keys.iter().filter(|key| !matches!(object[**key], Value::Null | Value::Bool(false))).count() {
        0 => errors.required(path, format!("exactly one of {} is required", names())),
        1 => {}
        _ => errors.invalid(
            path,
            Value::Null,
            format!("exactly one of {} is required, but multiple fields are set", names()),
        ),
    }
}

/// A request is for devices of one kind, or for the first of several that can be had.
pub(super) fn request(request: &Value, path: &str, errors: &mut FieldErrors) {
    exactly_one(request, path, &["exactly", "firstAvailable"], errors);
}

/// How many: a number only if the mode is to count.
pub(super) fn count(request: &Value, path: &str, errors: &mut FieldErrors) {
    let count = request["count"].as_i64().unwrap_or_default();
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            errors.invalid(&join(path, "count"), count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => errors.invalid(&join(path, "count"), count, "must be greater than zero"),
        _ => {}
    }
}

/// A constraint says what its devices have in common, or not.
pub(super) fn constraint(constraint: &Value, path: &str, errors: &mut FieldErrors) {
    exactly_one(constraint, path, &["matchAttribute", "distinctAttribute"], errors);
}

/// Constraints and configurations are for requests that there are.
pub(super) fn claim(claim: &Value, path: &str, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for request in list(claim, "requests") {
        names.insert(text(request, "name").to_owned());
        for alternative in list(request, "firstAvailable") {
            names.insert(format!("{}/{}", text(request, "name"), text(alternative, "name")));
        }
    }
    for key in ["constraints", "config"] {
        for (path, item) in each(claim, path, key) {
            for (i, name) in list(item, "requests").iter().filter_map(Value::as_str).enumerate() {
                if !names.contains(name) {
                    let why = "must be the name of a request in the claim or the name of a request and a subrequest \
                               separated by '/'";
                    errors.invalid(&format!("{path}.requests[{i}]"), name, why);
                }
            }
        }
    }
}

/// A slice's devices are on one node, on selected ones, on all, or each says where.
pub(super) fn slice(spec: &Value, path: &str, errors: &mut FieldErrors) {
    exactly_one(spec, path, &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"], errors);
    let devices = list(spec, "devices");
    let complex = |device: &Value| !list(device, "taints").is_empty() || !list(device, "consumesCounters").is_empty();
    let most = if devices.iter().any(complex) { MAX_COMPLEX_DEVICES } else { MAX_DEVICES };
    if devices.len() > most {
        errors.too_many(&join(path, "devices"), devices.len(), most);
    }
    if !devices.is_empty() && !list(spec, "sharedCounters").is_empty() {
        let why = "only one of `sharedCounters` or `devices` is allowed";
        errors.invalid(path, Value::Null, why);
    }
    for (path, device) in each(spec, path, "devices") {
        let own = ["nodeName", "nodeSelector", "allNodes"];
        if spec["perDeviceNodeSelection"] == true {
            exactly_one(device, &path, &own, errors);
        }
        let total: usize =
            ["attributes", "capacity"].iter().filter_map(|key| device[*key].as_object()).map(|map| map.len()).sum();
        if total > 32 {
            errors.invalid(&path, total, "the total number of attributes and capacities must not exceed 32");
        }
    }
}

/// An attribute has one value.
pub(super) fn attribute(attribute: &Value, path: &str, errors: &mut FieldErrors) {
    let given = attribute.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()).count();
    match given {
        0 => errors.required(path, "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), "exactly one value must be specified"),
    }
}
