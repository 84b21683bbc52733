//! OpenAPI v2 (Swagger): all documents in one, for clients that know no better.
//!
//! It is v3 said in other words: `allOf` around a reference opened up, alternatives left out, defaults left out
//! (clients before v3 took them for values to send), parameters that many operations have said once for all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::{Document, Entries, SCHEMAS, gnostic, references, security};

/// How the document is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// JSON.
    Json,
    /// gnostic's `openapi.v2.Document`.
    Protobuf,
}

const TITLE: &str = "Kubernetes";

/// Writes the documents of a server of that version as one, and what `others` (documents of v2) have besides.
///
/// # Errors
/// Those of `out`.
pub fn write_v2(
    documents: &[Document],
    others: &[Arc<Value>],
    version: &str,
    encoding: Encoding,
    out: &mut dyn Write,
) -> io::Result<()> {
    let texts = Descriptions::unpack();
    let mut parameters = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    let mut paths = |add: &mut dyn FnMut(&str, Value)| {
        for document in documents {
            document.paths(&texts, &mut |path, item| {
                references(&item, SCHEMAS, &mut wanted);
                add(&path, path_item(item, &mut parameters));
            });
        }
        for other in others {
            entries(&other["paths"]).for_each(|(path, item)| add(path, item.clone()));
            entries(&other["parameters"]).for_each(|(name, parameter)| {
                parameters.entry(name.clone()).or_insert_with(|| parameter.clone());
            });
        }
    };
    let all_definitions = |wanted, add: &mut dyn FnMut(&str, Value)| {
        let mut known = BTreeSet::new();
        definitions(documents, wanted, &texts, &mut |name, schema| {
            known.insert(name.to_owned());
            add(name, schema);
        });
        for (name, schema) in others.iter().flat_map(|other| entries(&other["definitions"])) {
            if known.insert(name.clone()) {
                add(name, schema.clone());
            }
        }
    };
    match encoding {
        Encoding::Json => {
            let info = json!({ "title": TITLE, "version": version });
            write!(out, r#"{{"swagger":"2.0","info":{info},"paths":{{"#)?;
            let mut entries = Entries::new(out);
            paths(&mut |path, item| entries.add(path, &item));
            entries.result?;
            write!(out, r#"}},"definitions":{{"#)?;
            let mut entries = Entries::new(out);
            all_definitions(wanted, &mut |name, schema| entries.add(name, &schema));
            entries.result?;
            let security = json!({ "BearerToken": security() });
            let parameters: Map<String, Value> = parameters.into_iter().collect();
            let parameters = Value::Object(parameters);
            write!(
                out,
                r#"}},"parameters":{parameters},"securityDefinitions":{security},"security":[{{"BearerToken":[]}}]}}"#
            )
        }
        Encoding::Protobuf => {
            let mut document = gnostic::Document::new(TITLE, version);
            paths(&mut |path, item| document.path(path, &item));
            out.write_all(&document.paths())?;
            all_definitions(wanted, &mut |name, schema| document.definition(name, &schema));
            out.write_all(&document.finish(&parameters, &security()))
        }
    }
}

fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flatten()
}

/// Of a document of v2 what is below a path, and what that needs.
pub fn below(mut document: Value, path: &str) -> Value {
    let is_below = |at: &String| at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        paths.retain(|at, _| is_below(at));
    }
    let mut wanted = BTreeSet::new();
    references(&document["paths"], "#/definitions/", &mut wanted);
    let mut looked_at = 0;
    while looked_at < wanted.len() {
        looked_at = wanted.len();
        for name in wanted.clone() {
            references(&document["definitions"][name], "#/definitions/", &mut wanted);
        }
    }
    if let Some(definitions) = document.get_mut("definitions").and_then(Value::as_object_mut) {
        definitions.retain(|name, _| wanted.contains(name));
    }
    document
}

