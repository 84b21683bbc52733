//! Custom resources in OpenAPI, as soon as they are defined. Conformance: CustomResourcePublishOpenAPI.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::custom::{CRDS, define};
use common::*;
use serde_json::{Value, json};

fn definition(group: &str, kind: &str, versions: &[&str], schema: &Value) -> Value {
    let version = |name: &&str| {
        let schema = json!({ "openAPIV3Schema": schema });
        json!({ "name": name, "served": true, "storage": *name == versions[0], "schema": schema })
    };
    custom::definition(group, kind, versions.iter().map(version).collect())
}

/// What upstream's test defines: a `spec` with lists of objects and required fields.
fn bars() -> Value {
    json!({ "type": "object", "description": "Foo CRD for Testing", "properties": {
        "spec": { "type": "object", "description": "Specification of Foo", "properties": { "bars": {
            "type": "array", "description": "List of Bars and their specs.", "items": {
                "type": "object", "required": ["name"], "properties": {
                    "name": { "type": "string", "description": "Name of Bar." },
                    "age": { "type": "string", "description": "Age of Bar." },
                    "bazs": { "type": "array", "items": { "type": "string" }, "description": "List of Bazs." },
                },
            },
        } } },
        "status": { "type": "object", "description": "Status of Foo" },
    } })
}

/// A schema from both documents: v3's and v2's.
async fn published(server: &Server, group: &str, version: &str, name: &str) -> (Value, Value) {
    let v3 = server.get(&format!("/openapi/v3/apis/{group}/{version}")).await;
    let v3 = if v3.code == 200 { v3.json()["components"]["schemas"][name].clone() } else { Value::Null };
    let v2 = server.get("/openapi/v2").await.expect(200);
    let listed = server.get("/openapi/v3").await.expect(200)["paths"][format!("apis/{group}/{version}")].is_object();
    assert_eq!(listed, !v3.is_null());
    (v3, v2["definitions"][name].clone())
}

/// Waits until a schema is in both documents, or in neither.
async fn wait(server: &Server, group: &str, version: &str, name: &str, there: bool) -> (Value, Value) {
    for _ in 0..100 {
        let found = published(server, group, version, name).await;
        if found.0.is_object() == there && found.1.is_object() == there {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} of {group}/{version}: is it there? should be {there}");
}

#[test]
fn works_for_crd_with_validation_schema() {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v1"], &bars())).await;
        let (v3, v2) = wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        for schema in [&v3, &v2] {
            assert_eq!(schema["description"], "Foo CRD for Testing");
            assert_eq!(
                schema["x-kubernetes-group-version-kind"],
                json!([{"group": "example.com", "version": "v1", "kind": "Foo"}])
            );
            for name in ["apiVersion", "kind", "metadata", "spec", "status"] {
                assert!(schema["properties"][name]["description"].is_string(), "{name}");
            }
            let bar = &schema["properties"]["spec"]["properties"]["bars"]["items"];
            assert_eq!((&bar["required"], &bar["properties"]["age"]["type"]), (&json!(["name"]), &json!("string")));
        }
        assert!(
            wait(&server, "example.com", "v1", "com.example.v1.FooList", true).await.0["properties"]["items"]
                .is_object()
        );
    });
}

#[test]
fn works_for_crd_without_validation_schema() {
    preserving(&json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }));
}

#[test]
fn works_for_crd_preserving_unknown_fields_at_the_schema_root() {
    let mut schema = bars();
    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    preserving(&schema);
}

/// In v2 there is no property at all, or kubectl would refuse all others.
fn preserving(schema: &Value) {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v1"], schema)).await;
        let (v3, v2) = wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        assert_eq!(v3["x-kubernetes-preserve-unknown-fields"], true);
        assert!(v3["properties"]["metadata"].is_object());
        let gvk = json!([{"group": "example.com", "version": "v1", "kind": "Foo"}]);
        assert_eq!(v2, json!({ "type": "object", "x-kubernetes-group-version-kind": gvk }));
    });
}

#[test]
fn works_for_crd_preserving_unknown_fields_in_an_embedded_object() {
    served(async |server| {
        let embedded = json!({
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
        });
        let schema = json!({ "type": "object", "properties": { "spec": embedded.clone() } });
        define(&server, definition("example.com", "Foo", &["v1"], &schema)).await;
        let (v3, v2) = wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        assert_eq!(v3["properties"]["spec"]["required"], json!(["kind", "apiVersion"]));
        assert!(v3["properties"]["spec"]["properties"]["metadata"].is_object());
        // Without a type kubectl takes anything.
        let spec = &v2["properties"]["spec"];
        assert_eq!((&spec["type"], &spec["properties"]), (&Value::Null, &Value::Null));
        assert_eq!(spec["x-kubernetes-embedded-resource"], true);
    });
}

