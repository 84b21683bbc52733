//! Custom resources, from the definition to the deletion of the last object, as clients see them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::custom::*;
use common::*;
use serde_json::{Value, json};

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition of Widgets with one version of that schema for `spec` and `status`.
fn widgets(spec: Value) -> Value {
    definition("example.com", "Widget", json!([version("v1", spec)]))
}

fn version(name: &str, spec: Value) -> Value {
    json!({
        "name": name, "served": true, "storage": name == "v1",
        "schema": { "openAPIV3Schema": { "type": "object", "properties": {
            "spec": spec, "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        } } },
    })
}

fn open() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn fields(properties: Value) -> Value {
    json!({ "type": "object", "properties": properties })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": name }, "spec": spec })
}

/// Waits until a path answers 404.
async fn gone(server: &Server, path: &str) {
    for _ in 0..100 {
        if server.get(path).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} is still there: {:?}", server.get(path).await);
}

#[test]
fn creating_and_deleting_custom_resource_definition_objects_works() {
    served(async |server| {
        let crd = define(&server, widgets(open())).await;
        assert_eq!(crd["spec"]["names"]["listKind"], "WidgetList");
        assert_eq!(crd["spec"]["conversion"], json!({ "strategy": "None" }));
        assert_eq!(crd["status"]["acceptedNames"], crd["spec"]["names"]);
        assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
        let widget = server.post(WIDGETS, widget("a", json!({ "any": ["thing"] }))).await.expect(201);
        assert_eq!((&widget["spec"]["any"][0], &widget["metadata"]["generation"]), (&json!("thing"), &json!(1)));
        assert_eq!(
            server
                .store
                .range(coracle_store::RangeRequest::new(coracle_store::KeyRange::prefix(
                    "/registry/example.com/widgets/default/a"
                )))
                .await
                .unwrap()
                .kvs
                .len(),
            1
        );

        let mut watch = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion=0")).await;
        assert_eq!(watch.brief().await.unwrap(), "ADDED a");
        let path = format!("{CRDS}/widgets.example.com");
        let deleted = server.delete(&path, json!({})).await.expect(200);
        assert_eq!(deleted["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
        gone(&server, &path).await;
        assert_eq!(watch.brief().await.unwrap(), "DELETED a");
        assert!(watch.next().await.is_none(), "the watch ends with its resource");
        server.get(WIDGETS).await.expect(404);
        assert_eq!(server.get("/apis/example.com").await.code, 404);
        // Anew, without a trace of the old objects.
        define(&server, widgets(open())).await;
        assert_eq!(server.get(WIDGETS).await.expect(200)["items"], json!([]));
    });
}

#[test]
fn objects_with_finalizers_hold_up_the_deletion_of_their_definition() {
    served(async |server| {
        define(&server, widgets(open())).await;
        let mut held = widget("a", json!({}));
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        server.post(WIDGETS, held).await.expect(201);
        let path = format!("{CRDS}/widgets.example.com");
        server.delete(&path, json!({})).await.expect(200);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let crd = server.get(&path).await.expect(200);
        let conditions = crd["status"]["conditions"].as_array().unwrap();
        let terminating = conditions.iter().find(|c| c["type"] == "Terminating").unwrap();
        assert_eq!(
            (&terminating["status"], &terminating["reason"]),
            (&json!("True"), &json!("InstanceDeletionInProgress"))
        );
        assert_eq!(server.post(WIDGETS, widget("b", json!({}))).await.code, 405, "nothing new while terminating");
        let patch = json!({ "metadata": { "finalizers": null } });
        server.patch(&format!("{WIDGETS}/a"), MERGE, patch).await.expect(200);
        gone(&server, &path).await;
    });
}

#[test]
fn listing_custom_resource_definition_objects_works() {
    served(async |server| {
        for kind in ["Apple", "Pear", "Plum"] {
            let mut crd = definition("example.com", kind, json!([version("v1", open())]));
            crd["metadata"]["labels"] = json!({ "fruit": "yes" });
            define(&server, crd).await;
        }
        let list = server.get(&format!("{CRDS}?labelSelector=fruit%3Dyes")).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 3);
        server.delete(&format!("{CRDS}?labelSelector=fruit%3Dyes"), json!({})).await.expect(200);
        for name in ["apples", "pears", "plums"] {
            gone(&server, &format!("{CRDS}/{name}.example.com")).await;
        }
    });
}

#[test]
fn getting_updating_patching_custom_resource_definition_status_sub_resource_works() {
    served(async |server| {
        define(&server, widgets(open())).await;
        let path = format!("{CRDS}/widgets.example.com/status");
        let mut crd = server.get(&path).await.expect(200);
        let condition = json!({ "type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set by a test",
                                "lastTransitionTime": "2026-01-01T00:00:00Z" });
        crd["status"]["conditions"].as_array_mut().unwrap().push(condition.clone());
        let updated = server.put(&path, crd).await.expect(200);
        assert!(updated["status"]["conditions"].as_array().unwrap().contains(&condition));
        let patch = json!({ "status": { "storedVersions": ["v1", "v0"] } });
        let patched = server.patch(&path, MERGE, patch).await.expect(200);
        assert_eq!(patched["status"]["storedVersions"], json!(["v1", "v0"]));
        assert_eq!(patched["metadata"]["generation"], 1);
    });
}

#[test]
fn watch_on_custom_resource_definition_objects() {
    served(async |server| {
        for kind in ["Apple", "Pear"] {
            define(&server, definition("example.com", kind, json!([version("v1", open())]))).await;
        }
        let path = |plural: &str| format!("/apis/example.com/v1/namespaces/default/{plural}");
        let object = |kind: &str| json!({ "apiVersion": "example.com/v1", "kind": kind, "metadata": { "name": "n" } });
        let mut apples = server.watch(&format!("{}?watch=1", path("apples"))).await;
        let mut pears = server.watch(&format!("{}?watch=1", path("pears"))).await;
        server.post(&path("apples"), object("Apple")).await.expect(201);
        assert_eq!(apples.brief().await.unwrap(), "ADDED n");
        server.post(&path("pears"), object("Pear")).await.expect(201);
        assert_eq!(pears.brief().await.unwrap(), "ADDED n");
        server.patch(&format!("{}/n", path("apples")), MERGE, json!({ "spec": { "a": 1 } })).await.expect(200);
        let event = apples.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["generation"]), (&json!("MODIFIED"), &json!(2)));
        server.delete(&format!("{}/n", path("pears")), json!({})).await.expect(200);
        assert_eq!(pears.brief().await.unwrap(), "DELETED n");
        assert!(apples.next().await.is_none(), "pears are no apples");
    });
}

#[test]
fn custom_resource_defaulting_for_requests_and_from_storage_works() {
    served(async |server| {
        let schema = fields(json!({ "a": { "type": "string" }, "b": { "type": "string" } }));
        define(&server, widgets(schema)).await;
        server.post(WIDGETS, widget("old", json!({}))).await.expect(201);
        let default = |spec: &mut Value, value: Value| {
            spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["a"] = value;
        };
        redefine(&server, "widgets.example.com", |spec| default(spec, json!({ "type": "string", "default": "A" })))
            .await;
        // What is stored stays, what is read is defaulted; what is requested is defaulted and stored.
        assert_eq!(server.get(&format!("{WIDGETS}/old")).await.expect(200)["spec"], json!({ "a": "A" }));
        let created = server.post(WIDGETS, widget("new", json!({}))).await.expect(201);
        assert_eq!(created["spec"]["a"], "A");
        assert_eq!(server.get(WIDGETS).await.expect(200)["items"][1]["spec"]["a"], "A");
        let mut watch = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion=0")).await;
        assert_eq!(watch.next().await.unwrap()["object"]["spec"]["a"], "A");
        let _ = watch.next().await;
        redefine(&server, "widgets.example.com", |spec| default(spec, json!({ "type": "string" }))).await;
        assert!(watch.next().await.is_none(), "watches begin anew under a new schema");
        assert_eq!(server.get(&format!("{WIDGETS}/old")).await.expect(200)["spec"], json!({}));
        assert_eq!(server.get(&format!("{WIDGETS}/new")).await.expect(200)["spec"]["a"], "A");
    });
}

#[test]
fn custom_resource_definition_resources_are_included_in_discovery_documents() {
    served(async |server| {
        let groups = server.get("/apis").await.expect(200);
        let group = groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "apiextensions.k8s.io").unwrap();
        assert_eq!(group["versions"][0]["groupVersion"], "apiextensions.k8s.io/v1");
        let document = server.get("/apis/apiextensions.k8s.io").await.expect(200);
        assert_eq!(document["preferredVersion"]["version"], "v1");
        let resources = server.get("/apis/apiextensions.k8s.io/v1").await.expect(200);
        let names: Vec<&Value> = resources["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
        assert!(names.contains(&&json!("customresourcedefinitions")));
    });
}

#[test]
fn discovery_lists_a_kind_as_soon_as_its_definition_is_established() {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    served(async |server| {
        let before = server.send("GET", "/apis", &[("accept", AGGREGATED)], b"").await;
        let mut crd = widgets(open());
        crd["spec"]["names"]["shortNames"] = json!(["wd"]);
        crd["spec"]["names"]["categories"] = json!(["all"]);
        crd["spec"]["versions"][0]["subresources"] = json!({ "status": {} });
        define(&server, crd).await;
        let after = server.send("GET", "/apis", &[("accept", AGGREGATED)], b"").await;
        assert_ne!(before.headers["etag"], after.headers["etag"]);
        let groups = after.json();
        let group = groups["items"].as_array().unwrap().last().unwrap();
        let resource = &group["versions"][0]["resources"][0];
        assert_eq!((&group["metadata"]["name"], &resource["resource"]), (&json!("example.com"), &json!("widgets")));
        assert_eq!(resource["shortNames"], json!(["wd"]));
        assert_eq!(resource["subresources"][0]["subresource"], "status");
        let legacy = server.get("/apis/example.com/v1").await.expect(200);
        assert_eq!(
            legacy["resources"][0]["verbs"],
            json!(["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"])
        );
        assert_eq!(legacy["resources"][1]["name"], "widgets/status");
    });
}

#[test]
fn names_are_given_once_and_given_on_when_they_are_free() {
    served(async |server| {
        define(&server, widgets(open())).await;
        let mut other = definition("example.com", "Gadget", json!([version("v1", open())]));
        other["spec"]["names"]["kind"] = "Widget".into();
        other["spec"]["names"]["singular"] = "gadget".into();
        server.post(CRDS, other).await.expect(201);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let path = format!("{CRDS}/gadgets.example.com");
        let refused = server.get(&path).await.expect(200);
        assert_eq!(refused["status"]["conditions"][0]["reason"], "ListKindConflict");
        assert_eq!(server.get("/apis/example.com/v1/gadgets").await.code, 404);
        server.delete(&format!("{CRDS}/widgets.example.com"), json!({})).await.expect(200);
        established(&server, "gadgets.example.com").await;
        server.get("/apis/example.com/v1/gadgets").await.expect(200);
    });
}

#[test]
fn a_definition_that_is_wrong_is_refused() {
    served(async |server| {
        let mut wrong = widgets(json!({ "properties": { "a": { "type": "string", "default": 1 } } }));
        wrong["spec"]["group"] = "example".into();
        let refused = server.post(CRDS, wrong).await.expect(422);
        let causes: Vec<&str> =
            refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
        assert_eq!(causes, ["metadata.name", "spec.group", "spec.validation.openAPIV3Schema.properties[spec].type"]);
    });
}

fn strict() -> Value {
    fields(json!({
        "count": { "type": "integer", "minimum": 1 },
        "name": { "type": "string", "pattern": "^[a-z]+$" },
        "ports": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                   "items": { "type": "object", "required": ["port"], "properties": { "port": { "type": "integer" }, "name": { "type": "string" } } } },
        "tags": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
        "template": { "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true },
    }))
}

#[test]
fn should_create_and_apply_a_valid_cr_for_crd_with_validation_schema() {
    served(async |server| {
        define(&server, widgets(strict())).await;
        let good = widget("a", json!({ "count": 1, "ports": [{ "port": 80 }] }));
        server.post(&format!("{WIDGETS}?fieldValidation=Strict"), good.clone()).await.expect(201);
        let applied = server
            .patch(
                &format!("{WIDGETS}/b?fieldManager=t&fieldValidation=Strict"),
                APPLY,
                widget("b", json!({ "count": 2 })),
            )
            .await;
        assert_eq!(applied.expect(201)["spec"]["count"], 2);
    });
}

#[test]
fn should_create_and_apply_an_invalid_cr_with_extra_properties_for_crd_with_validation_schema() {
    served(async |server| {
        define(&server, widgets(strict())).await;
        let extra = widget("a", json!({ "count": 1, "extra": true }));
        let refused = server.post(&format!("{WIDGETS}?fieldValidation=Strict"), extra.clone()).await.expect(400);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(r#"strict decoding error: unknown field "spec.extra""#), "{message}");
        let warned = server.post(WIDGETS, extra.clone()).await;
        assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"spec.extra\"""#);
        assert_eq!(warned.expect(201)["spec"], json!({ "count": 1 }));
        let twice =
            br#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"b"},"spec":{"count":1,"count":2}}"#;
        let headers = [("content-type", "application/json")];
        let refused =
            server.send("POST", &format!("{WIDGETS}?fieldValidation=Strict"), &headers, twice).await.expect(400);
        assert!(refused["message"].as_str().unwrap().contains(r#"duplicate field "spec.count""#));
    });
}

#[test]
fn should_detect_unknown_metadata_fields_in_both_the_root_and_embedded_object_of_a_cr() {
    served(async |server| {
        define(&server, widgets(strict())).await;
        let mut odd = widget(
            "a",
            json!({ "template": { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x", "unknownSub": 1 } } }),
        );
        odd["metadata"]["unknownMeta"] = "x".into();
        let refused = server.post(&format!("{WIDGETS}?fieldValidation=Strict"), odd).await.expect(400);
        let message = refused["message"].as_str().unwrap();
        for field in ["metadata.unknownMeta", "spec.template.metadata.unknownSub"] {
            assert!(message.contains(&format!("unknown field {field:?}")), "{message}");
        }
    });
}

#[test]
fn what_the_schema_forbids_is_refused_in_upstreams_words() {
    served(async |server| {
        define(&server, widgets(strict())).await;
        let wrong = widget(
            "a",
            json!({ "count": 0, "name": "A", "ports": [{ "port": 1 }, { "port": 1 }], "tags": ["x", "x"] }),
        );
        let refused = server.post(WIDGETS, wrong).await.expect(422);
        let message = refused["message"].as_str().unwrap();
        assert_eq!(
            message,
            "Widget.example.com \"a\" is invalid: [spec.count: Invalid value: 0: spec.count in body should be greater than or \
             equal to 1, spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$', spec.ports[1]: Duplicate \
             value: {\"port\":1}, spec.tags[1]: Duplicate value: \"x\"]"
        );
        let wrong = widget("a", json!({ "template": { "metadata": { "labels": { "a": 1 } } } }));
        server.post(WIDGETS, wrong).await.expect(400);
        let named = server.post(WIDGETS, widget("Not_a_name", json!({}))).await.expect(422);
        assert_eq!(named["details"]["causes"][0]["field"], "metadata.name");
    });
}

#[test]
fn a_tightened_schema_leaves_old_objects_alone_until_they_change_there() {
    served(async |server| {
        define(&server, widgets(fields(json!({ "count": { "type": "integer" }, "note": { "type": "string" } })))).await;
        server.post(WIDGETS, widget("a", json!({ "count": 0 }))).await.expect(201);
        redefine(&server, "widgets.example.com", |spec| {
            spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["count"]["minimum"] =
                1.into();
        })
        .await;
        let path = format!("{WIDGETS}/a");
        server.patch(&path, MERGE, json!({ "spec": { "note": "hi" } })).await.expect(200);
        server.patch(&path, MERGE, json!({ "spec": { "count": -1 } })).await.expect(422);
    });
}

#[test]
fn status_and_scale_are_subresources_if_the_definition_says_so() {
    served(async |server| {
        let mut crd = widgets(open());
        crd["spec"]["versions"][0]["subresources"] = json!({ "status": {}, "scale": {
            "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector" } });
        define(&server, crd).await;
        let mut new = widget("a", json!({ "size": 2 }));
        new["status"] = json!({ "size": 9 });
        let created = server.post(WIDGETS, new).await.expect(201);
        assert!(created.get("status").is_none(), "a creator has no say about it");
        let path = format!("{WIDGETS}/a");
        let status = json!({ "metadata": { "labels": { "x": "y" } }, "spec": { "size": 5 }, "status": { "size": 1, "selector": "a=b" } });
        let updated = server.patch(&format!("{path}/status"), MERGE, status).await.expect(200);
        assert_eq!((&updated["spec"]["size"], &updated["status"]["size"]), (&json!(2), &json!(1)));
        assert_eq!((&updated["metadata"]["generation"], &updated["metadata"]["labels"]), (&json!(1), &json!(null)));
        let scale = server.get(&format!("{path}/scale")).await.expect(200);
        assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
        assert_eq!(scale["status"], json!({ "replicas": 1, "selector": "a=b" }));
        let scaled =
            server.patch(&format!("{path}/scale"), MERGE, json!({ "spec": { "replicas": 7 } })).await.expect(200);
        assert_eq!(scaled["spec"]["replicas"], 7);
        let object = server.get(&path).await.expect(200);
        assert_eq!((&object["spec"]["size"], &object["metadata"]["generation"]), (&json!(7), &json!(2)));
        let refused = server.patch(&path, MERGE, json!({ "spec": { "size": -1 } })).await.expect(422);
        assert_eq!(refused["details"]["causes"][0]["field"], ".spec.size");
        // Who applies a Scale hears of it alone.
        let applied = json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "a" },
            "spec": { "replicas": 3 } });
        let conflict = server.patch(&format!("{path}/scale?fieldManager=one"), APPLY, applied).await.expect(409);
        assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.replicas");
        let message = conflict["message"].as_str().unwrap();
        assert!(message.ends_with("with subresource \"scale\" using autoscaling/v1: .spec.replicas"), "{message}");
    });
}

#[test]
fn without_a_status_subresource_status_is_a_field_like_others() {
    served(async |server| {
        define(&server, widgets(open())).await;
        let mut new = widget("a", json!({}));
        new["status"] = json!({ "x": 1 });
        assert_eq!(server.post(WIDGETS, new).await.expect(201)["status"]["x"], 1);
        let changed = server.patch(&format!("{WIDGETS}/a"), MERGE, json!({ "status": { "x": 2 } })).await.expect(200);
        assert_eq!(changed["metadata"]["generation"], 2);
        assert_eq!(server.get(&format!("{WIDGETS}/a/status")).await.code, 404);
    });
}

#[test]
fn printer_columns_are_the_tables_columns() {
    served(async |server| {
        let mut crd = widgets(open());
        crd["spec"]["versions"][0]["additionalPrinterColumns"] = json!([
            { "name": "Size", "type": "integer", "jsonPath": ".spec.size" },
            { "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1 },
            { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
        ]);
        define(&server, crd).await;
        let mut new = widget("a", json!({ "size": 3 }));
        new["status"] =
            json!({ "conditions": [{ "type": "Other", "status": "False" }, { "type": "Ready", "status": "True" }] });
        server.post(WIDGETS, new).await.expect(201);
        let table = server.table(WIDGETS).await;
        let names: Vec<(&Value, &Value)> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|c| (&c["name"], &c["priority"])).collect();
        assert_eq!(
            names,
            [
                (&json!("Name"), &json!(0)),
                (&json!("Size"), &json!(0)),
                (&json!("Ready"), &json!(1)),
                (&json!("Age"), &json!(0))
            ]
        );
        assert_eq!(table["rows"][0]["cells"], json!(["a", 3, "True", "0s"]));
        let mut watch = server.watch_as(&format!("{WIDGETS}?watch=1&resourceVersion=0"), TABLE).await;
        assert_eq!(watch.next().await.unwrap()["object"]["rows"][0]["cells"][1], 3);
    });
}

#[test]
fn selectable_fields_select_in_lists_and_watches() {
    served(async |server| {
        let mut crd = widgets(fields(json!({ "color": { "type": "string" }, "n": { "type": "integer" } })));
        crd["spec"]["versions"][0]["selectableFields"] = json!([{ "jsonPath": ".spec.color" }]);
        define(&server, crd).await;
        for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
            server.post(WIDGETS, widget(name, json!({ "color": color }))).await.expect(201);
        }
        let list = server.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        let mut watch =
            server.watch(&format!("{WIDGETS}?watch=1&resourceVersion=0&fieldSelector=spec.color%3Dblue")).await;
        assert_eq!(watch.brief().await.unwrap(), "ADDED b");
        server.patch(&format!("{WIDGETS}/a"), MERGE, json!({ "spec": { "color": "blue" } })).await.expect(200);
        assert_eq!(watch.brief().await.unwrap(), "ADDED a");
        server.delete(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue"), json!({})).await.expect(200);
        assert_eq!(server.get(WIDGETS).await.expect(200)["items"].as_array().unwrap().len(), 1);
        let unknown = server.get(&format!("{WIDGETS}?fieldSelector=spec.n%3D1")).await.expect(400);
        assert!(unknown["message"].as_str().unwrap().contains("spec.n"), "{unknown}");
    });
}

#[test]
fn several_versions_show_one_object() {
    served(async |server| {
        let mut second = version("v2", fields(json!({ "a": { "type": "string" }, "b": { "type": "string" } })));
        second["deprecated"] = true.into();
        let first = version("v1", fields(json!({ "a": { "type": "string" } })));
        define(&server, definition("example.com", "Widget", json!([first, second]))).await;
        let v2 = WIDGETS.replace("/v1/", "/v2/");
        let mut object = widget("a", json!({ "a": "1", "b": "2" }));
        object["apiVersion"] = "example.com/v2".into();
        let created = server.post(&v2, object).await;
        assert_eq!(created.headers["warning"], r#"299 - "example.com/v2 Widget is deprecated""#);
        created.expect(201);
        let seen = server.get(&format!("{WIDGETS}/a")).await.expect(200);
        assert_eq!((&seen["apiVersion"], &seen["spec"]), (&json!("example.com/v1"), &json!({ "a": "1" })));
        assert_eq!(server.get(&v2).await.expect(200)["items"][0]["apiVersion"], "example.com/v2");
        let group = server.get("/apis/example.com").await.expect(200);
        assert_eq!(group["preferredVersion"]["version"], "v2");
        // The storage version moves on; an update that changes nothing migrates the object.
        redefine(&server, "widgets.example.com", |spec| {
            spec["versions"][0]["storage"] = false.into();
            spec["versions"][1]["storage"] = true.into();
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let crd = server.get(&format!("{CRDS}/widgets.example.com")).await.expect(200);
        assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
        let stored = async || {
            let range = coracle_store::KeyRange::prefix("/registry/example.com/widgets/default/a");
            let kvs = server.store.range(coracle_store::RangeRequest::new(range)).await.unwrap().kvs;
            serde_json::from_slice::<Value>(&kvs[0].value).unwrap()["apiVersion"].clone()
        };
        assert_eq!(stored().await, "example.com/v1");
        let object = server.get(&format!("{WIDGETS}/a")).await.expect(200);
        assert_eq!(object["apiVersion"], "example.com/v1");
        server.put(&format!("{WIDGETS}/a"), object).await.expect(200);
        assert_eq!(stored().await, "example.com/v2");
    });
}

#[test]
fn patches_are_merge_json_and_apply_but_not_strategic() {
    served(async |server| {
        define(&server, widgets(strict())).await;
        server.post(WIDGETS, widget("a", json!({ "count": 1 }))).await.expect(201);
        let path = format!("{WIDGETS}/a");
        server.patch(&path, MERGE, json!({ "spec": { "count": 2 } })).await.expect(200);
        let ops = json!([{ "op": "replace", "path": "/spec/count", "value": 3 }]);
        assert_eq!(server.patch(&path, JSON_PATCH, ops).await.expect(200)["spec"]["count"], 3);
        server.patch(&path, STRATEGIC, json!({ "spec": { "count": 4 } })).await.expect(415);
    });
}

#[test]
fn definitions_and_objects_survive_a_restart() {
    served(async |server| {
        define(&server, widgets(open())).await;
        server.post(WIDGETS, widget("a", json!({ "x": 1 }))).await.expect(201);
        let again = Server::over(server.store.clone()).await;
        assert_eq!(again.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["x"], 1);
    });
}

#[test]
fn rules_hold_objects_together() {
    served(async |server| {
        let mut schema = fields(json!({ "min": { "type": "integer" }, "max": { "type": "integer" } }));
        schema["x-kubernetes-validations"] = json!([
            { "rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is above max'" },
            { "rule": "self.max >= oldSelf.max", "message": "max never shrinks", "fieldPath": ".max" },
        ]);
        define(&server, widgets(schema.clone())).await;
        let refused = server.post(WIDGETS, widget("a", json!({ "min": 2, "max": 1 }))).await.expect(422);
        assert!(refused["message"].as_str().unwrap().contains("min 2 is above max"), "{refused}");
        server.post(WIDGETS, widget("a", json!({ "min": 1, "max": 3 }))).await.expect(201);
        let path = format!("{WIDGETS}/a");
        let refused = server.patch(&path, MERGE, json!({ "spec": { "max": 2 } })).await.expect(422);
        let cause = &refused["details"]["causes"][0];
        assert_eq!(
            (&cause["field"], cause["message"].as_str().unwrap().ends_with("max never shrinks")),
            (&json!("spec.max"), true)
        );
        server.patch(&path, MERGE, json!({ "spec": { "max": 4 } })).await.expect(200);
        let blocked = server.post(WIDGETS, widget("b", json!({ "min": "x", "max": 1 }))).await.expect(422);
        assert!(blocked["message"].as_str().unwrap().contains("some validation rules were not checked"), "{blocked}");

        schema["x-kubernetes-validations"] = json!([{ "rule": "self.none == 1" }]);
        let mut wrong = widgets(schema);
        wrong["spec"]["group"] = "other.example.com".into();
        wrong["metadata"]["name"] = "widgets.other.example.com".into();
        let refused = server.post(CRDS, wrong).await.expect(422);
        assert_eq!(
            refused["details"]["causes"][0]["field"],
            "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule"
        );
    });
}
