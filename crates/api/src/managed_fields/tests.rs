use serde_json::{Value, json};

use super::*;
use crate::schema::type_of;

fn deployment() -> Versions<'static> {
    Versions::only(Typing::Known(type_of("apps.v1.Deployment").unwrap()))
}

fn by(name: &str) -> Manager<'_> {
    Manager { name, subresource: "", split: true }
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, manager: &str, force: bool) -> ApiResult<Value> {
    apply(live, &config(spec), deployment(), by(manager), force)
}

/// The spec as Go writes it.
fn whole(spec: Value) -> Value {
    let mut object = config(spec);
    normalise(type_of("apps.v1.Deployment").unwrap(), &mut object, &mut Vec::new()).unwrap();
    object["spec"].take()
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
    assert_eq!(object["spec"], whole(containers(json!([{"name": "a", "image": "x"}]))));
}

#[test]
fn two_appliers_share_an_object_field_by_field() {
    let object = applied(None, json!({"replicas": 1}), "me", false).unwrap();
    let object = applied(Some(&object), json!({"paused": true}), "you", false).unwrap();
    assert_eq!(object["spec"], whole(json!({"replicas": 1, "paused": true})));
    // What I drop goes; the label that we both sent stays.
    let mine = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let object = apply(Some(&object), &mine, deployment(), by("me"), false).unwrap();
    assert_eq!(object["spec"], whole(json!({"paused": true})));
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
    track_update(Some(&old), &mut new, deployment(), by("kubectl"));
    let error = applied(Some(&new), json!({"replicas": 1, "paused": true}), "me", false).unwrap_err();
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas"#);
}

#[test]
fn objects_that_nobody_applied_to_carry_no_books() {
    let old = config(json!({"replicas": 1}));
    let mut new = config(json!({"replicas": 2}));
    track_update(Some(&old), &mut new, deployment(), by("kubectl"));
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
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "a": {"type": "object", "additionalProperties": {"type": "integer"}},
        "l": {"type": "array", "items": {"type": "integer"}},
        "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "kind"],
                "items": {"type": "object", "properties": {
                    "name": {"type": "string"}, "kind": {"type": "string", "default": "x"}, "n": {"type": "integer"}}}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}});
    let typing = Versions::only(Typing::Custom(&schema));
    let first =
        config(json!({"a": {"b": 1}, "l": [1, 2], "atomic": {"x": 1}, "set": ["p", "q"], "any": {"u": {"v": 1}},
                              "map": [{"name": "m", "n": 1}]}));
    let object = apply(None, &first, typing, by("me"), false).unwrap();
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(
        fields,
        &json!({"f:spec": {
            "f:a": {"f:b": {}}, "f:l": {}, "f:atomic": {}, "f:set": {"v:\"p\"": {}, "v:\"q\"": {}},
            "f:any": {"f:u": {".": {}, "f:v": {}}},
            "f:map": {"k:{\"kind\":\"x\",\"name\":\"m\"}": {".": {}, "f:n": {}, "f:name": {}}},
        }})
    );
    let yours = config(json!({"set": ["r"], "map": [{"name": "m", "kind": "y"}]}));
    let object = apply(Some(&object), &yours, typing, by("you"), false).unwrap();
    let object = apply(Some(&object), &config(json!({"a": {"c": 1}})), typing, by("me"), false).unwrap();
    assert_eq!(object["spec"], json!({"a": {"c": 1}, "set": ["r"], "map": [{"name": "m", "kind": "y"}]}));
    // Without a schema everything is granular, and lists are atomic.
    let unknown = Versions::only(Typing::Custom(&Value::Null));
    let object = apply(None, &config(json!({"a": {"b": 1}, "l": [1]})), unknown, by("me"), false).unwrap();
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(fields, &json!({"f:spec": {".": {}, "f:a": {".": {}, "f:b": {}}, "f:l": {}}}));
}

fn created(spec: Value) -> Value {
    let mut object = config(spec);
    normalise(type_of("apps.v1.Deployment").unwrap(), &mut object, &mut Vec::new()).unwrap();
    track_update(None, &mut object, deployment(), by("kubectl-create"));
    object
}