#[test]
fn works_for_multiple_crds_of_different_groups() {
    served(async |server| {
        for group in ["a.example.com", "b.example.com"] {
            define(&server, definition(group, "Foo", &["v1"], &bars())).await;
        }
        wait(&server, "a.example.com", "v1", "com.example.a.v1.Foo", true).await;
        wait(&server, "b.example.com", "v1", "com.example.b.v1.Foo", true).await;
    });
}

#[test]
fn works_for_multiple_crds_of_same_group_but_different_versions() {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v2", "v3"], &bars())).await;
        define(&server, definition("example.com", "Bar", &["v4"], &bars())).await;
        for (version, kind) in [("v2", "Foo"), ("v3", "Foo"), ("v4", "Bar")] {
            wait(&server, "example.com", version, &format!("com.example.{version}.{kind}"), true).await;
        }
    });
}

#[test]
fn works_for_multiple_crds_of_same_group_and_version_but_different_kinds() {
    served(async |server| {
        for kind in ["Foo", "Bar"] {
            define(&server, definition("example.com", kind, &["v1"], &bars())).await;
        }
        wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        wait(&server, "example.com", "v1", "com.example.v1.Bar", true).await;
    });
}

#[test]
fn updates_the_published_spec_when_one_version_gets_renamed() {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v2", "v3"], &bars())).await;
        wait(&server, "example.com", "v3", "com.example.v3.Foo", true).await;
        let rename = json!([{ "op": "replace", "path": "/spec/versions/1/name", "value": "v4" }]);
        server.patch(&format!("{CRDS}/foos.example.com"), JSON_PATCH, rename).await.expect(200);
        wait(&server, "example.com", "v4", "com.example.v4.Foo", true).await;
        wait(&server, "example.com", "v3", "com.example.v3.Foo", false).await;
        wait(&server, "example.com", "v2", "com.example.v2.Foo", true).await;
    });
}

#[test]
fn removes_definition_from_spec_when_one_version_gets_changed_to_not_be_served() {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v5", "v6alpha1"], &bars())).await;
        wait(&server, "example.com", "v6alpha1", "com.example.v6alpha1.Foo", true).await;
        let hide = json!([{ "op": "replace", "path": "/spec/versions/1/served", "value": false }]);
        server.patch(&format!("{CRDS}/foos.example.com"), JSON_PATCH, hide).await.expect(200);
        wait(&server, "example.com", "v6alpha1", "com.example.v6alpha1.Foo", false).await;
        wait(&server, "example.com", "v5", "com.example.v5.Foo", true).await;
    });
}

/// Conformance: AggregatedDiscovery should support aggregated discovery interface for CRDs.
#[test]
fn aggregated_discovery_should_support_aggregated_discovery_interface_for_crds() {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v1"], &bars())).await;
        wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        let discovery = kube::Discovery::new(server.client()).run_aggregated().await.unwrap();
        let found = discovery.get("example.com").unwrap().recommended_kind("Foo").unwrap().0;
        assert_eq!((found.plural.as_str(), found.version.as_str()), ("foos", "v1"));
    });
}

/// Conformance: AggregatedDiscovery should support raw aggregated discovery request for CRDs.
#[test]
fn aggregated_discovery_should_support_raw_request_for_crds() {
    served(async |server| {
        define(&server, definition("example.com", "Foo", &["v1"], &bars())).await;
        wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let list = server.send("GET", "/apis", &[("accept", accept)], b"").await.expect(200);
        let group = list["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "example.com").unwrap();
        let resource = &group["versions"][0]["resources"][0];
        assert_eq!((&resource["resource"], &resource["scope"]), (&json!("foos"), &json!("Namespaced")));
        let kind = json!({ "group": "example.com", "version": "v1", "kind": "Foo" });
        assert_eq!(resource["responseKind"], kind);
    });
}

#[test]
fn documents_of_other_groups_stay_what_they_are() {
    served(async |server| {
        let before = server.get("/openapi/v3").await.expect(200);
        define(&server, definition("example.com", "Foo", &["v1"], &bars())).await;
        wait(&server, "example.com", "v1", "com.example.v1.Foo", true).await;
        let after = server.get("/openapi/v3").await.expect(200);
        assert_eq!(before["paths"]["api/v1"], after["paths"]["api/v1"]);
        server.delete(&format!("{CRDS}/foos.example.com"), json!({})).await.expect(200);
        wait(&server, "example.com", "v1", "com.example.v1.Foo", false).await;
        assert_eq!(server.get("/openapi/v3").await.expect(200), before);
    });
}
