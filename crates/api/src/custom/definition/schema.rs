//! What is wrong with a definition's schema.

use serde_json::Value;

use super::structural;
use super::validate::resolve;
use crate::custom::schema::{Rule, Schema, SchemaOrBool, SchemaOrList};
use crate::custom::{validate as check_value, value};
use crate::field::FieldErrors;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// What a schema may say at its root if `status` is a subresource, in Go's names and in JSON's.
const AT_ROOT: &str = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength \
                       MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties \
                       ExternalDocs Example XPreserveUnknownFields XValidations";

/// What is wrong with a schema at `path`. `status`: whether that is a subresource.
pub(super) fn validate(document: &Value, status: bool, path: &str, errors: &mut FieldErrors) {
    let schema = match Schema::read(document) {
        Ok(schema) => schema,
        Err(why) => return errors.invalid(path, "", why),
    };
    if status {
        root_with_status(document, &schema, path, errors);
    }
    if schema.nullable {
        errors.forbidden(&format!("{path}.nullable"), "nullable cannot be true at the root");
    }
    let problems = structural::problems(&schema, path);
    if problems.0.is_empty() {
        defaults(&schema, true, path, errors);
    }
    errors.0.extend(problems.0);
    Walk { errors }.schema(&schema, path, Place { root: true, ..Place::default() });
}

fn root_with_status(document: &Value, schema: &Schema, path: &str, errors: &mut FieldErrors) {
    if !schema.kind.is_empty() && schema.kind != "object" {
        let why =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.invalid(&format!("{path}.type"), schema.kind.as_str(), why);
    }
    let allowed = |field: &str| match field {
        "x-kubernetes-preserve-unknown-fields" | "x-kubernetes-validations" => true,
        field => AT_ROOT.split(' ').any(|name| name.eq_ignore_ascii_case(field)),
    };
    if document.as_object().into_iter().flatten().any(|(field, _)| !allowed(field)) {
        let why = format!(
            "only [{AT_ROOT}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.invalid(path, document.clone(), why);
    }
}

/// Defaults must be what their schema says.
fn defaults(schema: &Schema, resource: bool, path: &str, errors: &mut FieldErrors) {
    if let Some(default) = &schema.default {
        let at = format!("{path}.default");
        let mut pruned = default.clone();
        if prune_default(&mut pruned, schema) {
            errors.invalid(&at, default.clone(), "must not have unknown fields");
        }
        check_value::validate(schema, default, None, &at, errors);
    }
    if let Some(item) = schema.item() {
        defaults(item, false, &format!("{path}.items"), errors);
    }
    for (name, part) in &schema.properties {
        // The metadata of resources may have defaults that make sense only together with the rest.
        if !(resource || schema.embedded) || !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
            defaults(part, false, &format!("{path}.properties[{name}]"), errors);
        }
    }
}

/// Whether a default holds fields that its schema does not know.
fn prune_default(default: &mut Value, schema: &Schema) -> bool {
    // Below a field of its own, so that nothing in it counts as the root's metadata.
    let mut object = serde_json::json!({ "default": default });
    let holder = Schema {
        properties: std::collections::BTreeMap::from([("default".to_owned(), schema.clone())]),
        ..Schema::default()
    };
    !value::prune(&mut object, &holder).is_empty()
}

/// Where in the whole a schema stands.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    root: bool,
    /// Inside of `metadata`, `kind` or `apiVersion` of a resource.
    meta: bool,
    /// Why there may be no defaults, if so.
    no_defaults: Option<&'a str>,
}

struct Walk<'a> {
    errors: &'a mut FieldErrors,
}