/// Gives every definition that any path needs to `add`.
fn definitions(
    documents: &[Document],
    wanted: BTreeSet<String>,
    texts: &Descriptions,
    add: &mut dyn FnMut(&str, Value),
) {
    let mut everywhere: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let versions: BTreeSet<(&str, &str)> =
        documents.iter().flat_map(|d| &d.resources).map(|r| (r.group.as_str(), r.version.as_str())).collect();
    for kind in ["DeleteOptions", "WatchEvent"] {
        everywhere
            .insert(kind, versions.iter().map(|(group, version)| super::schemas::gvk(group, version, kind)).collect());
    }
    super::definitions(documents, ("", ""), wanted, texts, true, &mut |name, schema| {
        let mut schema = self::schema(schema);
        if let Some(gvks) = name.rsplit('.').next().and_then(|kind| everywhere.get(kind)) {
            schema["x-kubernetes-group-version-kind"] = gvks.clone().into();
        }
        add(name, schema);
    });
}

/// A path's item in v2. Its parameters go to `shared`, by name.
fn path_item(item: Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let Value::Object(item) = item else { return item };
    let item = item.into_iter().map(|(key, value)| match key.as_str() {
        "parameters" => (key, list(value).into_iter().map(|p| parameter(&p, shared)).collect()),
        _ => (key, operation(value, shared)),
    });
    Value::Object(item.collect())
}

fn operation(mut operation: Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let media = |content: &Value| content.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let mut parameters = Vec::new();
    let mut consumes: Vec<String> = Vec::new();
    if let Some(body) = operation.as_object_mut().and_then(|map| map.remove("requestBody")) {
        consumes = media(&body["content"]);
        let schema =
            body["content"].as_object().and_then(|map| map.values().next()).map(|media| media["schema"].clone());
        let mut parameter = json!({ "in": "body", "name": "body", "schema": self::schema(schema.unwrap_or_default()) });
        if body["required"] == true {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
    }
    parameters.extend(list(operation["parameters"].take()).iter().map(|p| self::parameter(p, shared)));
    let mut produces: Vec<String> = Vec::new();
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let content = response.as_object_mut().and_then(|map| map.remove("content")).unwrap_or_default();
        if produces.is_empty() {
            produces = media(&content);
        }
        if let Some(one) = content.as_object().and_then(|map| map.values().next()) {
            response["schema"] = schema(one["schema"].clone());
        }
    }
    if consumes.is_empty() {
        consumes.push("*/*".into());
    }
    operation["consumes"] = consumes.into();
    operation["produces"] = produces.into();
    operation["schemes"] = json!(["https"]);
    match parameters.is_empty() {
        true => _ = operation.as_object_mut().map(|map| map.remove("parameters")),
        false => operation["parameters"] = parameters.into(),
    }
    operation
}

/// A reference to a parameter, which is in `shared` afterwards.
fn parameter(parameter: &Value, shared: &mut BTreeMap<String, Value>) -> Value {
    let mut flat = parameter.clone();
    if let Some(map) = flat.as_object_mut()
        && let Some(Value::Object(schema)) = map.remove("schema")
    {
        map.extend(schema);
    }
    let name = flat["name"].as_str().unwrap_or_default();
    let reference = format!("{name}-{:08x}", checksum(&flat.to_string()));
    let answer = json!({ "$ref": format!("#/parameters/{reference}") });
    shared.insert(reference, flat);
    answer
}

/// FNV-1a.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(items) = value { items } else { Vec::new() }
}

/// A schema in v2.
pub(super) fn schema(schema: Value) -> Value {
    let Value::Object(mut map) = schema else { return schema };
    // A Quantity is sent as a string, a port as what it is.
    if let Some(alternatives) = map.remove("oneOf") {
        let plain =
            alternatives.as_array().is_some_and(|all| all.iter().any(|one| *one == json!({ "type": "string" })));
        if plain && !map.contains_key("type") {
            map.insert("type".into(), "string".into());
        }
    }
    for word in ["default", "anyOf", "not", "nullable"] {
        map.remove(word);
    }
    let alternatives = map.remove("allOf");
    if let Some(Value::Object(one)) = alternatives.and_then(|all| list(all).into_iter().next()) {
        map.extend(one.into_iter().filter(|(word, _)| word == "$ref"));
    }
    for (word, value) in &mut map {
        match (word.as_str(), value.take()) {
            ("$ref", Value::String(name)) => *value = name.replace("#/components/schemas/", "#/definitions/").into(),
            ("items" | "additionalProperties", inner) => *value = self::schema(inner),
            ("properties", Value::Object(inner)) => {
                *value = inner.into_iter().map(|(name, inner)| (name, self::schema(inner))).collect();
            }
            (_, same) => *value = same,
        }
    }
    map.into()
}
