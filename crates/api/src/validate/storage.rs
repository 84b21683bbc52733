//! Volumes, claims on them, and their attachment to nodes.

use serde_json::Value;

use super::{join, list, quantity, text};
use crate::field::FieldErrors;
use crate::quantity::Quantity;

/// What nobody else may use at the same time goes with no other access mode.
fn access_modes(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let modes = list(spec, "accessModes");
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden(&join(path, "accessModes"), why);
    }
}

fn storage(amount: &Value, path: &str, errors: &mut FieldErrors) {
    if quantity(amount) <= Quantity::ZERO {
        errors.invalid(path, amount.clone(), "must be greater than zero");
    }
}

/// A claim's spec, of its own or in a pod's ephemeral volume.
pub(super) fn claim_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    access_modes(spec, path, errors);
    let asked = &spec["resources"]["requests"]["storage"];
    let resources = join(path, "resources[storage]");
    if asked.is_null() {
        errors.required(&resources, "");
    } else {
        storage(asked, &resources, errors);
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (key, from) in [("dataSource", source), ("dataSourceRef", reference)] {
        if !from.is_object() {
            continue;
        }
        let path = join(path, key);
        for key in ["name", "kind"].iter().filter(|key| text(from, key).is_empty()) {
            errors.required(&join(&path, key), "");
        }
        if text(from, "apiGroup").is_empty() && text(from, "kind") != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&path, text(from, "kind"), why);
        }
    }
    let same = ["apiGroup", "kind", "name"].iter().all(|key| source[*key] == reference[*key]);
    match (source.is_object() && reference.is_object(), text(reference, "namespace")) {
        (true, "") if !same => errors.invalid(path, path, "must match dataSourceRef"),
        (true, "") | (false, _) => {}
        (true, _) => errors.invalid(path, path, "may not be specified when dataSourceRef.namespace is specified"),
    }
}

const BOUND_ONLY: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// Of a bound claim's spec, only the request may grow; a class may be given where there was none.
pub fn persistent_volume_claim_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    let bound = text(&new["status"], "phase") == "Bound";
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            map.remove("resources");
            if bound {
                map.remove("volumeAttributesClassName");
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
    let amount = |object: &Value, of: &str| quantity(object.pointer(of).unwrap_or(&Value::Null));
    let (asks, asked) = (amount(spec, "/resources/requests/storage"), amount(was, "/resources/requests/storage"));
    if fixed(spec) != fixed(was) || asks > asked && text(&old["status"], "phase") != "Bound" {
        errors.forbidden("spec", BOUND_ONLY);
    } else if asks < asked && asks <= amount(old, "/status/capacity/storage") {
        errors.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
    class_update(spec, was, errors);
    if spec["volumeAttributesClassName"] == "" && was["volumeAttributesClassName"].is_string() {
        let why = "update from non-nil value to an empty string is forbidden";
        errors.forbidden("spec.volumeAttributesClassName", why);
    }
}

/// The fields of a PersistentVolume's spec that are not its source.
const BESIDES_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn sources(spec: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = spec.as_object().into_iter().flatten();
    all.map(|(key, value)| (key.as_str(), value))
        .filter(|(key, value)| !value.is_null() && !BESIDES_SOURCE.contains(key))
}

/// A volume's spec, in a PersistentVolume or inline in an attachment.
pub(super) fn volume_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    access_modes(spec, path, errors);
    if path == "spec" {
        let capacity = join(path, "capacity");
        match spec["capacity"].as_object() {
            None => errors.required(&capacity, ""),
            Some(map) if map.is_empty() => errors.required(&capacity, ""),
            Some(map) => {
                if map.len() > 1 || !map.contains_key("storage") {
                    errors.not_supported(&capacity, spec["capacity"].clone(), &["storage"]);
                }
                for (name, amount) in map {
                    storage(amount, &format!("{capacity}[{name}]"), errors);
                }
            }
        }
        if spec["local"].is_object() && spec["nodeAffinity"].is_null() {
            errors.required(&join(path, "nodeAffinity"), "Local volume requires node affinity");
        }
        if text(&spec["hostPath"], "path") == "/" && text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
            let why = "may not be 'recycle' for a hostPath mount of '/'";
            errors.forbidden(&join(path, "persistentVolumeReclaimPolicy"), why);
        }
    } else {
        inline(spec, path, errors);
    }
    if spec["volumeAttributesClassName"] == "" {
        errors.required(&join(path, "volumeAttributesClassName"), "an empty string is disallowed");
    }
    if spec["volumeAttributesClassName"].is_string() && spec["csi"].is_null() {
        errors.required(&join(path, "csi"), "has to be specified when using volumeAttributesClassName");
    }
    let mut given = sources(spec).map(|(key, _)| key);
    if given.next().is_none() {
        errors.required(path, "must specify a volume type");
    }
    for extra in given {
        errors.forbidden(&join(path, extra), "may not specify more than 1 volume type");
    }
}

