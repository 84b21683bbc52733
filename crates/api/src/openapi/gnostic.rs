//! OpenAPI v2 as protobuf: the messages of gnostic's `OpenAPIv2.proto`, written from JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::protobuf::wire::{put_bytes, put_double, put_int};

/// How a field is encoded.
enum Form {
    Text,
    Texts,
    Flag,
    Whole,
    Real,
    /// Any value, as YAML.
    Any,
    Anys,
    One(fn(&Value) -> Vec<u8>),
    Many(fn(&Value) -> Vec<u8>),
    /// A message of one field 1, repeated: name and value.
    Named(fn(&Value) -> Vec<u8>),
}
use Form::{Any, Anys, Flag, Many, Named, One, Real, Text, Texts, Whole};

type Fields = &'static [(&'static str, u16, Form)];

const SCHEMA: Fields = &[
    ("$ref", 1, Text),
    ("format", 2, Text),
    ("title", 3, Text),
    ("description", 4, Text),
    ("default", 5, Any),
    ("multipleOf", 6, Real),
    ("maximum", 7, Real),
    ("exclusiveMaximum", 8, Flag),
    ("minimum", 9, Real),
    ("exclusiveMinimum", 10, Flag),
    ("maxLength", 11, Whole),
    ("minLength", 12, Whole),
    ("pattern", 13, Text),
    ("maxItems", 14, Whole),
    ("minItems", 15, Whole),
    ("uniqueItems", 16, Flag),
    ("maxProperties", 17, Whole),
    ("minProperties", 18, Whole),
    ("required", 19, Texts),
    ("enum", 20, Anys),
    (
        "additionalProperties",
        21,
        One(|value| match value {
            Value::Bool(any) => flag(2, *any),
            schema => bytes(1, &self::schema(schema)),
        }),
    ),
    (
        "type",
        22,
        One(|value| match value {
            Value::Array(types) => types.iter().flat_map(|ty| text(1, ty)).collect(),
            one => text(1, one),
        }),
    ),
    ("items", 23, One(|value| bytes(1, &schema(value)))),
    ("allOf", 24, Many(schema)),
    ("properties", 25, Named(schema)),
    ("readOnly", 27, Flag),
    ("example", 30, Any),
];
const SCHEMA_EXTENSIONS: u16 = 31;

const OPERATION: Fields = &[
    ("tags", 1, Texts),
    ("description", 3, Text),
    ("operationId", 5, Text),
    ("produces", 6, Texts),
    ("consumes", 7, Texts),
    ("parameters", 8, Many(parameter_item)),
    ("responses", 9, Named(response)),
    ("schemes", 10, Texts),
];
const OPERATION_EXTENSIONS: u16 = 13;

const PATH_ITEM: Fields = &[
    ("get", 2, One(operation)),
    ("put", 3, One(operation)),
    ("post", 4, One(operation)),
    ("delete", 5, One(operation)),
    ("options", 6, One(operation)),
    ("head", 7, One(operation)),
    ("patch", 8, One(operation)),
    ("parameters", 9, Many(parameter_item)),
];

const BODY_PARAMETER: Fields = &[("name", 2, Text), ("in", 3, Text), ("required", 4, Flag), ("schema", 5, One(schema))];
const QUERY_PARAMETER: Fields =
    &[("in", 2, Text), ("description", 3, Text), ("name", 4, Text), ("type", 6, Text), ("uniqueItems", 20, Flag)];
const PATH_PARAMETER: Fields = &[
    ("required", 1, Flag),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("type", 5, Text),
    ("uniqueItems", 19, Flag),
];
const API_KEY: Fields = &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)];

fn bytes(number: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 4);
    put_bytes(&mut out, number, value);
    out
}

fn text(number: u16, value: &Value) -> Vec<u8> {
    bytes(number, value.as_str().unwrap_or_default().as_bytes())
}

fn flag(number: u16, value: bool) -> Vec<u8> {
    let mut out = Vec::new();
    put_int(&mut out, number, u64::from(value));
    out
}

/// `Any { yaml = 2 }`: JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    bytes(2, format!("{value}\n").as_bytes())
}

