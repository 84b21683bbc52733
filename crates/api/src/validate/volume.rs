//! Volumes of pods, and the sources that PersistentVolumes share with them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{field_reference, resource_reference};
use super::{each, join, list, quantity, report, text};
use crate::field::FieldErrors;
use crate::names::check_volume_path;

/// A volume has one source.
pub(super) fn volume(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let sources = volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
    one_source(sources.map(|(key, _)| key.as_str()), path, errors);
    if volume["emptyDir"].is_object() && quantity(&volume["emptyDir"]["sizeLimit"]).is_negative() {
        let why = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&join(path, "emptyDir.sizeLimit"), why);
    }
    let portal = text(&volume["iscsi"], "targetPortal");
    if volume["iscsi"]["initiatorName"].is_string() && text(volume, "name").len() + 1 + portal.len() > 64 {
        errors.invalid(&join(path, "name"), text(volume, "name"), LONG_PORTAL);
    }
}

/// What initiators of iSCSI can bear.
pub(super) const LONG_PORTAL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters \
                                      if iscsi.initiatorName is specified.";

pub(super) fn one_source<'a>(sources: impl Iterator<Item = &'a str>, path: &str, errors: &mut FieldErrors) {
    let mut sources = sources.peekable();
    if sources.peek().is_none() {
        errors.required(path, "must specify a volume type");
    }
    for extra in sources.skip(1) {
        errors.forbidden(&join(path, extra), "may not specify more than 1 volume type");
    }
}

/// The fields of a pod that a file can hold.
const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// A file of the downward API.
pub(super) fn downward_file(file: &Value, path: &str, errors: &mut FieldErrors) {
    let (field, resource) = (&file["fieldRef"], &file["resourceFieldRef"]);
    match (field.is_object(), resource.is_object()) {
        (true, both) => {
            field_reference(field, &join(path, "fieldRef"), &FILE_FIELDS, errors);
            if both {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", why);
            }
        }
        (false, true) => resource_reference(resource, &join(path, "resourceFieldRef"), true, errors),
        (false, false) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
}

/// A projected volume: each source is one, and no two write the same file.
pub(super) fn projected(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let mut files = BTreeSet::new();
    for (source_path, source) in each(volume, path, "sources") {
        if source.as_object().is_some_and(|source| source.len() > 1) {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
        for kind in ["secret", "configMap", "downwardAPI"] {
            for item in list(&source[kind], "items") {
                let file = text(item, "path");
                if !file.is_empty() && !files.insert(file) {
                    let shown = if kind == "downwardAPI" { file } else { text(&source[kind], "name") };
                    errors.invalid(path, shown, "conflicting duplicate paths");
                }
            }
        }
        // Upstream names the volume's path here, not the source's.
        let token = &source["serviceAccountToken"];
        match text(token, "path") {
            _ if token.is_null() => {}
            "" => errors.required(&join(path, "path"), ""),
            file => report(check_volume_path(file), &join(path, "path"), file, errors),
        }
        let bundle = &source["clusterTrustBundle"];
        if bundle.is_object() {
            if !files.insert(text(bundle, "path")) {
                errors.invalid(path, text(bundle, "path"), "conflicting duplicate paths");
            }
            trust_bundle(bundle, &join(&source_path, "clusterTrustBundle"), errors);
        }
    }
}

fn trust_bundle(bundle: &Value, path: &str, errors: &mut FieldErrors) {
    match (bundle["name"].as_str(), bundle["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            errors.invalid(path, bundle.clone(), "only one of name and signerName may be used");
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
        (Some(name), None) => {
            if name.is_empty() {
                errors.required(&join(path, "name"), "must be a valid object name");
            }
            if bundle["labelSelector"].is_object() {
                let why = "labelSelector must be unset if name is specified";
                errors.invalid(&join(path, "labelSelector"), bundle["labelSelector"].clone(), why);
            }
        }
        (None, Some("")) => errors.required(&join(path, "signerName"), "must be a valid signer name"),
        (None, Some(_)) => {}
    }
}

/// An iSCSI target.
pub(super) fn iscsi(source: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, shown) in [("iqn", "iqn"), ("initiatorName", "initiatorname")] {
        let name = text(source, key);
        if !name.is_empty() && !["iqn", "eui", "naa"].iter().any(|prefix| name.starts_with(prefix)) {
            let why = "must be valid format starting with iqn, eui, or naa";
            errors.invalid(&join(path, shown), name, why);
        }
    }
    if (source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true) && source["secretRef"].is_null() {
        errors.required(&join(path, "secretRef"), "");
    }
}

/// A fibre channel target.
pub(super) fn fibre_channel(source: &Value, path: &str, errors: &mut FieldErrors) {
    let (names, ids) = (list(source, "targetWWNs"), list(source, "wwids"));
    if names.is_empty() && ids.is_empty() {
        let why = "must specify either targetWWNs or wwids, but not both";
        errors.required(&join(path, "targetWWNs"), why);
    }
    if !names.is_empty() && !ids.is_empty() {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        errors.invalid(&join(path, "targetWWNs"), source["targetWWNs"].clone(), why);
    }
    match source["lun"].as_i64() {
        None if !names.is_empty() => errors.required(&join(path, "lun"), "lun is required if targetWWNs is specified"),
        Some(lun) if !names.is_empty() && !(0..=255).contains(&lun) => {
            errors.invalid(&join(path, "lun"), lun, "must be between 0 and 255, inclusive");
        }
        _ => {}
    }
}

/// A Flocker data set.
pub(super) fn flocker(source: &Value, path: &str, errors: &mut FieldErrors) {
    match (text(source, "datasetName"), text(source, "datasetUUID")) {
        ("", "") => errors.required(path, "one of datasetName and datasetUUID is required"),
        (_, "") | ("", _) => {}
        _ => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            errors.invalid(path, "resource", why);
        }
    }
    if text(source, "datasetName").contains('/') {
        errors.invalid(&join(path, "datasetName"), text(source, "datasetName"), "must not contain '/'");
    }
}
