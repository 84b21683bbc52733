//! `NodeMetrics` and `PodMetrics`, described as custom resources are: discovery and OpenAPI follow from it.

use std::sync::Arc;

use coracle_api::custom;
use coracle_api::openapi::{Encoding, documents, write_v2};
use coracle_api::resource::Resource;
use serde_json::{Value, json};

pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(crate) const VERSION: &str = "v1beta1";

/// A kind of metrics, by the resource it is of.
pub(crate) struct Kind {
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
}

pub(crate) const KINDS: [Kind; 2] = [
    Kind { plural: "nodes", kind: "NodeMetrics", namespaced: false },
    Kind { plural: "pods", kind: "PodMetrics", namespaced: true },
];

/// The list of resources, as discovery tells it.
pub(crate) fn resources() -> Value {
    let resources = KINDS.iter().map(|Kind { plural, kind, namespaced }| {
        json!({ "name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"] })
    });
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": resources.collect::<Vec<_>>(),
    })
}

/// The group, as discovery tells it.
pub(crate) fn group() -> Value {
    let version = json!({ "groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION });
    json!({ "kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version })
}

fn schema(kind: &str) -> Value {
    let quantity =
        json!({ "anyOf": [{ "type": "integer" }, { "type": "string" }], "x-kubernetes-int-or-string": true });
    let usage = json!({ "type": "object", "additionalProperties": quantity, "description": "The memory usage is the memory working set." });
    let mut properties = json!({
        "timestamp": { "type": "string", "format": "date-time", "description": "The end of the window over which usage is measured: [Timestamp-Window, Timestamp]." },
        "window": { "type": "string", "description": "The length of that window." },
    });
    let of = match kind {
        "PodMetrics" => {
            let container = json!({
                "type": "object",
                "description": "Resource usage of a container.",
                "required": ["name", "usage"],
                "properties": { "name": { "type": "string", "description": "The container's name in its pod." }, "usage": usage },
            });
            properties["containers"] = json!({ "type": "array", "items": container, "description": "Usage of the pod's containers, over the same window." });
            "containers"
        }
        _ => {
            properties["usage"] = usage;
            "usage"
        }
    };
    json!({ "type": "object", "description": format!("{kind} sets resource usage metrics."), "required": ["timestamp", "window", of], "properties": properties })
}

fn rows() -> Vec<Arc<Resource>> {
    let row = |Kind { plural, kind, namespaced }: &Kind| {
        let definition = json!({
            "spec": {
                "group": GROUP,
                "scope": if *namespaced { "Namespaced" } else { "Cluster" },
                "versions": [{ "name": VERSION, "served": true, "storage": true, "schema": { "openAPIV3Schema": schema(kind) } }],
            },
            "status": {
                "acceptedNames": { "plural": plural, "singular": "", "kind": kind, "listKind": format!("{kind}List") },
                "conditions": [{ "type": "Established", "status": "True" }],
            },
        });
        let row = custom::served(&definition)?.rows.into_iter().next()?;
        let definition = format!("io.k8s.metrics.pkg.apis.metrics.{VERSION}.{kind}");
        let verbs = ["get", "list"].map(str::to_owned).to_vec();
        Some(Arc::new(Resource { definition, verbs, ..row.as_ref().clone() }))
    };
    KINDS.iter().filter_map(row).collect()
}

/// An OpenAPI document, by its path.
pub(crate) fn openapi(path: &str) -> Option<Vec<u8>> {
    let (rows, mut out) = (rows(), Vec::new());
    let mut documents = documents(&rows);
    documents.retain(|document| !document.resources.is_empty());
    let written = match path {
        "/openapi/v2" => write_v2(&documents, &[], VERSION, Encoding::Json, &mut out),
        "/openapi/v3" => {
            let of = |path: &str| (path.to_owned(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}") }));
            let paths: serde_json::Map<_, _> = documents.iter().map(|document| of(&document.path)).collect();
            return Some(json!({ "paths": paths }).to_string().into());
        }
        path => documents.iter().find(|document| path.ends_with(&document.path))?.write_v3(&mut out),
    };
    written.ok().map(|()| out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_described() {
        for (path, schemas) in
            [("/openapi/v2", "/definitions"), ("/openapi/v3/apis/metrics.k8s.io/v1beta1", "/components/schemas")]
        {
            let document: Value = serde_json::from_slice(&openapi(path).unwrap()).unwrap();
            let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
            assert!(
                paths.iter().any(|path| *path == "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}"),
                "{paths:?}"
            );
            assert!(document["paths"]["/apis/metrics.k8s.io/v1beta1/nodes"]["post"].is_null());
            let schemas = document.pointer(schemas).unwrap();
            let pods = &schemas["io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"];
            assert_eq!(pods["properties"]["window"]["type"], "string", "{pods}");
            assert!(schemas["io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetricsList"].is_object());
        }
    }
}
