//! Devices: what claims ask for and what slices offer (`resource.k8s.io`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, quantity, report, text};
use crate::field::FieldErrors;
use crate::names::{check_device_name, check_dns_label};
use crate::quantity::Quantity;

/// The devices, counters and devices with taints or counters that a slice may hold.
const MAX_DEVICES: usize = 128;
const MAX_COMPLEX_DEVICES: usize = 64;
/// The longest JSON that is a driver's own.
const MAX_OPAQUE_BYTES: usize = 10 << 10;

/// A request is for devices of one kind, or for the first of several that can be had.
pub(super) fn request(request: &Value, path: &str, errors: &mut FieldErrors) {
    let why = "exactly one of `exactly` or `firstAvailable` is required";
    match (request["exactly"].is_object(), list(request, "firstAvailable").is_empty()) {
        (false, true) => errors.required(path, why),
        (true, false) => errors.invalid(path, Value::Null, format!("{why}, but multiple fields are set")),
        _ => {}
    }
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
    if constraint["matchAttribute"].is_null() && constraint["distinctAttribute"].is_null() {
        let why = r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#;
        errors.required(path, why);
    }
}

/// The names of a claim's requests, and of their alternatives.
fn request_names(claim: &Value) -> BTreeSet<String> {
    let of = |request: &Value| {
        let name = text(request, "name").to_owned();
        let alternatives = list(request, "firstAvailable").iter();
        let below: Vec<String> = alternatives.map(|other| format!("{name}/{}", text(other, "name"))).collect();
        std::iter::once(name).chain(below)
    };
    list(claim, "requests").iter().flat_map(of).collect()
}

fn request_name(name: &str, names: &BTreeSet<String>, path: &str, errors: &mut FieldErrors) {
    if name.matches('/').count() < 2 {
        report(name.split('/').flat_map(check_dns_label).collect(), path, name, errors);
    }
    if !names.contains(name) {
        let why =
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.invalid(path, name, why);
    }
}

fn names_of(items: &Value, path: &str, key: &str, names: &BTreeSet<String>, errors: &mut FieldErrors) {
    for (path, item) in each(items, path, key) {
        for (path, name) in each(item, &path, "requests") {
            request_name(name.as_str().unwrap_or_default(), names, &path, errors);
        }
    }
}

/// Constraints and configurations are for requests that there are.
pub(super) fn claim(claim: &Value, path: &str, errors: &mut FieldErrors) {
    let names = request_names(claim);
    for key in ["constraints", "config"] {
        names_of(claim, path, key, &names, errors);
    }
}

