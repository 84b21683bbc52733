//! `metadata`: what every object has, how it is filled in and what may be wrong with it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::field::FieldErrors;
pub use crate::names::{Problems, check_dns_label, check_dns_subdomain, check_label_value, check_qualified_name};
use crate::names::{check_dns1035_label, check_path_segment};
use crate::resource::Resource;

/// All annotations of an object together, keys and values, in bytes.
pub const TOTAL_ANNOTATION_SIZE_LIMIT_BYTES: usize = 256 << 10;
/// Names are generated to fit a DNS label: this much of the base, and five random characters.
const MAX_GENERATED_BASE: usize = 63 - 5;
/// A CronJob's Jobs and a StatefulSet's pods append to the name; upstream leaves them this much less.
const CRONJOB_NAME_MAX: usize = 52;

/// The grammar of a resource's names.
pub fn name_check(group: &str, plural: &str) -> fn(&str) -> Problems {
    match (group, plural) {
        ("", "namespaces") => check_dns_label,
        ("", "services") => check_dns1035_label,
        ("rbac.authorization.k8s.io", _) => check_path_segment,
        ("networking.k8s.io", "ipaddresses") => crate::names::check_canonical_ip,
        ("batch", "cronjobs") => check_cronjob_name,
        _ => check_dns_subdomain,
    }
}

fn check_cronjob_name(name: &str) -> Problems {
    let mut problems = check_dns_subdomain(name);
    if name.len() > CRONJOB_NAME_MAX {
        problems.push(format!("must be no more than {CRONJOB_NAME_MAX} characters"));
    }
    problems
}

/// A name made from `metadata.generateName`: the base, cut so that the whole fits a DNS label, and five random
/// characters.
pub fn generate_name(base: &str) -> String {
    let end = (0..=base.len().min(MAX_GENERATED_BASE)).rev().find(|&i| base.is_char_boundary(i)).unwrap_or(0);
    format!("{}{}", &base[..end], coracle_clock::name_suffix(5))
}

/// Sets what the server sets on a new object: a name if only `generateName` is given, `uid`, `creationTimestamp`,
/// `generation` 1; and clears what a creator has no say about.
pub fn fill_on_create(object: &mut Value) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let meta = &mut object["metadata"];
    let base = meta["generateName"].as_str().unwrap_or_default().to_owned();
    if meta["name"].as_str().unwrap_or_default().is_empty() && !base.is_empty() {
        meta["name"] = generate_name(&base).into();
    }
    if let Some(meta) = meta.as_object_mut() {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
            meta.remove(field);
        }
    }
    meta["uid"] = coracle_clock::uuid().into();
    meta["creationTimestamp"] = coracle_clock::now_seconds().to_string().into();
    meta["generation"] = 1.into();
}

/// Carries over what an updater has no say about; what may be given but must not change is only filled in where
/// it is missing, and [`validate_update`] judges the rest.
pub fn carry_over_on_update(new: &mut Value, old: &Value) {
    let old_meta = &old["metadata"];
    let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["generation", "selfLink", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        match old_meta.get(field) {
            Some(value) => meta.insert(field.to_owned(), value.clone()),
            None => meta.remove(field),
        };
    }
    for field in ["uid", "generateName"] {
        if let (None, Some(value)) = (meta.get(field), old_meta.get(field)) {
            meta.insert(field.to_owned(), value.clone());
        }
    }
}

/// What is wrong with a new object's metadata.
pub fn validate_create(resource: &Resource, object: &Value, errors: &mut FieldErrors) {
    let meta = &object["metadata"];
    let check = name_check(&resource.group, &resource.plural);
    let text = |field: &str| meta[field].as_str().unwrap_or_default();
    if !text("generateName").is_empty() {
        let base = text("generateName");
        // What follows the base is alphanumeric, so a dash at its end is fine.
        let masked = base.strip_suffix('-').map_or(base.to_owned(), |stem| format!("{stem}-a"));
        for problem in check(&masked) {
            errors.invalid("metadata.generateName", base, problem);
        }
    }
    if text("name").is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        for problem in check(text("name")) {
            errors.invalid("metadata.name", text("name"), problem);
        }
    }
    match (resource.namespaced(), text("namespace")) {
        (true, "") => errors.required("metadata.namespace", ""),
        (true, namespace) => {
            for problem in check_dns_label(namespace) {
                errors.invalid("metadata.namespace", namespace, problem);
            }
        }
        (false, "") => {}
        (false, _) => errors.forbidden("metadata.namespace", "not allowed on this type"),
    }
    validate_common(resource, meta, errors);
}