fn fields_of<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    &entries.iter().find(|entry| entry["manager"] == manager).unwrap()["fieldsV1"]
}

#[test]
fn a_creator_owns_what_it_sends_in_the_form_that_kubectl_shows() {
    let pod = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [
        {"name": "a", "image": "x", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}});
    let object = created(json!({"replicas": 1, "selector": {"matchLabels": {"app": "d"}}, "template": pod}));
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["apiVersion"]), (&json!("Update"), &json!("apps/v1")));
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {
                        ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                            ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }}},
                },
            },
        })
    );
}

#[test]
fn status_is_owned_through_its_subresource_alone() {
    let status = Manager { name: "controller", subresource: "status", split: true };
    let old = created(json!({"replicas": 1}));
    let mut new = old.clone();
    new["status"] = json!({"replicas": 1});
    let mut through_status = new.clone();
    through_status["spec"]["replicas"] = 5.into();
    track_update(Some(&old), &mut through_status, deployment(), status);
    assert_eq!(fields_of(&through_status, "controller"), &json!({"f:status": {"f:replicas": {}}}));
    assert_eq!(through_status["metadata"]["managedFields"][0]["subresource"], "status");
    track_update(Some(&old), &mut new, deployment(), by("user"));
    assert_eq!(new["metadata"]["managedFields"], old["metadata"]["managedFields"]);
    // An apply conflicts with it by name and subresource.
    let config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "status": {"replicas": 2}});
    let other = Manager { name: "other", ..status };
    let error = apply(Some(&through_status), &config, deployment(), other, false).unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "controller" with subresource "status" using apps/v1: .status.replicas"#
    );
}

#[test]
fn conflicts_with_several_are_listed_by_manager() {
    let object = applied(None, json!({"replicas": 1, "paused": true}), "b", false).unwrap();
    let object = applied(Some(&object), json!({"minReadySeconds": 1}), "a", false).unwrap();
    let other = json!({"replicas": 2, "paused": false, "minReadySeconds": 2});
    let error = applied(Some(&object), other, "c", false).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.minReadySeconds\nconflicts with \"b\":\n\
         - .spec.paused\n- .spec.replicas"
    );
    assert_eq!(error.details["causes"].as_array().unwrap().len(), 3);
}

