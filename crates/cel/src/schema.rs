//! Declarations from structural schemas (and other OpenAPI v3 schemas without references).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::types::{Decl, Field, ListKind, Object, Shape, Type};

/// The most bytes a request has, which bounds what is not bounded by its schema.
const MAX_REQUEST: u64 = 3 << 20;

/// The words that cannot stand as names in expressions.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// A property's name in expressions; `None` if it has none.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::new();
    let mut rest = name;
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        return None;
    }
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            escaped.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => escaped.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(escaped)
}

/// The property's name of a name in expressions.
pub(crate) fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return word.to_owned();
    }
    let pairs = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
    let (mut plain, mut rest) = (String::new(), name);
    while let Some(c) = rest.chars().next() {
        if let Some((escape, meant)) = pairs.iter().find(|(escape, _)| rest.starts_with(escape)) {
            plain.push_str(meant);
            rest = &rest[escape.len()..];
        } else {
            plain.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    plain
}

impl Decl {
    /// What a schema declares; `None` for what expressions cannot see (no type, unknown fields only).
    /// `root` is true for whole objects, whose `apiVersion`, `kind` and `metadata` are always there.
    pub fn from_schema(schema: &Json, root: bool) -> Option<Arc<Decl>> {
        let number = |field: &str| schema[field].as_i64().map(|n| n.max(0) as u64);
        let decl = |shape, max_elements, min_bytes| Some(Arc::new(Decl { shape, max_elements, min_bytes }));
        if schema["x-kubernetes-int-or-string"] == true {
            let most = number("maxLength").map_or(MAX_REQUEST - 2, |n| n.saturating_mul(4));
            return decl(Shape::IntOrString, most, 1);
        }
        let embedded = |schema: &Json| schema["x-kubernetes-embedded-resource"] == true;
        match schema["type"].as_str()? {
            "array" => {
                let items = Decl::from_schema(&schema["items"], embedded(&schema["items"]))?;
                let most = number("maxItems").unwrap_or((MAX_REQUEST - 2) / (items.min_bytes + 1));
                decl(Shape::List(items, list_kind(schema)), most, 2)
            }
            "object" if schema["additionalProperties"].is_object() && !root => {
                let values = &schema["additionalProperties"];
                let values = Decl::from_schema(values, embedded(values))?;
                let most = number("maxProperties").unwrap_or((MAX_REQUEST - 2) / (values.min_bytes + 6));
                decl(Shape::Map(values), most, 2)
            }
            "object" => {
                let (object, min_bytes) = object(schema, root);
                decl(Shape::Object(Arc::new(object)), 0, min_bytes)
            }
            "string" => match schema["format"].as_str() {
                Some("byte") => decl(Shape::Plain(Type::Bytes), number("maxLength").unwrap_or(MAX_REQUEST - 2), 2),
                Some("duration") => decl(Shape::Plain(Type::Duration), 32, 3),
                Some("date") => decl(Shape::Plain(Type::Timestamp), 12, 12),
                Some("date-time") => decl(Shape::Plain(Type::Timestamp), 37, 22),
                _ => {
                    let longest = schema["enum"]
                        .as_array()
                        .filter(|values| !values.is_empty())
                        .map(|values| values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64);
                    let most = number("maxLength").map(|n| n.saturating_mul(4)).or(longest);
                    decl(Shape::Plain(Type::String), most.unwrap_or(MAX_REQUEST - 2), 2)
                }
            },
            "boolean" => decl(Shape::Plain(Type::Bool), 0, 4),
            "number" => decl(Shape::Plain(Type::Double), 0, 1),
            "integer" => decl(Shape::Plain(Type::Int), 0, 1),
            _ => None,
        }
    }
}

fn list_kind(schema: &Json) -> ListKind {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            ListKind::Map(keys.filter_map(|key| key.as_str().map(str::to_owned)).collect())
        }
        _ => ListKind::Atomic,
    }
}

/// An object's declaration, and its least size.
fn object(schema: &Json, root: bool) -> (Object, u64) {
    let none = serde_json::Map::new();
    let mut properties = schema["properties"].as_object().unwrap_or(&none).clone();
    if root {
        let text = json!({ "type": "string" });
        properties.insert("apiVersion".into(), text.clone());
        properties.insert("kind".into(), text.clone());
        let meta = properties.entry("metadata").or_insert_with(|| json!({}));
        // Of the metadata, only the names; what the schema says about them bounds them.
        let property = |name: &str| match &meta["properties"][name] {
            Json::Null => text.clone(),
            declared => declared.clone(),
        };
        let names = json!({ "name": property("name"), "generateName": property("generateName") });
        *meta = json!({ "type": "object", "properties": names });
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let (mut fields, mut min_bytes) = (BTreeMap::new(), 2);
    for (name, property) in &properties {
        let Some(decl) = Decl::from_schema(property, property["x-kubernetes-embedded-resource"] == true) else {
            continue;
        };
        if required.contains(&name.as_str()) && property["default"].is_null() {
            min_bytes += name.len() as u64 + decl.min_bytes + 4;
        }
        if let Some(escaped) = escape(name) {
            fields.insert(escaped, Field { json: name.clone(), decl });
        }
    }
    let name = schema["title"].as_str().filter(|name| name.starts_with("kubernetes.")).unwrap_or("object");
    (Object { name: name.to_owned(), fields }, min_bytes)
}