/// What only drivers understand is an object, and not too long.
fn opaque(data: &Value, path: &str, errors: &mut FieldErrors) {
    if data.to_string().len() > MAX_OPAQUE_BYTES {
        errors.too_long(path, MAX_OPAQUE_BYTES);
    } else if !data.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

/// A driver's parameters.
pub(super) fn parameters(config: &Value, path: &str, errors: &mut FieldErrors) {
    if !config["parameters"].is_null() {
        opaque(&config["parameters"], &join(path, "parameters"), errors);
    }
}

/// A class' devices may also be had as an extended resource.
pub(super) fn class(spec: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(name) = spec["extendedResourceName"].as_str().filter(|name| !super::resources::is_extended(name)) {
        errors.invalid(&join(path, "extendedResourceName"), name, "must be a valid extended resource name");
    }
}

/// A claim's status: what is reserved is allocated, and an allocation stays as it was made.
pub fn claim_status(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource != "status" {
        return;
    }
    let (status, was) = (&new["status"], &old["status"]);
    let (allocation, reserved) = (&status["allocation"], list(status, "reservedFor"));
    let id = |device: &Value| ["driver", "pool", "device", "shareID"].map(|key| text(device, key).to_owned());
    let shown = |device: &Value| id(device)[..].join("/").trim_end_matches('/').to_owned();
    let results = list(&allocation["devices"], "results");
    let mut seen = BTreeSet::new();
    for (path, device) in each(status, "status", "devices") {
        if !results.iter().any(|result| id(result) == id(device)) {
            errors.invalid(&path, shown(device), "must be an allocated device in the claim");
        }
        if !seen.insert(id(device)) {
            errors.duplicate(&path, shown(device));
        }
        if !device["data"].is_null() {
            opaque(&device["data"], &join(&path, "data"), errors);
        }
    }
    let grows = reserved.iter().any(|user| !list(was, "reservedFor").contains(user));
    if !reserved.is_empty() && allocation.is_null() {
        errors.forbidden("status.reservedFor", "may not be specified when `allocated` is not set");
    } else if grows && !new["metadata"]["deletionTimestamp"].is_null() {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden("status.reservedFor", why);
    }
    if allocation.is_null() {
        return;
    }
    if !was["allocation"].is_null() {
        if was["allocation"] != *allocation {
            errors.invalid("status.allocation", allocation.clone(), super::IMMUTABLE);
        }
        return;
    }
    let (names, path) = (request_names(&new["spec"]["devices"]), "status.allocation.devices");
    for (path, result) in each(&allocation["devices"], path, "results") {
        request_name(text(result, "request"), &names, &join(&path, "request"), errors);
    }
    names_of(&allocation["devices"], path, "config", &names, errors);
}

/// One of these fields says where something is; a flag is true or not there.
fn one_place(object: &Value, path: &str, keys: &[&str], empty: &str, why: [&str; 2], errors: &mut FieldErrors) {
    let mut given = Vec::new();
    for key in keys {
        match &object[*key] {
            Value::Null => {}
            Value::Bool(false) => errors.invalid(&join(path, key), false, "must be either unset or set to true"),
            Value::String(name) if name.is_empty() => errors.invalid(&join(path, key), "", empty),
            _ => given.push(format!("`{key}`")),
        }
    }
    match given.len() {
        0 => errors.required(path, why[0]),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", given.join(", ")), why.concat()),
    }
}

/// A slice's devices are on one node, on selected ones, on all, or each says where.
pub(super) fn slice(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let keys = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let why = [
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ", but multiple fields are set",
    ];
    one_place(spec, path, &keys, "must be either unset or set to a non-empty string", why, errors);
    let terms = &spec["nodeSelector"]["nodeSelectorTerms"];
    if spec["nodeSelector"].is_object() && terms.as_array().is_none_or(|terms| terms.len() != 1) {
        let why = "must have exactly one node selector term";
        errors.invalid(&join(path, "nodeSelector.nodeSelectorTerms"), terms.clone(), why);
    }
    let devices = list(spec, "devices");
    let complex = |device: &Value| !list(device, "taints").is_empty() || !list(device, "consumesCounters").is_empty();
    let most = if devices.iter().any(complex) { MAX_COMPLEX_DEVICES } else { MAX_DEVICES };
    if devices.len() > most {
        errors.too_many(&join(path, "devices"), devices.len(), most);
    }
    if !spec["devices"].is_null() && !spec["sharedCounters"].is_null() {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    for (path, device) in each(spec, path, "devices") {
        let keys = ["nodeName", "nodeSelector", "allNodes"];
        if spec["perDeviceNodeSelection"] != true {
            if keys.iter().any(|key| !device[*key].is_null()) {
                let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to \
                           true in the ResourceSlice spec";
                errors.invalid(&path, Value::Null, why);
            }
            continue;
        }
        let why = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is \
                   set to true in the ResourceSlice spec";
        one_place(device, &path, &keys, "must not be empty", [why, ""], errors);
    }
}

/// A device: how much there is of it, under which names.
pub(super) fn device(device: &Value, path: &str, errors: &mut FieldErrors) {
    let keys = |key: &str| device[key].as_object().into_iter().flatten();
    let total = keys("attributes").count() + keys("capacity").count();
    if total > 32 {
        errors.invalid(path, total, "the total number of attributes and capacities must not exceed 32");
    }
    for field in ["attributes", "capacity"] {
        for (name, _) in keys(field) {
            report(check_device_name(name), &format!("{path}.{field}[{name}]"), name, errors);
        }
    }
    let shared = device["allowMultipleAllocations"] == true;
    for (name, capacity) in keys("capacity").filter(|(_, capacity)| capacity["requestPolicy"].is_object()) {
        let path = format!("{path}.capacity[{name}].requestPolicy");
        if shared {
            request_policy(&quantity(&capacity["value"]), &capacity["requestPolicy"], &path, errors);
        } else {
            errors.forbidden(&path, "allowMultipleAllocations must be true");
        }
    }
}

/// How much of a device's capacity may be asked for at once: some values, or a range.
fn request_policy(most: &Quantity, policy: &Value, path: &str, errors: &mut FieldErrors) {
    let (values, range) = (list(policy, "validValues"), &policy["validRange"]);
    let key = match (values.is_empty(), range.is_object()) {
        (true, false) => return,
        (false, true) => {
            let why = r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#;
            return errors.forbidden(path, why);
        }
        (false, false) => "validValues",
        (true, true) => "validRange",
    };
    if policy["default"].is_null() {
        return errors.required(&join(path, "default"), format!("required when {key} is defined"));
    }
    let (path, default) = (join(path, key), quantity(&policy["default"]));
    if range.is_object() {
        return request_range(most, &default, range, &path, errors);
    }
    let amounts: Vec<Quantity> = values.iter().map(quantity).collect();
    for (i, amount) in amounts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if i > 0 && *amount < amounts[i - 1] {
            errors.invalid(&path, amount.to_string(), "values must be sorted in ascending order");
        }
        if amount > most {
            errors.invalid(&path, amount.to_string(), format!("option is larger than capacity value: {most}"));
        }
        if amounts[..i].iter().any(|earlier| earlier.to_value() == amount.to_value()) {
            errors.duplicate(&path, amount.to_value().to_string());
        }
    }
    if !amounts.contains(&default) {
        errors.invalid(&path, default.to_string(), "default value is not valid according to the requestPolicy");
    }
}

fn request_range(most: &Quantity, default: &Quantity, range: &Value, path: &str, errors: &mut FieldErrors) {
    if range["min"].is_null() {
        return errors.required(&join(path, "min"), "required when validRange is defined");
    }
    let of = |key: &str| (!range[key].is_null()).then(|| quantity(&range[key]));
    let min = quantity(&range["min"]);
    // What is too large, than what, in whose words; the value that is shown.
    let mut order = |less: &Quantity, more: &Quantity, key: &str, shown: &Quantity, why: String| {
        if less > more {
            errors.invalid(&join(path, key), shown.to_string(), why);
        }
    };
    order(&min, most, "min", &min, format!("min is larger than capacity value: {most}"));
    order(&min, default, "min", default, format!("default is less than min: {min}"));
    if let Some(max) = of("max") {
        order(&min, &max, "max", &min, format!("min is larger than max: {max}"));
        order(&max, most, "max", &max, format!("max is larger than capacity value: {most}"));
        order(default, &max, "max", default, format!("default is more than max: {max}"));
    }
    let Some(step) = of("step").filter(|step| step.to_value() != 0) else { return };
    let next = Quantity::from_value(min.to_value().saturating_add(step.to_value()));
    order(&next, most, "step", &step, format!("one step {next} is larger than capacity value: {most}"));
    for value in std::iter::once(*default).chain(of("max")) {
        if value.to_value().saturating_sub(min.to_value()) % step.to_value() != 0 {
            let why = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.invalid(&join(path, "step"), value.to_string(), why);
        }
    }
}

/// Conditions that a device waits for come with those that end the waiting.
pub(super) fn binding(device: &Value, path: &str, errors: &mut FieldErrors) {
    let [waits, fails] = ["bindingConditions", "bindingFailureConditions"].map(|key| list(device, key));
    for (path, condition) in
        each(device, path, "bindingFailureConditions").filter(|(_, failure)| waits.contains(failure))
    {
        errors.invalid(&path, condition.clone(), "bindingFailureConditions must not overlap with bindingConditions");
    }
    for (given, missing, key, other) in [
        (fails, waits, "bindingConditions", "bindingFailureConditions"),
        (waits, fails, "bindingFailureConditions", "bindingConditions"),
    ] {
        if missing.is_empty() && !given.is_empty() {
            errors.invalid(&join(path, key), device[key].clone(), format!("{key} are required to use {other}"));
        }
    }
}

/// Counters have names.
pub(super) fn counters(counters: &Value, path: &str, errors: &mut FieldErrors) {
    for (name, _) in counters["counters"].as_object().into_iter().flatten() {
        report(check_dns_label(name), &format!("{path}.counters[{name}]"), name, errors);
    }
}

/// An attribute has one value.
pub(super) fn attribute(attribute: &Value, path: &str, errors: &mut FieldErrors) {
    let why = "exactly one value must be specified";
    match attribute.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()).count() {
        0 => errors.invalid(path, "", why),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), why),
    }
}