#[test]
fn one_empty_entry_forgets_all_managers_and_an_empty_list_does_not() {
    let old = created(json!({"replicas": 1}));
    let mut new = old.clone();
    new["metadata"]["managedFields"] = json!([]);
    track_update(Some(&old), &mut new, deployment(), by("x"));
    assert_eq!(new, old);
    new["metadata"]["managedFields"] = json!([{}]);
    track_update(Some(&old), &mut new, deployment(), by("x"));
    assert!(new["metadata"].get("managedFields").is_none());
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let sent = config(json!({"replicas": 1}));
    let mut object = sent.clone();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": sent.to_string()});
    track_update(None, &mut object, deployment(), by("kubectl-client-side-apply"));
    let changed = applied(Some(&object), json!({"replicas": 2}), "kubectl", false).unwrap();
    assert_eq!(changed["spec"]["replicas"], 2);
    let annotation = &changed["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(annotation.as_str().unwrap().contains(r#""replicas":2"#));
    assert_eq!(applied(Some(&object), json!({"replicas": 2}), "other", false).unwrap_err().code, 409);
    // What somebody changed since is no longer its own.
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = 3.into();
    track_update(Some(&object), &mut scaled, deployment(), by("scaler"));
    assert_eq!(applied(Some(&scaled), json!({"replicas": 2}), "kubectl", false).unwrap_err().code, 409);
}

#[test]
fn the_oldest_of_many_writers_become_one() {
    let mut object = created(json!({"replicas": 1}));
    for number in 0..20 {
        let old = object.clone();
        object["metadata"]["labels"][format!("l{number}")] = "x".into();
        track_update(Some(&old), &mut object, deployment(), by(&format!("writer-{number:02}")));
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert_eq!(fields_of(&object, "ancient-changes")["f:spec"], json!({"f:replicas": {}}));
}

mod laws {
    use proptest::prelude::*;

    use super::*;

    /// Some of a Deployment's fields: scalars, a map, a list by keys with another inside.
    fn spec() -> impl Strategy<Value = Value> {
        let container =
            (prop::option::of("[x-z]"), prop::collection::btree_set(80..83_u16, 0..3)).prop_map(|(image, ports)| {
                let mut container = json!({});
                if let Some(image) = image {
                    container["image"] = image.into();
                }
                if !ports.is_empty() {
                    container["ports"] = ports.iter().map(|p| json!({"containerPort": p, "protocol": "TCP"})).collect();
                }
                container
            });
        let containers = prop::collection::btree_map("[a-c]", container, 0..3);
        let labels = prop::collection::btree_map("[a-c]", "[x-z]", 0..3);
        (prop::option::of(1..3_i32), prop::option::of(1..3_i32), labels, containers).prop_map(
            |(replicas, seconds, labels, containers)| {
                let mut spec = json!({});
                if let Some(replicas) = replicas {
                    spec["replicas"] = replicas.into();
                }
                if let Some(seconds) = seconds {
                    spec["minReadySeconds"] = seconds.into();
                }
                if !labels.is_empty() {
                    spec["template"]["metadata"]["labels"] = json!(labels);
                }
                if !containers.is_empty() {
                    let named = containers.into_iter().map(|(name, mut container)| {
                        container["name"] = name.into();
                        container
                    });
                    spec["template"]["spec"]["containers"] = named.collect();
                }
                spec
            },
        )
    }

    fn set(object: &Value) -> FieldSet {
        walk::fields(Node::root(deployment().typing), object, false)
    }

    proptest! {
        #[test]
        fn apply_is_idempotent(first in spec(), mine in spec()) {
            let live = applied(None, first, "other", false).unwrap();
            let once = applied(Some(&live), mine.clone(), "me", true).unwrap();
            prop_assert_eq!(&applied(Some(&once), mine, "me", false).unwrap(), &once);
        }

        #[test]
        fn a_set_changed_where_it_lies_is_what_it_would_be_elsewhere(mine in spec(), theirs in spec()) {
            let [mine, theirs] = [mine, theirs].map(|spec| set(&json!({"spec": spec})));
            let (mut less, mut more) = (mine.to_json(), mine.to_json());
            set::subtract(&mut less, &theirs);
            prop_assert_eq!(FieldSet::from_json(&less), mine.difference(&theirs));
            set::add(&mut more, &theirs);
            prop_assert_eq!(more, mine.union(&theirs).to_json());
        }

        #[test]
        fn managers_of_disjoint_fields_never_conflict(all in spec(), pick in any::<u8>()) {
            // Each top-level field goes to one of the two.
            let (mut mine, mut yours) = (json!({}), json!({}));
            for (at, (key, value)) in all.as_object().unwrap().iter().enumerate() {
                let whose = if pick >> at & 1 == 0 { &mut mine } else { &mut yours };
                whose[key] = value.clone();
            }
            let object = applied(None, mine.clone(), "me", false).unwrap();
            let object = applied(Some(&object), yours.clone(), "you", false).unwrap();
            let object = applied(Some(&object), mine, "me", false).unwrap();
            let object = applied(Some(&object), yours, "you", false).unwrap();
            prop_assert_eq!(&object["spec"], &whole(all));
        }

        #[test]
        fn what_nobody_applies_any_more_goes_and_what_another_owns_stays(first in spec(), second in spec(), other in spec()) {
            let object = applied(None, first.clone(), "me", false).unwrap();
            let object = applied(Some(&object), other.clone(), "other", true).unwrap();
            let object = applied(Some(&object), second.clone(), "me", true).unwrap();
            let there = set(&object["spec"].as_object().map_or(json!({}), |_| json!({"spec": object["spec"]})));
            let sent = |spec: &Value| set(&json!({"spec": spec}));
            let (kept, gone) = (sent(&second).union(&sent(&other)), sent(&first));
            let leaves = |set: &FieldSet| set.paths().into_iter().collect::<std::collections::BTreeSet<_>>();
            for path in leaves(&gone.difference(&kept)) {
                // A container of what is kept stays around it.
                let inside = leaves(&kept).iter().any(|other| other.starts_with(&path));
                prop_assert!(inside || !leaves(&there).contains(&path), "{path} stayed in {object}");
            }
            for path in leaves(&kept) {
                let whole = leaves(&there).iter().any(|other| other.starts_with(&path));
                prop_assert!(whole || path == ".spec" , "{path} is gone from {object}");
            }
        }
    }
}

/// Version 1 has `hostPort`, version 2 `host` and `port`; there is no third.
fn in_version(object: &Value, version: &str) -> Option<(Value, Typing<'static>)> {
    let mut object = object.clone();
    let fields = object.as_object_mut()?;
    match version {
        "v1" => {
            let host = fields.remove("host").unwrap_or_default();
            let port = fields.remove("port").unwrap_or_default();
            let text = |part: &Value| part.as_str().unwrap_or_default().to_owned();
            fields.insert("hostPort".into(), format!("{}:{}", text(&host), text(&port)).into());
        }
        "v2" => {
            let both = fields.remove("hostPort").unwrap_or_default();
            if let Some((host, port)) = both.as_str().and_then(|both| both.split_once(':')) {
                fields.extend([("host".to_owned(), host.into()), ("port".to_owned(), port.into())]);
            }
        }
        _ => return None,
    }
    object["apiVersion"] = version.into();
    Some((object, Typing::Custom(&Value::Null)))
}

fn owners<'a>(object: &'a Value) -> Vec<(&'a str, &'a str, &'a Value)> {
    let list = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let of = |entry: &'a Value| {
        let [manager, version] = ["manager", "apiVersion"].map(|field| entry[field].as_str().unwrap_or_default());
        (manager, version, &entry["fieldsV1"])
    };
    list.map(of).collect()
}