/// The volume of an attachment is a CSI volume and nothing more.
fn inline(spec: &Value, path: &str, errors: &mut FieldErrors) {
    const CONTEXT: &str = "in the context of inline volumes";
    for key in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        if !crate::rules::is_empty(&spec[key]) {
            errors.forbidden(&join(path, key), format!("may not be specified {CONTEXT}"));
        }
    }
    if spec["csi"].is_null() {
        errors.required(&join(path, "csi"), format!("has to be specified {CONTEXT}"));
    }
    if !matches!(text(spec, "persistentVolumeReclaimPolicy"), "" | "Retain") {
        errors.forbidden(&join(path, "persistentVolumeReclaimPolicy"), format!("may only be Retain {CONTEXT}"));
    }
    if !matches!(text(spec, "volumeMode"), "" | "Filesystem") {
        let why = format!("may not specify volumeMode other than Filesystem {CONTEXT}");
        errors.forbidden(&join(path, "volumeMode"), why);
    }
}

/// What has a class keeps one.
fn class_update(spec: &Value, was: &Value, errors: &mut FieldErrors) {
    if was["volumeAttributesClassName"].is_string() && spec["volumeAttributesClassName"].is_null() {
        errors.forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden");
    }
}

/// A PersistentVolume stays where it is.
pub fn persistent_volume_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    let mut moved = spec.clone();
    // A secret for growing may still be named.
    if was["csi"]["controllerExpandSecretRef"].is_null() && moved["csi"].is_object() {
        moved["csi"].as_object_mut().map(|csi| csi.remove("controllerExpandSecretRef"));
    }
    if !sources(&moved).eq(sources(was)) {
        errors.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
    }
    if !was["nodeAffinity"].is_null() && spec["nodeAffinity"] != was["nodeAffinity"] {
        let why = format!("{}, except for updating from beta label to GA", super::IMMUTABLE);
        errors.invalid("nodeAffinity", spec["nodeAffinity"].clone(), why);
    }
    class_update(spec, was, errors);
}

/// What is known of a driver on a node stays, but for how many volumes it can take.
pub fn csi_node_update(new: &Value, old: &Value, _: &str, errors: &mut FieldErrors) {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        driver["allocatable"] = Value::Null;
        driver
    };
    for driver in list(&new["spec"], "drivers") {
        let mut before = list(&old["spec"], "drivers").iter().filter(|before| before["name"] == driver["name"]);
        if before.any(|before| fixed(before) != fixed(driver)) {
            errors.invalid("spec.drivers", driver.clone(), super::IMMUTABLE);
        }
    }
}

/// What is attached is a volume or, for a migrated one, its spec.
pub(super) fn attachment_source(source: &Value, path: &str, errors: &mut FieldErrors) {
    let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source["persistentVolumeName"].as_str(), source["inlineVolumeSpec"].is_object()) {
        (Some(_), true) => errors.forbidden(path, why),
        (Some(""), false) => {
            let why = "must specify non empty persistentVolumeName";
            errors.required(&join(path, "persistentVolumeName"), why);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::updated;

    #[test]
    fn bound_claims_only_grow() {
        let claim = |size: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": "v"},
                   "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}})
        };
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