/// `Named… { name = 1, value = 2 }`.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    [bytes(1, name.as_bytes()), bytes(2, value)].concat()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The message of an object with these fields; what begins with `x-` goes to the field `extensions`.
fn message(object: &Value, fields: Fields, extensions: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        if name.starts_with("x-") && extensions > 0 {
            put_bytes(&mut out, extensions, &named(name, &any(value)));
        }
        let Some((_, number, form)) = fields.iter().find(|(field, ..)| field == name) else { continue };
        let number = *number;
        match form {
            Text => out.extend(text(number, value)),
            Texts => items(value).iter().for_each(|item| out.extend(text(number, item))),
            Flag => put_int(&mut out, number, u64::from(value == &Value::Bool(true))),
            Whole => put_int(&mut out, number, value.as_i64().unwrap_or_default() as u64),
            Real => put_double(&mut out, number, value.as_f64().unwrap_or_default()),
            Any => put_bytes(&mut out, number, &any(value)),
            Anys => items(value).iter().for_each(|item| put_bytes(&mut out, number, &any(item))),
            One(encode) => put_bytes(&mut out, number, &encode(value)),
            Many(encode) => items(value).iter().for_each(|item| put_bytes(&mut out, number, &encode(item))),
            Named(encode) => {
                let entries = value.as_object().into_iter().flatten();
                let entries = entries.flat_map(|(name, value)| bytes(1, &named(name, &encode(value))));
                put_bytes(&mut out, number, &entries.collect::<Vec<u8>>());
            }
        }
    }
    out
}

fn schema(value: &Value) -> Vec<u8> {
    message(value, SCHEMA, SCHEMA_EXTENSIONS)
}

fn operation(value: &Value) -> Vec<u8> {
    message(value, OPERATION, OPERATION_EXTENSIONS)
}

/// `ResponseValue { response = 1 { description = 1, schema = 2 { schema = 1 } } }`.
fn response(value: &Value) -> Vec<u8> {
    let mut response = text(1, &value["description"]);
    if value["schema"].is_object() {
        put_bytes(&mut response, 2, &bytes(1, &schema(&value["schema"])));
    }
    bytes(1, &response)
}

/// `ParametersItem`: a parameter, or a reference to one.
fn parameter_item(value: &Value) -> Vec<u8> {
    if value["$ref"].is_string() { bytes(2, &text(1, &value["$ref"])) } else { bytes(1, &parameter(value)) }
}

/// `Parameter`: of the body, or another (3 is the query's, 4 the path's).
fn parameter(value: &Value) -> Vec<u8> {
    match value["in"].as_str() {
        Some("body") => bytes(1, &message(value, BODY_PARAMETER, 6)),
        Some("path") => bytes(2, &bytes(4, &message(value, PATH_PARAMETER, 22))),
        _ => bytes(2, &bytes(3, &message(value, QUERY_PARAMETER, 23))),
    }
}

/// A document on its way.
pub(super) struct Document {
    head: Vec<u8>,
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

impl Document {
    pub(super) fn new(title: &str, version: &str) -> Self {
        let info = [bytes(1, title.as_bytes()), bytes(2, version.as_bytes())].concat();
        let head = [bytes(1, b"2.0"), bytes(2, &info)].concat();
        Document { head, paths: Vec::new(), definitions: Vec::new() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        put_bytes(&mut self.paths, 2, &named(path, &message(item, PATH_ITEM, 10)));
    }

    pub(super) fn definition(&mut self, name: &str, schema: &Value) {
        put_bytes(&mut self.definitions, 1, &named(name, &self::schema(schema)));
    }

    /// Head and paths, encoded; they are forgotten.
    pub(super) fn paths(&mut self) -> Vec<u8> {
        let paths = std::mem::take(&mut self.paths);
        [std::mem::take(&mut self.head), bytes(8, &paths)].concat()
    }

    /// The rest.
    pub(super) fn finish(self, parameters: &BTreeMap<String, Value>, security: &Value) -> Vec<u8> {
        let parameters: Vec<u8> =
            parameters.iter().flat_map(|(name, value)| bytes(1, &named(name, &parameter(value)))).collect();
        let key = bytes(1, &named("BearerToken", &bytes(2, &message(security, API_KEY, 5))));
        let required = bytes(1, &named("BearerToken", &[]));
        [bytes(9, &self.definitions), bytes(10, &parameters), bytes(12, &required), bytes(13, &key)].concat()
    }
}
