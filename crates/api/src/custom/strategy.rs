//! The strategy of custom resources: everything their kinds differ in is the schema.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{CustomKind, PrinterColumn, Scale, at, jsonpath, lists, validate, value};
use crate::field::FieldErrors;
use crate::kinds::carry_over;
use crate::meta;
use crate::resource::Strategy;

/// The [`Strategy`] of one version of one definition.
#[derive(Debug)]
pub(super) struct CustomStrategy {
    pub(super) kind: Arc<CustomKind>,
}

impl Strategy for CustomStrategy {
    fn decode(&self, object: &mut Value, problems: &mut Vec<String>) -> Result<(), String> {
        let mut unknown = Vec::new();
        value::coerce(object, &self.kind.schema, &mut unknown)?;
        if !self.kind.preserves {
            unknown.extend(value::prune(object, &self.kind.schema));
        }
        unknown.sort();
        problems.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
        Ok(())
    }

    fn default(&self, object: &mut Value) {
        self.kind.settle(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let (true, Some(map)) = (self.kind.status, object.as_object_mut()) {
            map.remove("status");
        }
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, subresource: &str) {
        match subresource {
            "status" => {
                let given = std::mem::replace(new, old.clone());
                carry_over(new, &given, &["status"]);
                let managed = given["metadata"].get("managedFields").cloned();
                if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
                    meta.remove("managedFields");
                    meta.extend(managed.map(|list| ("managedFields".to_owned(), list)));
                }
            }
            _ if self.kind.status => carry_over(new, old, &["status"]),
            _ => {}
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        validate::validate(&self.kind.schema, object, None, "", errors);
        self.scale_spec(object, errors);
        self.scale_status(object, errors);
        self.embedded(object, errors);
        lists::validate(&self.kind.schema, object, "", errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
        validate::validate(&self.kind.schema, new, Some(old), "", errors);
        if subresource != "status" {
            self.scale_spec(new, errors);
        }
        self.scale_status(new, errors);
        self.embedded(new, errors);
        // Sets and maps that were none before need not become some now.
        let mut before = FieldErrors::default();
        lists::validate(&self.kind.schema, old, "", &mut before);
        if before.0.is_empty() {
            lists::validate(&self.kind.schema, new, "", errors);
        }
    }

    fn openapi(&self) -> Option<Value> {
        // Of old definitions that preserve everything, the schema only validates.
        Some(match self.kind.preserves {
            true => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
            false => self.kind.document.clone(),
        })
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        std::iter::once(name).chain(self.kind.columns.iter().map(|column| cell(column, object))).collect()
    }
}

impl CustomKind {
    /// Brings an object into the form of the schema: unknown fields and forbidden nulls go, defaults come.
    pub fn settle(&self, object: &mut Value) {
        if !self.preserves {
            value::prune(object, &self.schema);
        }
        value::prune_nulls(object, &self.schema);
        value::default(object, &self.schema);
    }
}

impl CustomStrategy {
    fn replicas(&self, path: &str, object: &Value, errors: &mut FieldErrors) {
        match at(object, path) {
            Value::Null => {}
            value => match value.as_i64() {
                None => errors.invalid(
                    path,
                    0,
                    format!("{path} accessor error: {value} is of the type {}, expected int64", go_type(value)),
                ),
                Some(n) if n < 0 => errors.invalid(path, n, "should be a non-negative integer"),
                Some(n) if n > i64::from(i32::MAX) => {
                    errors.invalid(path, n, format!("should be less than or equal to {}", i32::MAX));
                }
                Some(_) => {}
            },
        }
    }

    fn scale_spec(&self, object: &Value, errors: &mut FieldErrors) {
        if let Some(scale) = &self.kind.scale {
            self.replicas(&scale.spec, object, errors);
        }
    }

    fn scale_status(&self, object: &Value, errors: &mut FieldErrors) {
        let Some(Scale { status, selector, .. }) = &self.kind.scale else { return };
        self.replicas(status, object, errors);
        let value = if selector.is_empty() { &Value::Null } else { at(object, selector) };
        if !value.is_null() && !value.is_string() {
            let why = format!("{selector} accessor error: {value} is of the type {}, expected string", go_type(value));
            errors.invalid(selector, "", why);
        }
    }

    /// The metadata of embedded objects.
    fn embedded(&self, object: &Value, errors: &mut FieldErrors) {
        walk(&self.kind.schema, object, "", errors);
    }
}

fn walk(schema: &super::Schema, value: &Value, path: &str, errors: &mut FieldErrors) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => {
            if schema.embedded {
                check_embedded(map, path, errors);
            }
            for (key, value) in map {
                if let Some(part) = schema.properties.get(key).or_else(|| schema.additional()) {
                    walk(part, value, &join(key), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(part) = schema.item() else { return };
            items.iter().enumerate().for_each(|(i, item)| walk(part, item, &format!("{path}[{i}]"), errors));
        }
        _ => {}
    }
}

fn check_embedded(map: &Map<String, Value>, path: &str, errors: &mut FieldErrors) {
    for key in ["apiVersion", "kind"] {
        if map.get(key).and_then(Value::as_str).unwrap_or_default().is_empty() {
            errors.required(&format!("{path}.{key}"), "must not be empty");
        }
    }
    if let Some(meta) = map.get("metadata") {
        let at = format!("{path}.metadata");
        meta::validate_labels(&meta["labels"], &format!("{at}.labels"), errors);
        meta::validate_annotations(&meta["annotations"], &format!("{at}.annotations"), errors);
    }
}

pub(super) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    }
}

/// A cell: the first value the path leads to, if it is of the column's type.
fn cell(column: &PrinterColumn, object: &Value) -> Value {
    let Some(value) = column.path.find(object).into_iter().next() else { return Value::Null };
    match (column.kind.as_str(), value) {
        (_, Value::Null) => Value::Null,
        ("string", value) => jsonpath::text(value).into(),
        ("integer", Value::Number(number)) => {
            // Fractions are cut off, as Go does it.
            #[allow(clippy::cast_possible_truncation, reason = "out of range saturates")]
            let whole = number.as_i64().or_else(|| number.as_f64().map(|n| n as i64));
            whole.map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(_) => crate::table::since(value).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
