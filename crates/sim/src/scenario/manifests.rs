//! Objects from files: manifests, and what a running cluster's export holds.

use std::collections::BTreeSet;

use coracle_api::registry;
use serde::Deserialize;
use serde_json::Value;

/// Made by the cluster itself: in an export, these are left out.
const OWN_KINDS: [&str; 9] = [
    "Node",
    "Event",
    "Endpoints",
    "EndpointSlice",
    "Lease",
    "ControllerRevision",
    "PodMetrics",
    "NodeMetrics",
    "ComponentStatus",
];

/// The kinds that definitions of custom resources have added: `apiVersion` and `kind`.
pub type Kinds = BTreeSet<(String, String)>;

/// The objects in a text of YAML (or JSON) documents; lists are taken apart.
///
/// # Errors
/// It is no YAML, or an object of no known kind: what is wrong, with its line.
pub fn read(text: &str, kinds: &mut Kinds) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document).map_err(|error| error.to_string())?;
        if !object.is_null() {
            add(object, kinds, &mut objects)?;
        }
    }
    Ok(objects)
}

/// Takes an object in, or those of a list. What a definition defines is known from then on.
///
/// # Errors
/// Its kind is not known.
pub fn add(object: Value, kinds: &mut Kinds, objects: &mut Vec<Value>) -> Result<(), String> {
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) {
        let items = object["items"].as_array().cloned().unwrap_or_default();
        return items.into_iter().filter_map(exported).try_for_each(|item| add(item, kinds, objects));
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    if registry::lookup_kind(version, kind).is_none() && !kinds.contains(&(version.to_owned(), kind.to_owned())) {
        return Err(format!(
            "there is no kind {kind:?} in {version:?}; a custom resource needs its CustomResourceDefinition before it"
        ));
    }
    kinds.extend(defined(&object));
    if text("/metadata/name").is_empty() {
        return Err(format!("a {kind} has no metadata.name"));
    }
    objects.push(object);
    Ok(())
}

/// The kinds that an object defines, if it is a definition.
fn defined(object: &Value) -> Vec<(String, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/kind") != "CustomResourceDefinition" {
        return Vec::new();
    }
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let names = versions.filter_map(|version| version["name"].as_str());
    names.map(|name| (format!("{}/{name}", text("/spec/group")), text("/spec/names/kind").to_owned())).collect()
}

/// An object of an export without what the cluster adds by itself; nothing if the cluster made all of it.
fn exported(mut object: Value) -> Option<Value> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name, namespace) = (text("/kind"), text("/metadata/name"), text("/metadata/namespace"));
    let owned = object.pointer("/metadata/ownerReferences").is_some();
    let system = namespace.starts_with("kube-") || (kind == "Namespace" && name.starts_with("kube-"));
    let usual = [
        ("Service", "kubernetes"),
        ("ServiceAccount", "default"),
        ("ConfigMap", "kube-root-ca.crt"),
        ("Namespace", "default"),
    ];
    if owned || system || OWN_KINDS.contains(&kind) || usual.contains(&(kind, name)) {
        return None;
    }
    let of_pod = kind == "Pod";
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"]
            .iter()
            .for_each(|field| drop(metadata.remove(*field)));
    }
    if let Some(spec) = object["spec"].as_object_mut() {
        ["clusterIP", "clusterIPs", "volumeName"].iter().for_each(|field| {
            if spec.get(*field).is_some_and(|value| value != "None") {
                spec.remove(*field);
            }
        });
        if of_pod {
            spec.remove("nodeName");
        }
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_loaded_without_what_clusters_make_themselves() {
        let export = "apiVersion: v1\nkind: List\nitems:\n\
            - {apiVersion: v1, kind: Node, metadata: {name: n1}}\n\
            - {apiVersion: v1, kind: Pod, metadata: {name: p, ownerReferences: [{kind: ReplicaSet}]}}\n\
            - {apiVersion: v1, kind: Service, metadata: {name: kubernetes}}\n\
            - {apiVersion: v1, kind: Service, metadata: {name: web, uid: u, resourceVersion: '7'}, spec: {clusterIP: 10.0.0.1, ports: []}, status: {}}\n\
            - {apiVersion: v1, kind: Pod, metadata: {name: alone}, spec: {nodeName: n1}}\n\
            ---\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        let objects = read(export, &mut Kinds::new()).unwrap();
        let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["web", "alone", "shop"]);
        assert_eq!(
            objects[0],
            serde_json::json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": { "ports": [] },
            })
        );
        assert_eq!(objects[1]["spec"], serde_json::json!({}));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, hint) in [
            ("kind: Deployment\nmetadata: {name: a}\napiVersion: v1\n", "there is no kind \"Deployment\" in \"v1\""),
            ("apiVersion: v1\nkind: Pod\n", "metadata.name"),
            ("a: [\n", "line 2"),
            ("apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: a}\n", "CustomResourceDefinition before it"),
        ] {
            let refused = read(text, &mut Kinds::new()).unwrap_err();
            assert!(refused.contains(hint), "{refused}");
        }
    }
}