/// What is wrong with replacing `old`'s metadata by `new`'s.
pub fn validate_update(resource: &Resource, new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (meta, was) = (&new["metadata"], &old["metadata"]);
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if meta[field] != was[field] {
            errors.invalid(&format!("metadata.{field}"), meta[field].clone(), "field is immutable");
        }
    }
    if !was["deletionTimestamp"].is_null() {
        let of = |meta: &Value| -> BTreeSet<String> { strings(&meta["finalizers"]).map(str::to_owned).collect() };
        let added: Vec<String> = of(meta).difference(&of(was)).map(|f| format!("{f:?}")).collect();
        if !added.is_empty() {
            errors.forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    validate_common(resource, meta, errors);
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn validate_common(resource: &Resource, meta: &Value, errors: &mut FieldErrors) {
    if meta["generation"].as_i64().is_some_and(|generation| generation < 0) {
        errors.invalid("metadata.generation", meta["generation"].clone(), "must be greater than or equal to 0");
    }
    validate_labels(&meta["labels"], "metadata.labels", errors);
    validate_annotations(&meta["annotations"], "metadata.annotations", errors);
    validate_owners(&meta["ownerReferences"], errors);
    let finalizers: Vec<&str> = strings(&meta["finalizers"]).collect();
    for finalizer in &finalizers {
        for problem in check_qualified_name(finalizer) {
            errors.invalid("metadata.finalizers", *finalizer, problem);
        }
    }
    // Extensions judge metadata by the machinery's rules alone.
    let extension = ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io"];
    if resource.custom.is_none() && !extension.contains(&resource.group.as_str()) {
        for (i, finalizer) in finalizers.iter().enumerate() {
            validate_standard_finalizer(finalizer, &format!("metadata.finalizers[{i}]"), errors);
        }
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        errors.invalid(
            "metadata.finalizers",
            meta["finalizers"].clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

/// A finalizer without a domain is one of Kubernetes' own.
pub fn validate_standard_finalizer(finalizer: &str, path: &str, errors: &mut FieldErrors) {
    if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer) {
        errors.invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// What is wrong with labels at `path`.
pub fn validate_labels(labels: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for problem in check_qualified_name(key) {
            errors.invalid(path, key.as_str(), problem);
        }
        let value = value.as_str().unwrap_or_default();
        for problem in check_label_value(value) {
            errors.invalid(path, value, problem);
        }
    }
}

/// What is wrong with annotations at `path`.
pub fn validate_annotations(annotations: &Value, path: &str, errors: &mut FieldErrors) {
    let mut total_bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        total_bytes += key.len() + value.as_str().map_or(0, str::len);
        for problem in check_qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), problem);
        }
    }
    if total_bytes > TOTAL_ANNOTATION_SIZE_LIMIT_BYTES {
        errors.too_long(path, TOTAL_ANNOTATION_SIZE_LIMIT_BYTES);
    }
}

fn validate_owners(owners: &Value, errors: &mut FieldErrors) {
    const PATH: &str = "metadata.ownerReferences";
    let mut controller: Option<&str> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let version = text("apiVersion").rsplit('/').next().unwrap_or_default();
        for (field, empty, message) in [
            ("apiVersion", version.is_empty(), "version must not be empty"),
            ("kind", text("kind").is_empty(), "must not be empty"),
            ("name", text("name").is_empty(), "must not be empty"),
            ("uid", text("uid").is_empty(), "must not be empty"),
        ] {
            if empty {
                errors.invalid(&format!("{PATH}.{field}"), text(field), message);
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.invalid(PATH, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] == true {
            match controller {
                Some(first) => errors.invalid(
                    PATH,
                    owners.clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {}",
                        text("name")
                    ),
                ),
                None => controller = Some(text("name")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::lookup;

    fn problems(plural: &str, meta: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate_create(&lookup("", "v1", plural).unwrap(), &json!({ "metadata": meta }), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_object_has_no_problems() {
        let meta = json!({
            "name": "a.b", "namespace": "ns", "labels": {"app.kubernetes.io/name": "x", "e": ""},
            "annotations": {"Some.Domain/Key": "anything at all"}, "finalizers": ["example.com/f"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}],
        });
        assert_eq!(problems("pods", meta), Vec::<String>::new());
        assert_eq!(
            problems("pods", json!({"generateName": "a-", "name": "a-1", "namespace": "d"})),
            Vec::<String>::new()
        );
    }

    #[test]
    fn bad_metadata_is_named_field_by_field() {
        assert_eq!(
            problems("pods", json!({})),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert_eq!(
            problems("nodes", json!({"name": "n", "namespace": "x"})),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        assert!(
            problems("services", json!({"name": "1a", "namespace": "x"}))[0]
                .starts_with("metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of")
        );
        assert!(
            problems("pods", json!({"name": "a", "namespace": "x", "labels": {"a": "b c"}}))[0]
                .starts_with("metadata.labels: Invalid value: \"b c\": a valid label must be an empty string")
        );
    }

    #[test]
    fn names_and_uids_do_not_change() {
        let mut errors = FieldErrors::default();
        let old = json!({"metadata": {"name": "a", "uid": "1"}});
        let new = json!({"metadata": {"name": "a", "uid": "2"}});
        validate_update(&lookup("", "v1", "pods").unwrap(), &new, &old, &mut errors);
        assert_eq!(errors.0[0].to_string(), "metadata.uid: Invalid value: \"2\": field is immutable");
    }

    #[test]
    fn a_new_object_gets_what_the_server_gives() {
        let mut object = json!({"metadata": {"generateName": "web-", "deletionTimestamp": "x"}});
        fill_on_create(&mut object);
        let meta = &object["metadata"];
        assert_eq!(meta["name"].as_str().unwrap().len(), 9);
        assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
        assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
        assert!(meta.get("deletionTimestamp").is_none());
        assert_eq!(generate_name(&"a".repeat(100)).len(), 63);
    }
}
