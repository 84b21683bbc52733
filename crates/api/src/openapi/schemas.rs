//! The schemas of types: what the [table of fields](crate::schema) says of them, as OpenAPI.

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use crate::registry::builtin;
use crate::resource::Resource;
use crate::schema::{Field, Kind, Shape, Type, definition_of, short_name, type_of};

/// Types that are no messages: name, the table's code, schema.
const PLAIN: [(&str, &str, &str); 12] = [
    (QUANTITY, "q", r#"{"oneOf":[{"type":"string"},{"type":"number"}]}"#),
    (INT_OR_STRING, "I", r#"{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}"#),
    ("meta.v1.Time", "t", r#"{"type":"string","format":"date-time"}"#),
    ("meta.v1.MicroTime", "u", r#"{"type":"string","format":"date-time"}"#),
    ("meta.v1.Duration", "D", r#"{"type":"string"}"#),
    ("meta.v1.FieldsV1", "r", r#"{"type":"object"}"#),
    ("meta.v1.Patch", "r", r#"{"type":"object"}"#),
    (RAW_EXTENSION, "r", r#"{"type":"object"}"#),
    ("apiextensions.v1.JSON", "r", "{}"),
    ("apiextensions.v1.JSONSchemaPropsOrBool", "B", "{}"),
    ("apiextensions.v1.JSONSchemaPropsOrArray", "A", "{}"),
    ("apiextensions.v1.JSONSchemaPropsOrStringArray", "S", "{}"),
];
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// The table's code for a type that is no message, by its short name.
pub fn plain_code(name: &str) -> Option<&'static str> {
    PLAIN.iter().find(|(plain, ..)| *plain == name).map(|(_, code, _)| *code)
}

/// The default that a field's schema has unless the table says otherwise: what Go always writes is Go's zero.
pub fn implied_default(schema: &Value, required: bool) -> Option<Value> {
    match (schema["type"].as_str(), &schema["format"]) {
        _ if !required => None,
        (Some("string"), Value::Null) => Some("".into()),
        (Some("integer"), _) => Some(0.into()),
        (Some("boolean"), _) => Some(false.into()),
        _ => None,
    }
}

pub(super) fn reference(definition: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{definition}") })
}

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

/// The schema of a built-in type by its OpenAPI name, in the document of that group and version.
pub(super) fn definition(name: &str, group: &str, version: &str, texts: &Descriptions) -> Option<Value> {
    let short = short_name(name);
    let (description, mut fields) = texts.of(short);
    let mut schema = match (PLAIN.iter().find(|(plain, ..)| *plain == short), type_of(name)) {
        (Some((.., schema)), _) => serde_json::from_str(schema).ok()?,
        (None, Some(ty)) => {
            if ty.object {
                texts.of("object").1.into_iter().for_each(|(name, text)| _ = fields.insert(name, text));
            }
            message(ty, |field| fields.get(field).cloned(), (group, version))
        }
        _ => return None,
    };
    description.into_iter().for_each(|text| schema["description"] = text);
    Some(schema)
}

fn message<'a>(ty: &Type, describe: impl Fn(&str) -> Option<Value> + 'a, document: (&str, &str)) -> Value {
    let mut properties = Map::new();
    let fields = ty.json_fields();
    if ty.object {
        for name in ["apiVersion", "kind"] {
            properties.insert(name.into(), described(json!({ "type": "string" }), describe(name)));
        }
    }
    for field in &fields {
        properties.insert(field.name.into(), described(property(ty, field), describe(field.name)));
    }
    let mut schema = json!({ "type": "object" });
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if let Some(union) = ty.union {
        schema["x-kubernetes-unions"] = json!([self::union(union)]);
    }
    let gvks = gvks(ty, document);
    if !gvks.is_empty() {
        schema["x-kubernetes-group-version-kind"] = gvks.into();
    }
    schema
}

/// `discriminator:field:field`: the one field that is set is named by the discriminator.
fn union(text: &str) -> Value {
    let (discriminator, fields) = text.split_once(':').unwrap_or((text, ""));
    let fields: Map<String, Value> =
        fields.split(':').map(|field| (field.to_owned(), super::capitalised(field).into())).collect();
    let mut union = json!({ "fields-to-discriminateBy": fields });
    if !discriminator.is_empty() {
        union["discriminator"] = discriminator.into();
    }
    union
}

/// The kinds that a type is the schema of. What every group has is one of the document's group, too.
fn gvks(ty: &Type, (group, version): (&str, &str)) -> Vec<Value> {
    let kind = ty.go_name();
    let mut gvks = Vec::new();
    let everywhere = matches!(ty.name, "meta.v1.DeleteOptions" | "meta.v1.WatchEvent");
    if ty.object || everywhere {
        let package = ty.name.strip_suffix(kind).unwrap_or_default();
        let of = |r: &&std::sync::Arc<Resource>| short_name(&r.definition).starts_with(package);
        let rows = builtin();
        let (group, version) = rows.iter().find(of).map_or(("", "v1"), |r| (&r.group, &r.version));
        gvks.push(gvk(group, version, kind));
    }
    if everywhere && !group.is_empty() {
        gvks.push(gvk(group, version, kind));
    }
    gvks
}

/// The schema of a field, without its description.
fn property(owner: &Type, field: &Field) -> Value {
    let one = kind(owner, field);
    let mut schema = match field.shape {
        Shape::List => json!({ "type": "array", "items": one }),
        Shape::Map => json!({ "type": "object", "additionalProperties": one }),
        Shape::One | Shape::Inline => one,
    };
    let default = match field.default() {
        Some(text) => serde_json::from_str(text).ok(),
        None if field.always => Some(json!({})),
        None => implied_default(&schema, field.required),
    };
    default.into_iter().for_each(|default| schema["default"] = default);
    if let Some((list_type, keys)) = field.declared_list_type() {
        let on_map = field.shape == Shape::Map || schema["$ref"].is_string();
        schema[if on_map { "x-kubernetes-map-type" } else { "x-kubernetes-list-type" }] = list_type.into();
        if !keys.is_empty() {
            schema["x-kubernetes-list-map-keys"] = keys.split(',').collect();
        }
    }
    if let Some((strategy, key)) = field.patch_strategy() {
        schema["x-kubernetes-patch-strategy"] = strategy.into();
        if !key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = key.into();
        }
    }
    schema
}

fn kind(owner: &Type, field: &Field) -> Value {
    let plain = |short: &str| reference(&definition_of(short));
    match field.kind {
        Kind::String => json!({ "type": "string" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Int32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Int64 => json!({ "type": "integer", "format": "int64" }),
        Kind::Double => json!({ "type": "number", "format": "double" }),
        Kind::Bytes => json!({ "type": "string", "format": "byte" }),
        Kind::Strings => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Quantity => plain(QUANTITY),
        Kind::IntOrString => plain(INT_OR_STRING),
        Kind::Time => plain("meta.v1.Time"),
        Kind::MicroTime => plain("meta.v1.MicroTime"),
        Kind::Duration => plain("meta.v1.Duration"),
        Kind::Raw if owner.name.starts_with("apiextensions.") => plain("apiextensions.v1.JSON"),
        Kind::Raw if field.name == "fieldsV1" => plain("meta.v1.FieldsV1"),
        Kind::Raw => plain(RAW_EXTENSION),
        Kind::SchemaOrBool => plain("apiextensions.v1.JSONSchemaPropsOrBool"),
        Kind::SchemaOrArray => plain("apiextensions.v1.JSONSchemaPropsOrArray"),
        Kind::SchemaOrStrings => plain("apiextensions.v1.JSONSchemaPropsOrStringArray"),
        Kind::Message(_) => plain(field.message().map_or("", |ty| ty.name)),
    }
}

/// Adds a description. A `$ref` hides what stands beside it; inside `allOf` it does not.
pub(super) fn described(mut schema: Value, description: Option<Value>) -> Value {
    description.into_iter().for_each(|text| schema["description"] = text);
    if let Some(map) = schema.as_object_mut().filter(|map| map.len() > 1) {
        let reference = map.remove("$ref");
        reference.into_iter().for_each(|name| _ = map.insert("allOf".into(), json!([{ "$ref": name }])));
    }
    schema
}