impl Walk<'_> {
    fn schema(&mut self, schema: &Schema, path: &str, place: Place<'_>) {
        self.supported(schema, path, place);
        let inner = Place { root: false, ..place };
        if schema.additional_properties.is_some() {
            let any = matches!(schema.additional_properties, Some(SchemaOrBool::Bool(true)));
            if !schema.properties.is_empty() && !any {
                let why = "additionalProperties and properties are mutual exclusive";
                self.errors.forbidden(&format!("{path}.additionalProperties"), why);
            }
            if let Some(part) = schema.additional() {
                let why = inner.meta.then_some("inside additionalProperties applying to object metadata");
                let place = Place { no_defaults: inner.no_defaults.or(why), ..inner };
                self.schema(part, &format!("{path}.additionalProperties"), place);
            }
        }
        for (name, part) in &schema.properties {
            let meta = (place.root || schema.embedded) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
            let why = format!("in top-level {name}");
            let no_defaults = inner.no_defaults.or((meta && place.root).then_some(why.as_str()));
            self.schema(
                part,
                &format!("{path}.properties[{name}]"),
                Place { meta: meta || inner.meta, no_defaults, ..inner },
            );
        }
        if let Some(not) = &schema.not {
            self.schema(not, &format!("{path}.not"), inner);
        }
        for (name, list) in [("allOf", &schema.all_of), ("oneOf", &schema.one_of), ("anyOf", &schema.any_of)] {
            for (i, part) in list.iter().enumerate() {
                self.schema(part, &format!("{path}.{name}[{i}]"), inner);
            }
        }
        if let Some(item) = schema.item() {
            self.schema(item, &format!("{path}.items"), inner);
        }
        if schema.preserve_unknown == Some(false) {
            let why = "must be true or undefined";
            self.errors.invalid(&format!("{path}.x-kubernetes-preserve-unknown-fields"), false, why);
        }
        self.map_and_list_types(schema, path);
        self.list_map(schema, path);
        for (i, rule) in schema.rules.iter().enumerate() {
            self.rule(schema, rule, &format!("{path}.x-kubernetes-validations[{i}]"));
        }
    }

    fn supported(&mut self, schema: &Schema, path: &str, place: Place<'_>) {
        if !schema.kind.is_empty() && schema.kind != "null" && !TYPES.contains(&schema.kind.as_str()) {
            self.errors.not_supported(&format!("{path}.type"), schema.kind.as_str(), &TYPES);
        }
        if let (Some(_), Some(why)) = (&schema.default, place.no_defaults) {
            self.errors.forbidden(&format!("{path}.default"), format!("must not be set {why}"));
        }
        let list = matches!(schema.items, Some(SchemaOrList::List(_)));
        for (found, field, why) in [
            (schema.id.0, "id", "id is not supported"),
            (schema.additional_items.0, "additionalItems", "additionalItems is not supported"),
            (schema.pattern_properties.0, "patternProperties", "patternProperties is not supported"),
            (schema.definitions.0, "definitions", "definitions is not supported"),
            (schema.dependencies.0, "dependencies", "dependencies is not supported"),
            (schema.reference.0, "$ref", "$ref is not supported"),
            (schema.kind == "null", "type", "type cannot be set to null, use nullable as an alternative"),
            (list, "items", "items must be a schema object and not an array"),
            (
                place.meta && schema.embedded,
                "x-kubernetes-embedded-resource",
                "must not be used inside of resource meta",
            ),
            (
                schema.unique_items,
                "uniqueItems",
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ),
        ] {
            if found {
                self.errors.forbidden(&format!("{path}.{field}"), why);
            }
        }
    }

    /// `field` may only be set on schemas of a type.
    fn only_on(&mut self, schema: &Schema, kind: &str, field: &str, path: &str) -> bool {
        let (at, why) = (format!("{path}.type"), format!("must be {kind} if {field} is specified"));
        match schema.kind.as_str() {
            "" => self.errors.required(&at, why),
            found if found != kind => self.errors.invalid(&at, found, why),
            _ => return true,
        }
        false
    }

    fn map_and_list_types(&mut self, schema: &Schema, path: &str) {
        if let Some(kind) = schema.map_type.as_deref() {
            self.only_on(schema, "object", "x-kubernetes-map-type", path);
            if !matches!(kind, "atomic" | "granular") {
                self.errors.not_supported(&format!("{path}.x-kubernetes-map-type"), kind, &["atomic", "granular"]);
            }
        }
        let Some(kind) = schema.list_type.as_deref() else { return };
        if self.only_on(schema, "array", "x-kubernetes-list-type", path)
            && let ("set", Some(item)) = (kind, schema.item())
        {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            let (wrong, field, value) = match item.kind.as_str() {
                "array" => (item.list_type.as_deref().is_some_and(|t| t != "atomic"), "list", &item.list_type),
                "object" => (item.map_type.as_deref() != Some("atomic"), "map", &item.map_type),
                _ => (false, "", &None),
            };
            if wrong {
                self.errors.invalid(&format!("{path}.items.x-kubernetes-{field}-type"), value.clone(), why);
            }
        }
        if !matches!(kind, "atomic" | "set" | "map") {
            self.errors.not_supported(&format!("{path}.x-kubernetes-list-type"), kind, &["atomic", "set", "map"]);
        }
    }

    fn list_map(&mut self, schema: &Schema, path: &str) {
        let at = |field: &str| format!("{path}.{field}");
        let kind = schema.list_type.as_deref();
        if !schema.list_map_keys.is_empty() && kind != Some("map") {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            match kind {
                None => self.errors.required(&at("x-kubernetes-list-type"), why),
                Some(kind) => self.errors.invalid(&at("x-kubernetes-list-type"), kind, why),
            }
        }
        if kind == Some("map") && schema.list_map_keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.errors.required(&at("x-kubernetes-list-map-keys"), why);
        }
        if matches!(kind, Some("map" | "set")) && schema.item().is_some_and(|item| item.nullable) {
            let why = format!("cannot be nullable when x-kubernetes-list-type is {}", kind.unwrap_or_default());
            self.errors.forbidden(&at("items.nullable"), why);
        }
        if kind != Some("map") {
            return;
        }
        if matches!(schema.items, Some(SchemaOrList::List(_))) {
            let why = "must only have a single schema if x-kubernetes-list-type is map";
            return self.errors.invalid(&at("items"), Value::Null, why);
        }
        let Some(item) = schema.item() else {
            return self.errors.required(&at("items"), "must have a schema if x-kubernetes-list-type is map");
        };
        if item.kind != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            return self.errors.invalid(&at("items.type"), item.kind.as_str(), why);
        }
        let keys = &schema.list_map_keys;
        let all = || keys.iter().cloned().collect::<Value>();
        for (i, key) in keys.iter().enumerate() {
            let of_key = |field: &str| at(&format!("items.properties[{key}].{field}"));
            let Some(part) = item.properties.get(key) else {
                let why = "entries must all be names of item properties";
                self.errors.invalid(&at("x-kubernetes-list-map-keys"), all(), why);
                continue;
            };
            if matches!(part.kind.as_str(), "array" | "object") {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.errors.invalid(&of_key("type"), item.kind.as_str(), why);
            }
            if keys[..i].contains(key) {
                self.errors.invalid(&at("x-kubernetes-list-map-keys"), all(), "must not contain duplicate entries");
            }
            if !item.required.contains(key) && part.default.is_none() {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.errors.required(&of_key("default"), why);
            }
            if part.nullable {
                let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.errors.forbidden(&of_key("nullable"), why);
            }
        }
    }

    /// What is wrong with a rule, besides its expressions.
    fn rule(&mut self, schema: &Schema, rule: &Rule, path: &str) {
        let at = |field: &str| format!("{path}.{field}");
        let broken = |text: &str| text.trim().contains(['\n', '\r']);
        let blank = |text: &str| !text.is_empty() && text.trim().is_empty();
        let errors = &mut *self.errors;
        if rule.rule.trim().is_empty() {
            errors.required(&at("rule"), "rule is not specified");
        } else if blank(&rule.message) {
            errors.invalid(&at("message"), rule.message.as_str(), "message must be non-empty if specified");
        } else if broken(&rule.message) {
            errors.invalid(&at("message"), rule.message.as_str(), "message must not contain line breaks");
        } else if broken(&rule.rule) && rule.message.trim().is_empty() {
            errors.required(&at("message"), "message must be specified if rule contains line breaks");
        }
        if blank(&rule.message_expression) {
            errors.required(&at("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(&at("reason"), reason, &REASONS);
        }
        let field = rule.field_path.as_str();
        if blank(field) {
            errors.invalid(&at("fieldPath"), field, "fieldPath must be non-empty if specified");
        }
        if field.contains(['\n', '\r']) {
            errors.invalid(&at("fieldPath"), field, "fieldPath must not contain line breaks");
        }
        if !field.is_empty() && resolve(schema, field, true).is_err() {
            errors.invalid(&at("fieldPath"), field, "fieldPath must be a valid path");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_root_of_a_schema_with_status_is_plain() {
        let mut errors = FieldErrors::default();
        validate(&json!({ "type": "object", "anyOf": [] }), true, "s", &mut errors);
        assert!(
            errors.0[0].to_string().contains("fields are allowed at the root of the schema if the status subresource")
        );
        let top = json!({ "type": "object", "properties": { "kind": { "type": "string", "default": "K" } } });
        let mut errors = FieldErrors::default();
        validate(&top, false, "s", &mut errors);
        assert_eq!(errors.0[0].to_string(), "s.properties[kind].default: Forbidden: must not be set in top-level kind");
    }
}
