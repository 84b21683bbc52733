//! One operation on a path, in OpenAPI v3.

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::schemas::reference;
use crate::schema::{Kind, type_of};

pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// What an operation answers with.
pub(super) enum Answer<'a> {
    /// An object of that definition.
    Object(&'a str),
    /// A list of that definition, or a stream of events.
    List(&'a str),
    /// Text, also asked for as an object.
    Log,
    /// Whatever it is.
    Any,
}

/// An operation before it is JSON.
pub(super) struct Operation<'a> {
    /// The HTTP method, in lower case.
    pub method: &'static str,
    /// `get`, `list`, `watch`, `watchlist`, `post`, `put`, `patch`, `delete`, `deletecollection`, `connect`.
    pub action: &'static str,
    pub id: String,
    pub description: String,
    /// The types whose fields are its query parameters.
    pub options: &'a [&'a str],
    /// Fields of these that are none.
    pub except: &'a [&'a str],
    /// The definition of its body.
    pub body: Option<&'a str>,
    pub answer: Answer<'a>,
}

/// What all operations on one resource share.
pub(super) struct Shared<'a> {
    pub texts: &'a Descriptions,
    pub tag: &'a str,
    pub gvk: Value,
    /// Built-in kinds speak protobuf and strategic merge patches.
    pub builtin: bool,
}

impl Operation<'_> {
    /// The operation with its path's parameters, sorted, among its own.
    fn to_value(&self, shared: &Shared, in_path: &[Value]) -> Value {
        let mut parameters = in_path.to_vec();
        let all = |name: &str| !self.except.contains(&name);
        for ty in self.options {
            parameters
                .extend(query_parameters(ty, shared.texts).into_iter().filter(|(name, _)| all(name)).map(|p| p.1));
        }
        if self.action != "connect" {
            let text = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent \
                        indicates a browser or command-line HTTP tool (curl and wget).";
            parameters.push(parameter("pretty", "query", "string", text.into()));
        }
        parameters.sort_by(|a, b| by_name(a).cmp(&by_name(b)));
        let mut responses = Map::new();
        let codes: &[(&str, &str)] = match self.action {
            "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "put" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        for (code, description) in codes {
            let content = self.content(shared);
            responses.insert((*code).into(), json!({ "description": description, "content": content }));
        }
        responses.insert("401".into(), json!({ "description": "Unauthorized" }));
        let mut operation = json!({
            "operationId": self.id,
            "description": self.description,
            "tags": [shared.tag],
            "parameters": parameters,
            "responses": responses,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": shared.gvk,
        });
        if let Some(definition) = self.body {
            let content = match self.action {
                "patch" => content(patch_types(shared.builtin), &reference(definition)),
                _ => content(&["*/*"], &reference(definition)),
            };
            operation["requestBody"] = json!({ "content": content });
            if definition != DELETE_OPTIONS {
                operation["requestBody"]["required"] = true.into();
            }
        }
        operation
    }

    fn content(&self, shared: &Shared) -> Value {
        let (mut types, schema) = match self.answer {
            Answer::Any => return content(&["*/*"], &json!({ "type": "string" })),
            Answer::Log => (vec![JSON, YAML, PROTOBUF, "text/plain"], json!({ "type": "string" })),
            Answer::Object(definition) => (vec![JSON, YAML, PROTOBUF], reference(definition)),
            Answer::List(definition) => ([&[JSON, YAML, PROTOBUF], &STREAMS[..]].concat(), reference(definition)),
        };
        types.retain(|media| shared.builtin || matches!(*media, JSON | YAML));
        content(&types, &schema)
    }
}

pub(super) fn patch_types(builtin: bool) -> &'static [&'static str] {
    let all = &[
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    if builtin { all } else { &all[..3] }
}

fn content(types: &[&str], schema: &Value) -> Value {
    types.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect()
}

/// A path's operations. Parameters that all of them have are said once.
pub(super) fn path_item(operations: &[Operation], shared: &Shared, in_path: &[Value]) -> Value {
    let mut item = Map::new();
    for operation in operations {
        item.insert(operation.method.into(), operation.to_value(shared, in_path));
    }
    let empty = Vec::new();
    let of = |operation: &Value| operation["parameters"].as_array().unwrap_or(&empty).clone();
    let Some(first) = item.values().next().map(of) else { return item.into() };
    let common: Vec<Value> = first
        .into_iter()
        .filter(|parameter| item.values().all(|operation| of(operation).contains(parameter)))
        .collect();
    for operation in item.values_mut().filter_map(Value::as_object_mut) {
        let own: Vec<Value> = of(&Value::Object(operation.clone()));
        let own: Vec<Value> = own.into_iter().filter(|parameter| !common.contains(parameter)).collect();
        match own.is_empty() {
            true => _ = operation.remove("parameters"),
            false => _ = operation.insert("parameters".into(), own.into()),
        }
    }
    if !common.is_empty() {
        item.insert("parameters".into(), common.into());
    }
    item.into()
}

fn by_name(parameter: &Value) -> (Option<&str>, Option<&str>) {
    (parameter["name"].as_str(), parameter["in"].as_str())
}

/// A parameter of the path.
pub(super) fn path_parameter(name: &str, description: &str) -> Value {
    let mut parameter = parameter(name, "path", "string", description.into());
    parameter["required"] = true.into();
    parameter
}

fn parameter(name: &str, place: &str, ty: &str, description: Value) -> Value {
    let schema = json!({ "type": ty, "uniqueItems": true });
    let mut parameter = json!({ "name": name, "in": place, "schema": schema });
    if !description.is_null() {
        parameter["description"] = description;
    }
    parameter
}

/// An options type's fields as query parameters; structures cannot be any.
fn query_parameters(ty: &str, texts: &Descriptions) -> Vec<(&'static str, Value)> {
    let mut descriptions = texts.of(ty).1;
    let fields = type_of(ty).map(|ty| ty.fields.as_slice()).unwrap_or_default();
    let typed = fields.iter().filter_map(|field| {
        let ty = match field.kind {
            Kind::String => "string",
            Kind::Bool => "boolean",
            Kind::Int32 | Kind::Int64 => "integer",
            _ => return None,
        };
        Some((field.name, parameter(field.name, "query", ty, descriptions.remove(field.name).unwrap_or_default())))
    });
    typed.collect()
}
