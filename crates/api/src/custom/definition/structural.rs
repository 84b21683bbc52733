//! Structural schemas (KEP-1180): what the API server must know of every field stands outside of `allOf`, `anyOf`,
//! `oneOf` and `not`, so that it can prune and default by it.

use crate::custom::schema::{Schema, SchemaOrBool};
use crate::field::FieldErrors;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps a schema at `path` from being structural, in order of the messages.
pub fn problems(schema: &Schema, path: &str) -> FieldErrors {
    let mut errors = FieldErrors::default();
    invariants(schema, Level::Root, path, &mut errors);
    complete_all(schema, Some(schema), path, &mut errors);
    errors.0.sort_by_cached_key(ToString::to_string);
    errors
}

fn child(path: &str, name: &str) -> String {
    format!("{path}.properties[{name}]")
}

fn invariants(schema: &Schema, level: Level, path: &str, errors: &mut FieldErrors) {
    let at = |field: &str| format!("{path}.{field}");
    if schema.kind == "array" && schema.items.is_none() {
        errors.required(&at("items"), "must be specified");
    }
    if let Some(item) = schema.item() {
        invariants(item, Level::Item, &at("items"), errors);
    }
    for (name, part) in &schema.properties {
        invariants(part, Level::Field, &child(path, name), errors);
    }
    if schema.additional_properties.is_some() {
        if level == Level::Root {
            errors.forbidden(&at("additionalProperties"), "must not be used at the root");
        }
        if let Some(part) = schema.additional() {
            invariants(part, Level::Field, &at("additionalProperties"), errors);
        }
        if schema.embedded {
            errors.forbidden(&at("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set");
        }
    }
    if schema.int_or_string {
        for (set, field) in [(schema.preserves(), "preserve-unknown-fields"), (schema.embedded, "embedded-resource")] {
            if set {
                let why = "must be false if x-kubernetes-int-or-string is true";
                errors.invalid(&at(&format!("x-kubernetes-{field}")), true, why);
            }
        }
    }
    let either = |list: &[Schema]| matches!(list, [a, b] if only_type(a, "integer") && only_type(b, "string"));
    let skip_first = schema.all_of.first().is_some_and(|first| either(&first.any_of));
    junctors(schema, level, either(&schema.any_of), skip_first, path, errors);
    types(schema, level, path, errors);
    let meta = level == Level::Root || schema.embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(part) = schema.properties.get(name).filter(|part| meta && part.kind != "string") {
            errors.invalid(&format!("{}.type", child(path, name)), part.kind.as_str(), "must be string");
        }
    }
    if let Some(part) = schema.properties.get("metadata") {
        metadata(part, meta, level, &child(path, "metadata"), errors);
    }
    if schema.embedded && !schema.preserves() && schema.properties.is_empty() {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&at("properties"), why);
    }
}

fn types(schema: &Schema, level: Level, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.type");
    let embedded = "must be object if x-kubernetes-embedded-resource is true";
    match schema.kind.as_str() {
        "" if schema.embedded => errors.required(&at, embedded),
        kind if schema.embedded && kind != "object" => errors.invalid(&at, kind, embedded),
        "" if !schema.int_or_string && !schema.preserves() => errors.required(
            &at,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        ),
        _ => {}
    }
    if level == Level::Root && !schema.kind.is_empty() && schema.kind != "object" {
        errors.invalid(&at, schema.kind.as_str(), "must be object at the root");
    }
}

