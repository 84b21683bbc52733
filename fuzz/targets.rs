//! What is fuzzed: each function takes any bytes, must not panic, and holds its decoder or engine to a law.
#![allow(dead_code, reason = "each fuzz target uses its own")]

use coracle_api::decode::{deeper_than, normalise, parse_json, parse_yaml};
use coracle_api::managed_fields::{self, Manager, Typing, Versions};
use coracle_api::patch::{self, PatchType};
use coracle_api::protobuf;
use coracle_api::schema::{Type, type_of, type_of_kind};
use coracle_api::selector::{FieldSelector, Selector};
use serde_json::{Value, json};

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by name, as the folders of the corpus are named.
pub const ALL: [(&str, Target); 8] = [
    ("json", json),
    ("yaml", yaml),
    ("protobuf", protobuf),
    ("json_patch", json_patch),
    ("merge_patch", merge_patch),
    ("strategic_patch", strategic_patch),
    ("apply", apply),
    ("selectors", selectors),
];

/// The type of an object by what it says it is; Deployments for all others.
fn type_for(object: &Value) -> &'static Type {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    type_of_kind(text("apiVersion"), text("kind")).unwrap_or_else(deployment)
}

fn deployment() -> &'static Type {
    type_of("apps.v1.Deployment").expect("a type of the table")
}

/// An object in the form in which Go writes it, decoded again, is the same.
fn canonical(mut object: Value) {
    let ty = type_for(&object);
    if normalise(ty, &mut object, &mut Vec::new()).is_ok() {
        let once = object.clone();
        assert_eq!(normalise(ty, &mut object, &mut Vec::new()), Ok(()));
        assert_eq!(object, once);
        let _ = protobuf::encode_message(ty, &object);
    }
}

pub fn json(data: &[u8]) {
    if let Ok((value, _)) = parse_json(data) {
        assert_eq!(parse_json(value.to_string().as_bytes()).map(|(value, _)| value), Ok(value.clone()));
        canonical(value);
    }
}

pub fn yaml(data: &[u8]) {
    if let Ok((value, _)) = parse_yaml(data) {
        canonical(value);
    }
}

pub fn protobuf(data: &[u8]) {
    if let Ok(object) = protobuf::decode(data) {
        canonical(object);
    }
}

fn object() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"a": "b"}, "finalizers": ["x/1", "y/1"]},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [
                {"name": "c", "image": "i", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]},
                {"name": "e", "env": [{"name": "A", "value": "1"}]}]}}},
    })
}

fn patched(kind: PatchType, data: &[u8]) {
    if let Ok(result) = patch::apply(kind, &object(), data, Some(deployment())) {
        assert!(!deeper_than(&result, 500));
        canonical(result);
    }
}

pub fn json_patch(data: &[u8]) {
    patched(PatchType::Json, data);
}

pub fn merge_patch(data: &[u8]) {
    patched(PatchType::Merge, data);
}

pub fn strategic_patch(data: &[u8]) {
    patched(PatchType::Strategic, data);
}

/// What is applied twice is applied once.
pub fn apply(data: &[u8]) {
    let Ok((mut config, _)) = parse_yaml(data) else { return };
    if !config.is_object() || coracle_api::decode::normalise_sparse(deployment(), &mut config, &mut Vec::new()).is_err()
    {
        return;
    }
    let manager = Manager { name: "fuzz", subresource: "", split: true };
    let versions = Versions::only(Typing::Known(deployment()));
    if !managed_fields::flaws(&config, versions.typing).is_empty() {
        return;
    }
    let mut live = object();
    // Other versions do not come this far.
    config["apiVersion"] = live["apiVersion"].clone();
    managed_fields::track_update(None, &mut live, versions, Manager { name: "other", ..manager });
    if let Ok(once) = managed_fields::apply(Some(&live), &config, versions, manager, true) {
        let twice = managed_fields::apply(Some(&once), &config, versions, manager, false);
        assert_eq!(twice.as_ref(), Ok(&once));
    }
}

/// A label selector reads back from its text.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(Selector::parse(&selector.to_string()).map(|again| again.to_string()), Ok(selector.to_string()));
        let _ = selector.matches(&json!({ "a": "b" }));
    }
    if let Ok(fields) = FieldSelector::parse(text) {
        let _ = fields.matches(&object());
    }
}
