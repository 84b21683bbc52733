use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::protobuf::wire;
use crate::registry::builtin;

fn document(path: &str) -> Value {
    let documents = documents(&builtin());
    written(documents.iter().find(|document| document.path == path).unwrap())
}

fn written(document: &Document) -> Value {
    let mut out = Vec::new();
    document.write_v3(&mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

fn v2(resources: &[Arc<Resource>], encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    write_v2(&documents(resources), &[], "v1.36.2", encoding, &mut out).unwrap();
    out
}

/// Every name that is referred to.
fn referred(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "$ref" => _ = found.insert(text.strip_prefix(prefix).unwrap_or("?").to_owned()),
            _ => referred(value, prefix, found),
        }),
        Value::Array(items) => items.iter().for_each(|value| referred(value, prefix, found)),
        _ => {}
    }
}

#[test]
fn kubectl_finds_what_it_looks_for_before_apply() {
    let apps = document("apis/apps/v1");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let names: Vec<&str> = patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
}

#[test]
fn fields_carry_what_upstreams_carry() {
    let schemas = document("api/v1")["components"]["schemas"].take();
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
    assert_eq!(pod["properties"]["spec"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert_eq!(pod["properties"]["spec"]["default"], json!({}));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers belonging to the pod."));
    let port = &schemas["io.k8s.api.core.v1.ContainerPort"];
    assert_eq!(
        (&port["properties"]["protocol"]["default"], &port["required"]),
        (&json!("TCP"), &json!(["containerPort"]))
    );
    assert_eq!(schemas["io.k8s.api.core.v1.SeccompProfile"]["x-kubernetes-unions"][0]["discriminator"], "type");
    assert_eq!(schemas["io.k8s.api.core.v1.PodList"]["required"], json!(["items"]));
}

#[test]
fn every_reference_in_every_document_leads_somewhere() {
    let documents = documents(&builtin());
    for document in &documents {
        let (path, document) = (&document.path, written(document));
        let mut found = BTreeSet::new();
        referred(&document, "#/components/schemas/", &mut found);
        for name in found {
            assert!(document["components"]["schemas"][&name].is_object(), "{path}: {name}");
        }
    }
    let paths: Vec<&str> = documents.iter().map(|document| document.path.as_str()).collect();
    assert_eq!(paths[..4], [".well-known/openid-configuration", "api", "apis", "apis/admissionregistration.k8s.io"]);
    assert!(paths.contains(&"apis/autoscaling/v2") && paths.contains(&"version") && paths.contains(&"api/v1"));
}

/// One line a document: a change of anything shows here, and `examples/import_openapi.rs` tells of what.
#[test]
fn documents_are_what_they_were() {
    let fnv = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
    };
    let mut lines = Vec::new();
    for document in documents(&builtin()) {
        let mut out = Vec::new();
        document.write_v3(&mut out).unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        let count = |value: &Value| value.as_object().map_or(0, |map| map.len());
        let (paths, schemas) = (count(&value["paths"]), count(&value["components"]["schemas"]));
        lines.push(format!("{} paths={paths} schemas={schemas} {:016x}", document.path, fnv(&out)));
    }
    let golden = include_str!("golden.txt");
    assert_eq!(lines.join("\n"), golden.trim_end(), "if this is meant, the left side is the new golden.txt");
}

#[test]
fn v2_says_the_same_in_other_words() {
    let document: Value = serde_json::from_slice(&v2(&builtin(), Encoding::Json)).unwrap();
    let mut found = BTreeSet::new();
    referred(&document, "#/", &mut found);
    for name in found {
        let (kind, name) = name.split_once('/').unwrap();
        assert!(document[kind][name].is_object(), "{kind} {name}");
    }
    let schemas = &document["definitions"];
    let spec = &schemas["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].is_string() && spec["default"].is_null());
    assert_eq!(schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
    let port = &schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
    let create = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    let body = json!({ "$ref": "#/definitions/io.k8s.api.core.v1.Pod" });
    let body = json!({ "in": "body", "name": "body", "required": true, "schema": body });
    assert_eq!(create["parameters"][0], body);
    assert_eq!(create["responses"]["201"]["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    let reference = create["parameters"][1]["$ref"].as_str().unwrap().trim_start_matches("#/parameters/");
    assert_eq!(document["parameters"][reference]["name"], "dryRun");
    let gvks = schemas["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]["x-kubernetes-group-version-kind"].clone();
    assert!(gvks.as_array().unwrap().contains(&json!({"group": "apps", "version": "v1", "kind": "DeleteOptions"})));
}

/// The length-delimited fields of a message.
fn fields(message: &[u8]) -> BTreeMap<u64, Vec<&[u8]>> {
    let mut all: BTreeMap<u64, Vec<&[u8]>> = BTreeMap::new();
    for field in wire::Reader(message) {
        if let (number, wire::Wire::Bytes(bytes)) = field.unwrap() {
            all.entry(number).or_default().push(bytes);
        }
    }
    all
}

#[test]
fn v2_in_protobuf_is_gnostics_document() {
    let bytes = v2(&builtin(), Encoding::Protobuf);
    let document = fields(&bytes);
    assert_eq!(document[&1], [b"2.0"]);
    assert_eq!(fields(document[&2][0])[&2], [b"v1.36.2"]);
    let named = |message: &[u8], number: u64, name: &str| -> Vec<u8> {
        let all = fields(message)[&number].clone();
        fields(all.into_iter().find(|one| fields(one)[&1][0] == name.as_bytes()).unwrap())[&2][0].to_vec()
    };
    let pod = named(document[&9][0], 1, "io.k8s.api.core.v1.Pod");
    assert_eq!(fields(fields(&pod)[&22][0])[&1], [b"object"]);
    let spec = named(fields(&pod)[&25][0], 1, "spec");
    assert_eq!(fields(&spec)[&1], [b"#/definitions/io.k8s.api.core.v1.PodSpec"]);
    let gvk = named(&pod, 31, "x-kubernetes-group-version-kind");
    let yaml: Value = serde_yaml_ng::from_slice(fields(&gvk)[&2][0]).unwrap();
    assert_eq!(yaml[0]["kind"], "Pod");
    let path = named(document[&8][0], 2, "/api/v1/namespaces/{namespace}/pods");
    assert_eq!(fields(fields(&path)[&4][0])[&5], [b"createCoreV1NamespacedPod"]);
}

fn widget() -> Arc<Resource> {
    let schema = json!({ "type": "object", "description": "A widget.", "properties": {
        "spec": { "type": "object", "required": ["size", "maybe"], "properties": {
            "size": { "type": "integer", "minimum": 1 },
            "maybe": { "type": "object", "nullable": true, "properties": { "x": { "type": "string" } } },
            "any": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            "template": { "type": "object", "x-kubernetes-embedded-resource": true },
        }},
    }});
    let version = json!({ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } });
    let definition = json!({
        "spec": { "group": "stable.example.com", "scope": "Namespaced", "versions": [version] },
        "status": { "acceptedNames": { "kind": "Widget", "listKind": "WidgetList", "plural": "widgets" },
                    "conditions": [{ "type": "Established", "status": "True" }] },
    });
    crate::custom::served(&definition).unwrap().storage
}

#[test]
fn a_custom_resource_is_published_as_its_definition_says() {
    let documents = documents(&[widget()]);
    let document = written(documents.iter().find(|d| d.path == "apis/stable.example.com/v1").unwrap());
    let schema = &document["components"]["schemas"]["com.example.stable.v1.Widget"];
    assert_eq!(schema["description"], "A widget.");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(schema["properties"]["apiVersion"]["description"].is_string());
    let meta = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(schema["properties"]["metadata"]["allOf"][0]["$ref"], meta);
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["maybe"]["nullable"], true);
    assert_eq!(spec["template"]["properties"]["metadata"]["$ref"], meta);
    assert_eq!(spec["template"]["required"], json!(["kind", "apiVersion"]));
    let list = &document["components"]["schemas"]["com.example.stable.v1.WidgetList"];
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.stable.v1.Widget");
    let path = &document["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/widgets/{name}"];
    let types: Vec<&String> = path["patch"]["requestBody"]["content"].as_object().unwrap().keys().collect();
    assert_eq!(types, ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]);
}

#[test]
fn in_v2_a_custom_resource_says_nothing_kubectl_would_misread() {
    let document: Value = serde_json::from_slice(&v2(&[widget()], Encoding::Json)).unwrap();
    let spec = &document["definitions"]["com.example.stable.v1.Widget"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["size"]));
    assert_eq!(spec["properties"]["maybe"], json!({}));
    assert_eq!(spec["properties"]["any"], json!({ "x-kubernetes-preserve-unknown-fields": true }));
    assert_eq!(spec["properties"]["size"], json!({ "type": "integer", "minimum": 1 }));
}