/// `metadata` of a resource: only its name may be restricted.
fn metadata(schema: &Schema, checked: bool, level: Level, path: &str, errors: &mut FieldErrors) {
    if checked && schema.kind != "object" {
        errors.invalid(&format!("{path}.type"), schema.kind.as_str(), "must be object");
    }
    let more = schema.properties.keys().any(|name| !matches!(name.as_str(), "name" | "generateName"))
        || schema.additional_properties.is_some()
        || schema.items.is_some()
        || schema.preserve_unknown.is_some()
        || schema.nullable
        || schema.description.0
        || schema.title.0
        || schema.list_type.is_some()
        || schema.map_type.is_some()
        || has_rules(schema);
    if level == Level::Root && more {
        errors.forbidden(
            path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

fn has_rules(schema: &Schema) -> bool {
    !(schema.required.is_empty()
        && schema.allowed.is_empty()
        && schema.pattern.is_empty()
        && schema.format.is_empty()
        && schema.all_of.is_empty()
        && schema.any_of.is_empty()
        && schema.one_of.is_empty()
        && schema.not.is_none()
        && schema.rules.is_empty()
        && schema.max_properties.is_none()
        && schema.min_properties.is_none())
}

fn only_type(schema: &Schema, kind: &str) -> bool {
    schema.kind == kind
        && !has_rules(schema)
        && schema.properties.is_empty()
        && schema.items.is_none()
        && schema.default.is_none()
        && schema.minimum.is_none()
        && schema.maximum.is_none()
        && !schema.description.0
}

/// The junctors of a schema. `skip_any`, `skip_first`: they are the pattern that spells int-or-string.
fn junctors(schema: &Schema, level: Level, skip_any: bool, skip_first: bool, path: &str, errors: &mut FieldErrors) {
    let lists =
        [("anyOf", &schema.any_of, skip_any), ("allOf", &schema.all_of, false), ("oneOf", &schema.one_of, false)];
    for (name, list, _) in lists.iter().filter(|(.., skip)| !skip) {
        for (i, part) in list.iter().enumerate() {
            let skip = *name == "allOf" && skip_first && i == 0;
            nested(part, skip, level, &format!("{path}.{name}[{i}]"), errors);
        }
    }
    if let Some(not) = &schema.not {
        nested(not, false, level, &format!("{path}.not"), errors);
    }
    if !schema.pattern.is_empty() && schema.regex().is_none() {
        let why = match regex::Regex::new(&schema.pattern) {
            Err(error) => error.to_string().replace('\n', " "),
            Ok(_) => String::new(),
        };
        errors.invalid(
            &format!("{path}.pattern"),
            schema.pattern.as_str(),
            format!("must be a valid regular expression, but isn't: {why}"),
        );
    }
}

/// A schema under a junctor: it may restrict values, but say nothing about structure.
fn nested(schema: &Schema, skip_any: bool, level: Level, path: &str, errors: &mut FieldErrors) {
    junctors(schema, level, skip_any, false, path, errors);
    if let Some(item) = schema.item() {
        nested(item, false, level, &format!("{path}.items"), errors);
    }
    for (name, part) in &schema.properties {
        nested(part, false, Level::Field, &child(path, name), errors);
    }
    let (empty, undefined, not) =
        ("must be empty to be structural", "must be undefined to be structural", "must be false to be structural");
    for (found, field, why) in [
        (!schema.kind.is_empty(), "type", empty),
        (schema.additional_properties.is_some(), "additionalProperties", undefined),
        (schema.default.is_some(), "default", undefined),
        (schema.title.0, "title", empty),
        (schema.description.0, "description", empty),
        (schema.nullable, "nullable", not),
        (schema.external_docs.0, "externalDocs", undefined),
        (schema.preserves(), "x-kubernetes-preserve-unknown-fields", not),
        (schema.embedded, "x-kubernetes-embedded-resource", not),
        (schema.int_or_string, "x-kubernetes-int-or-string", not),
        (!schema.list_map_keys.is_empty(), "x-kubernetes-list-map-keys", empty),
        (schema.list_type.is_some(), "x-kubernetes-list-type", undefined),
        (schema.map_type.is_some(), "x-kubernetes-map-type", undefined),
        (!schema.rules.is_empty(), "x-kubernetes-validations", empty),
    ] {
        if found {
            errors.forbidden(&format!("{path}.{field}"), why);
        }
    }
    if schema.properties.contains_key("metadata") {
        errors.forbidden(&child(path, "metadata"), "must not be specified in a nested context");
    }
}

/// Whether every field that junctors speak of is specified outside of them.
fn complete_all(schema: &Schema, structure: Option<&Schema>, path: &str, errors: &mut FieldErrors) {
    for (name, list) in [("allOf", &schema.all_of), ("anyOf", &schema.any_of), ("oneOf", &schema.one_of)] {
        for (i, part) in list.iter().enumerate() {
            complete(part, structure, &format!("{path}.{name}[{i}]"), path, errors);
        }
    }
    if let Some(not) = &schema.not {
        complete(not, structure, &format!("{path}.not"), path, errors);
    }
    for (name, part) in &schema.properties {
        complete_all(part, Some(part), &child(path, name), errors);
    }
    if let Some(part) = schema.item() {
        complete_all(part, Some(part), &format!("{path}.items"), errors);
    }
    if let Some(part) = schema.additional() {
        complete_all(part, Some(part), &format!("{path}.additionalProperties"), errors);
    }
}

fn complete(part: &Schema, structure: Option<&Schema>, from: &str, to: &str, errors: &mut FieldErrors) {
    let Some(structure) = structure else {
        errors.required(to, format!("because it is defined in {from}"));
        return;
    };
    for (name, list) in [("allOf", &part.all_of), ("anyOf", &part.any_of), ("oneOf", &part.one_of)] {
        for (i, inner) in list.iter().enumerate() {
            complete(inner, Some(structure), &format!("{from}.{name}[{i}]"), to, errors);
        }
    }
    if let Some(not) = &part.not {
        complete(not, Some(structure), &format!("{from}.not"), to, errors);
    }
    if let Some(item) = part.item() {
        complete(item, structure.item(), &format!("{from}.items"), &format!("{to}.items"), errors);
    }
    for (name, inner) in &part.properties {
        let known = structure.properties.get(name);
        let anything = matches!(structure.additional_properties, Some(SchemaOrBool::Bool(true)));
        if !(known.is_none() && anything) {
            complete(inner, known, &child(from, name), &child(to, name), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problems_of(schema: Value) -> Vec<String> {
        problems(&Schema::read(&schema).unwrap(), "s").0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn structure_stands_outside_of_junctors() {
        for (schema, expected) in [
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                "s.type: Invalid value: \"array\": must be object at the root",
            ),
            (
                json!({"type": "object", "properties": {"a": {}}}),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array"}}}),
                "s.properties[a].items: Required value: must be specified",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                "s.additionalProperties: Forbidden: must not be used at the root",
            ),
            (
                json!({"type": "object", "anyOf": [{"required": ["a"], "type": "object"}]}),
                "s.anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "object", "oneOf": [{"properties": {"a": {"minimum": 1}}}]}),
                "s.properties[a]: Required value: because it is defined in s.oneOf[0].properties[a]",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
        ] {
            assert_eq!(problems_of(schema.clone()), [expected], "{schema}");
        }
    }

    #[test]
    fn int_or_string_may_be_spelt_out() {
        let schema = json!({"type": "object", "properties": {"a": {
            "x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}] }}});
        assert_eq!(problems_of(schema), Vec::<String>::new());
    }
}
