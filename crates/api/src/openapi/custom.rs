//! The schemas of custom resources: what their definition says, and what every object has.

use serde_json::{Value, json};

use super::paths::list_definition;
use super::schemas::{described, gvk, reference};
use crate::resource::Resource;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The schema with that name, if it is the resource's or its list's. `v2`: for clients of OpenAPI v2, which cannot
/// express as much; kubectl refuses what it does not find there.
pub(super) fn definition(resource: &Resource, name: &str, v2: bool) -> Option<Value> {
    let (mut schema, kind) = if name == resource.definition {
        (object(resource, v2), &resource.kind)
    } else if name == list_definition(resource) {
        (list(resource), &resource.list_kind)
    } else {
        return None;
    };
    schema["x-kubernetes-group-version-kind"] = json!([gvk(&resource.group, &resource.version, kind)]);
    Some(schema)
}

fn text(value: String) -> Option<Value> {
    Some(value.into())
}

fn object(resource: &Resource, v2: bool) -> Value {
    let any = json!({ "type": "object" });
    let Some(mut schema) = resource.strategy.openapi().filter(Value::is_object) else { return any };
    if v2 {
        if schema[PRESERVE] == true {
            // Any property here would make kubectl refuse all others.
            return any;
        }
        restrict(&mut schema);
    }
    embedded(&mut schema, v2);
    type_meta(&mut schema);
    let metadata = format!("Standard object's metadata. More info: {CONVENTIONS}#metadata");
    schema["properties"]["metadata"] = described(reference(OBJECT_META), text(metadata));
    schema
}

fn list(resource: &Resource) -> Value {
    let items = json!({ "type": "array", "items": reference(&resource.definition) });
    let about = format!("List of {}. More info: {CONVENTIONS}", resource.plural);
    let metadata = format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds");
    let mut schema = json!({
        "type": "object",
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "required": ["items"],
        "properties": {
            "items": described(items, text(about)),
            "metadata": described(reference(LIST_META), text(metadata)),
        },
    });
    type_meta(&mut schema);
    schema
}

fn type_meta(schema: &mut Value) {
    for (name, about) in [
        (
            "apiVersion",
            format!(
                "APIVersion defines the versioned schema of this representation of an object. Servers should convert \
                 recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
                 {CONVENTIONS}#resources"
            ),
        ),
        (
            "kind",
            format!(
                "Kind is a string value representing the REST resource this object represents. Servers may infer this \
                 from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                 {CONVENTIONS}#types-kinds"
            ),
        ),
    ] {
        schema["properties"][name] = described(json!({ "type": "string" }), text(about));
    }
}

/// Gives embedded resources the metadata that all resources have.
fn embedded(schema: &mut Value, v2: bool) {
    for part in parts(schema) {
        embedded(part, v2);
    }
    if schema["x-kubernetes-embedded-resource"] != true || v2 && schema[PRESERVE] == true {
        return;
    }
    type_meta(schema);
    schema["properties"]["metadata"] = reference(OBJECT_META);
    let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.contains(&name.into()) {
            required.push(name.into());
        }
    }
    schema["required"] = required.into();
}

/// The schemas directly below one.
fn parts(schema: &mut Value) -> Vec<&mut Value> {
    let mut parts = Vec::new();
    for (word, value) in schema.as_object_mut().into_iter().flatten() {
        match word.as_str() {
            "properties" => parts.extend(value.as_object_mut().into_iter().flatten().map(|(_, part)| part)),
            "items" | "additionalProperties" if value.is_object() => parts.push(value),
            _ => {}
        }
    }
    parts
}

/// Leaves out what kubectl cannot read in OpenAPI v2: what may be null, or anything, has no type.
fn restrict(schema: &mut Value) {
    let nullable = |part: &Value| part["nullable"] == true;
    let (null, any) = (nullable(schema), schema[PRESERVE] == true);
    let may_be_null: Vec<Value> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, part)| nullable(part))
        .map(|(name, _)| name.as_str().into())
        .collect();
    let no_value_required = nullable(&schema["additionalProperties"]);
    let Some(map) = schema.as_object_mut() else { return };
    if null || any {
        map.remove("items");
        map.remove("properties");
    }
    let ty = map.get("type").and_then(Value::as_str);
    if null || ty == Some("array") && !map.contains_key("items") || any && ty == Some("object") {
        map.remove("type");
    }
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !no_value_required && !may_be_null.contains(name));
        if required.is_empty() {
            map.remove("required");
        }
    }
    for word in ["allOf", "anyOf", "oneOf", "not", "nullable"] {
        map.remove(word);
    }
    parts(schema).into_iter().for_each(restrict);
}