#[test]
fn owners_see_an_object_in_the_version_they_wrote_it_in() {
    let versions = Versions { typing: Typing::Custom(&Value::Null), view: &in_version };
    let v1 = |text: &str| json!({"apiVersion": "v1", "kind": "E", "metadata": {"name": "e"}, "hostPort": text});
    let v2 = |part: Value| {
        let mut object = json!({"apiVersion": "v2", "kind": "E", "metadata": {"name": "e"}});
        object.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        object
    };
    let first = apply(None, &v1("a:1"), versions, by("one"), false).unwrap();
    let (first, _) = in_version(&first, "v2").unwrap();
    // What is the same there is no conflict, and what differs is one.
    let shared = apply(Some(&first), &v2(json!({"host": "a"})), versions, by("two"), false).unwrap();
    let error = apply(Some(&first), &v2(json!({"host": "b"})), versions, by("two"), false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .hostPort");
    let (of_one, of_two) = (json!({"f:hostPort": {}}), json!({"f:host": {}}));
    assert_eq!(owners(&shared), [("one", "v1", &of_one), ("two", "v2", &of_two)]);
    // Who updates takes the field away in the other version, too.
    let mut updated = shared.clone();
    updated["port"] = "2".into();
    track_update(Some(&shared), &mut updated, versions, by("three"));
    assert_eq!(owners(&updated), [("two", "v2", &of_two), ("three", "v2", &json!({"f:port": {}}))]);
    // An applier that changes its version lets go of what it applied in the other.
    let both = apply(Some(&first), &v2(json!({"port": "1"})), versions, by("one"), false).unwrap();
    assert_eq!((both.get("host"), &both["port"]), (None, &json!("1")));
    // What a version that is no more owned, nobody owns.
    let mut old = shared.clone();
    old["metadata"]["managedFields"][0]["apiVersion"] = "v3".into();
    let written = apply(Some(&old), &v2(json!({"host": "c"})), versions, by("two"), false).unwrap();
    assert_eq!(owners(&written), [("two", "v2", &of_two)]);
}
