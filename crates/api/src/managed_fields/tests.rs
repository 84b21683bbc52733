use serde_json::{Value, json};

use super::*;
use crate::schema::type_of;

fn deployment() -> Option<&'static Type> {
    type_of("apps.v1.Deployment")
}

fn by(name: &str) -> Manager<'_> {
    Manager { name, subresource: "" }
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, manager: &str, force: bool) -> ApiResult<Value> {
    apply(live, &config(spec), deployment(), by(manager), force)
}

fn containers(list: Value) -> Value {
    json!({"template": {"spec": {"containers": list}}})
}

#[test]
fn a_first_apply_owns_what_it_sends() {
    let object = applied(None, containers(json!([{"name": "a", "image": "x"}])), "me", false).unwrap();
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("me"), &json!("Apply")));
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:metadata": {"f:labels": {"f:app": {}}},
               "f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
    assert_eq!(FieldSet::from_json(&entry["fieldsV1"]).to_json(), entry["fieldsV1"]);
}

#[test]
fn what_an_applier_no_longer_sends_goes() {
    let two = containers(json!([{"name": "a", "image": "x", "tty": true}, {"name": "b"}]));
    let object = applied(None, two, "me", false).unwrap();
    let object = applied(Some(&object), containers(json!([{"name": "a", "image": "x"}])), "me", false).unwrap();
    assert_eq!(object["spec"], containers(json!([{"name": "a", "image": "x"}])));
}

#[test]
fn two_appliers_share_an_object_field_by_field() {
    let object = applied(None, json!({"replicas": 1}), "me", false).unwrap();
    let object = applied(Some(&object), json!({"paused": true}), "you", false).unwrap();
    assert_eq!(object["spec"], json!({"replicas": 1, "paused": true}));
    // What I drop goes; the label that we both sent stays.
    let mine = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let object = apply(Some(&object), &mine, deployment(), by("me"), false).unwrap();
    assert_eq!(object["spec"], json!({"paused": true}));
    assert_eq!(object["metadata"]["labels"], json!({"app": "d"}));
}

#[test]
fn a_change_of_somebody_elses_field_is_a_conflict_unless_forced() {
    let object = applied(None, json!({"replicas": 1}), "me", false).unwrap();
    let error = applied(Some(&object), json!({"replicas": 2}), "you", false).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "me": .spec.replicas"#);
    assert_eq!(
        error.details["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"me\"", "field": ".spec.replicas"}])
    );
    let object = applied(Some(&object), json!({"replicas": 2}), "you", true).unwrap();
    assert_eq!(object["spec"]["replicas"], 2);
    let mine = &object["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "me").unwrap();
    assert!(mine["fieldsV1"].get("f:spec").is_none());
    // The same value is no conflict: both own it then.
    assert!(applied(Some(&object), json!({"replicas": 2}), "me", false).is_ok());
}

#[test]
fn applying_again_changes_nothing() {
    let spec = containers(json!([{"name": "a", "ports": [{"containerPort": 80}]}]));
    let object = applied(None, spec.clone(), "me", false).unwrap();
    assert_eq!(applied(Some(&object), spec, "me", false).unwrap(), object);
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let old = applied(None, json!({"replicas": 1, "paused": true}), "me", false).unwrap();
    let mut new = old.clone();
    new["spec"]["replicas"] = 3.into();
    track_update(&old, &mut new, deployment(), by("kubectl"));
    let error = applied(Some(&new), json!({"replicas": 1, "paused": true}), "me", false).unwrap_err();
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas"#);
}

#[test]
fn objects_that_nobody_applied_to_carry_no_books() {
    let old = config(json!({"replicas": 1}));
    let mut new = config(json!({"replicas": 2}));
    track_update(&old, &mut new, deployment(), by("kubectl"));
    assert!(new["metadata"].get("managedFields").is_none());
    let error = applied(Some(&new), json!({"replicas": 3}), "me", false).unwrap_err();
    assert!(error.message.contains(r#"conflict with "before-first-apply" using apps/v1: .spec.replicas"#));
}

#[test]
fn live_items_keep_their_places_around_applied_ones() {
    let live = config(containers(json!([{"name": "sidecar"}, {"name": "a", "image": "1"}])));
    let object =
        applied(Some(&live), containers(json!([{"name": "b"}, {"name": "a", "image": "1"}])), "me", false).unwrap();
    let names: Vec<&Value> =
        object["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["b", "sidecar", "a"]);
}

#[test]
fn custom_resources_have_granular_maps_and_atomic_lists() {
    let config = |spec: Value| json!({"apiVersion": "e.com/v1", "kind": "W", "metadata": {"name": "w"}, "spec": spec});
    let object = apply(None, &config(json!({"a": {"b": 1}, "l": [1, 2]})), None, by("me"), false).unwrap();
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields, &json!({"f:spec": {"f:a": {"f:b": {}}, "f:l": {}}}));
    let object = apply(Some(&object), &config(json!({"a": {"c": 1}})), None, by("me"), false).unwrap();
    assert_eq!(object["spec"], json!({"a": {"c": 1}}));
}
