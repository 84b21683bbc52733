//! OpenAPI v3 documents, one per group-version, made when asked for.
//!
//! kubectl reads them for `explain`, and before `apply` and `create -f` to learn whether the server validates
//! fields (the PATCH operation of the kind has a `fieldValidation` parameter). The schemas come from
//! `k8s-openapi` with their descriptions; what those lack (list types, merge keys, group-version-kinds, empty
//! defaults) comes from the [schema table](crate::schema); the paths come from the registry's rows.

mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::resource::Resource;

/// The document of a group-version. `resources` are those of that group-version, built-in or custom.
pub fn openapi_v3(group: &str, version: &str, resources: &[Arc<Resource>]) -> Value {
    openapi_v3_with(group, version, resources, &BTreeMap::new())
}

/// As [`openapi_v3`], with the schemas of custom resources by their definition's name.
pub fn openapi_v3_with(
    group: &str,
    version: &str,
    resources: &[Arc<Resource>],
    custom: &BTreeMap<String, Value>,
) -> Value {
    let mut schemas = schemas::components(resources, custom);
    let paths = paths::paths(group, version, resources);
    schemas::add_lists(&mut schemas, resources);
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "unversioned" },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey", "description": "Bearer Token authentication",
                    "name": "authorization", "in": "header",
                },
            },
        },
    })
}

fn reference(definition: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{definition}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    fn document(group: &str, version: &str) -> Value {
        let of = |r: &Arc<Resource>| r.group == group && r.version == version;
        openapi_v3(group, version, &builtin().into_iter().filter(of).collect::<Vec<_>>())
    }

    #[test]
    fn kubectl_finds_what_it_looks_for_before_apply() {
        let apps = document("apps", "v1");
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        let names: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
        assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
    }

    #[test]
    fn kubectl_explain_finds_kinds_and_descriptions() {
        let core = document("", "v1");
        let schemas = &core["components"]["schemas"];
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
        assert_eq!(pod["properties"]["spec"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
        assert_eq!(pod["properties"]["spec"]["default"], json!({}));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert!(containers["description"].as_str().unwrap().contains("containers"));
        assert_eq!(schemas["io.k8s.api.core.v1.PodList"]["required"], json!(["items"]));
    }

    #[test]
    fn every_reference_in_every_document_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let groups: std::collections::BTreeSet<_> =
            builtin().iter().map(|r| (r.group.clone(), r.version.clone())).collect();
        for (group, version) in groups {
            let document = document(&group, &version);
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(document["components"]["schemas"][name].is_object(), "{group}/{version}: {name}");
            }
        }
    }

    #[test]
    fn a_custom_resource_brings_its_schema() {
        let mut widget = (*builtin()[0]).clone();
        widget.group = "example.com".into();
        widget.definition = "com.example.v1.Widget".into();
        (widget.kind, widget.plural, widget.list_kind) = ("Widget".into(), "widgets".into(), "WidgetList".into());
        widget.verbs = ["get", "list", "patch", "create"].map(str::to_owned).to_vec();
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        let custom = BTreeMap::from([("com.example.v1.Widget".to_owned(), schema)]);
        let document = openapi_v3_with("example.com", "v1", &[Arc::new(widget)], &custom);
        let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
        assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
        let path = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"];
        assert!(path["patch"]["requestBody"]["content"]["application/strategic-merge-patch+json"].is_null());
        assert!(path["delete"].is_null());
    }
}
