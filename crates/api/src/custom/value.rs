//! What a structural schema does to an object: unknown fields and forbidden nulls go, defaults come, and the
//! metadata of embedded objects is brought into form.

use serde_json::{Map, Value};

use super::schema::Schema;
use crate::decode::normalise;
use crate::schema::type_of;

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Removes the fields that the schema does not know, and says which. The root's `apiVersion`, `kind` and `metadata`
/// are known always.
pub fn prune(object: &mut Value, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(object, Some(schema), true, "", &mut unknown);
    unknown
}

fn prune_at(value: &mut Value, schema: Option<&Schema>, resource: bool, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let keeps = schema.is_some_and(Schema::preserves);
            map.retain(|key, value| {
                let Some(schema) = schema else {
                    unknown.push(join(path, key));
                    return false;
                };
                if (resource || schema.embedded) && META.contains(&key.as_str()) {
                    return true;
                }
                let path = join(path, key);
                match (schema.properties.get(key), schema.is_map()) {
                    (Some(part), _) => prune_at(value, Some(part), false, &path, unknown),
                    (None, true) => prune_at(value, schema.additional(), false, &path, unknown),
                    (None, false) if keeps => {}
                    (None, false) => {
                        unknown.push(path);
                        return false;
                    }
                }
                true
            });
        }
        Value::Array(items) => {
            // Below a schema that keeps unknown fields, items without a schema are kept as they are.
            let Some(schema) = schema else {
                items
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, v)| prune_at(v, None, false, &format!("{path}[{i}]"), unknown));
                return;
            };
            if schema.preserves() && schema.item().is_none() {
                return;
            }
            for (i, item) in items.iter_mut().enumerate() {
                prune_at(item, schema.item(), false, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Removes nulls where null is not allowed and no default stands in for it.
pub fn prune_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => map.retain(|key, value| {
            let Some(part) = schema.properties.get(key).or_else(|| schema.additional()) else { return true };
            if value.is_null() && !part.nullable && part.default.is_none() {
                return false;
            }
            prune_nulls(value, part);
            true
        }),
        Value::Array(items) => {
            if let Some(part) = schema.item() {
                items.iter_mut().for_each(|item| prune_nulls(item, part));
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults: for fields that are missing, and for nulls where null is not allowed.
pub fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            for (key, part) in &schema.properties {
                let Some(default) = &part.default else { continue };
                if map.get(key).is_none_or(|value| value.is_null() && !part.nullable) {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, value) in map.iter_mut() {
                if let Some(part) = schema.properties.get(key).or_else(|| schema.additional()) {
                    replace_null(value, part);
                    default(value, part);
                }
            }
        }
        Value::Array(items) => {
            let Some(part) = schema.item() else { return };
            for item in items {
                replace_null(item, part);
                default(item, part);
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, schema: &Schema) {
    if let (true, false, Some(default)) = (value.is_null(), schema.nullable, &schema.default) {
        *value = default.clone();
    }
}

/// Brings the metadata of the object and of the objects embedded in it into form. `unknown` receives the paths of
/// metadata fields there are none of.
///
/// # Errors
/// What is wrong with `apiVersion`, `kind` or `metadata`, and where.
pub fn coerce(object: &mut Value, schema: &Schema, unknown: &mut Vec<String>) -> Result<(), String> {
    coerce_at(object, schema, true, "", unknown)
}

fn coerce_at(
    value: &mut Value,
    schema: &Schema,
    resource: bool,
    path: &str,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            if resource || schema.embedded {
                coerce_meta(map, path, unknown)?;
            }
            for (key, value) in map.iter_mut() {
                if let Some(part) = schema.properties.get(key).or_else(|| schema.additional()) {
                    coerce_at(value, part, false, &join(path, key), unknown)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(part) = schema.item() else { return Ok(()) };
            for (i, item) in items.iter_mut().enumerate() {
                coerce_at(item, part, false, &format!("{path}[{i}]"), unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn coerce_meta(map: &mut Map<String, Value>, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    for key in ["apiVersion", "kind"] {
        if let Some(value) = map.get(key)
            && !value.is_string()
        {
            return Err(format!("{}: Invalid value: {value}: must be a string", join(path, key)));
        }
    }
    let Some(meta) = map.get_mut("metadata") else { return Ok(()) };
    let Some(ty) = type_of("meta.v1.ObjectMeta") else { return Ok(()) };
    let at = join(path, "metadata");
    if !meta.is_object() && !meta.is_null() {
        return Err(format!("{at}: Invalid value: {meta}: must be an object"));
    }
    let mut problems = Vec::new();
    normalise(ty, meta, &mut problems).map_err(|why| format!("{at}: {why}"))?;
    let names = problems.iter().filter_map(|text| text.strip_prefix("unknown field \"")?.strip_suffix('"'));
    unknown.extend(names.map(|name| join(&at, name)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        Schema::read(&json!({
            "type": "object",
            "properties": {
                "spec": { "type": "object", "properties": {
                    "a": { "type": "string", "default": "x" },
                    "n": { "type": "string", "nullable": true, "default": "y" },
                    "open": { "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                              "properties": { "closed": { "type": "object" } } },
                    "map": { "type": "object", "additionalProperties": { "type": "object", "properties": {
                        "v": { "type": "integer", "default": 1 } } } },
                    "list": { "type": "array", "items": { "type": "object", "properties": { "k": { "type": "string" } } } },
                    "pod": { "type": "object", "x-kubernetes-embedded-resource": true,
                             "x-kubernetes-preserve-unknown-fields": true },
                } },
            },
        }))
        .unwrap()
    }

    #[test]
    fn unknown_fields_go_except_where_they_are_preserved() {
        let mut object = json!({
            "apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "other": 1,
            "spec": { "b": 1, "open": { "x": {"y": 1}, "closed": { "z": 1 } }, "map": { "k": { "v": 2, "w": 3 } },
                      "list": [{ "k": "1", "l": 2 }], "pod": { "kind": "Pod", "anything": 1 } },
        });
        let unknown = prune(&mut object, &schema());
        assert_eq!(unknown, ["other", "spec.b", "spec.list[0].l", "spec.map.k.w", "spec.open.closed.z"]);
        assert_eq!(
            object["spec"],
            json!({ "open": { "x": {"y": 1}, "closed": {} }, "map": { "k": { "v": 2 } }, "list": [{ "k": "1" }],
                    "pod": { "kind": "Pod", "anything": 1 } })
        );
    }

    #[test]
    fn defaults_fill_what_is_missing_and_what_may_not_be_null() {
        let mut object = json!({ "spec": { "a": null, "n": null, "open": null, "map": { "k": {} } } });
        prune_nulls(&mut object, &schema());
        default(&mut object, &schema());
        assert_eq!(object, json!({ "spec": { "a": "x", "n": null, "map": { "k": { "v": 1 } } } }));
        let mut without = json!({});
        default(&mut without, &schema());
        assert_eq!(without, json!({}));
    }

    #[test]
    fn metadata_of_embedded_objects_is_known_too() {
        let mut object = json!({ "metadata": { "name": "n", "foo": 1 },
                                 "spec": { "pod": { "metadata": { "bar": 1, "labels": {} } } } });
        let mut unknown = Vec::new();
        coerce(&mut object, &schema(), &mut unknown).unwrap();
        assert_eq!(unknown, ["metadata.foo", "spec.pod.metadata.bar"]);
        let mut wrong = json!({ "spec": { "pod": { "metadata": { "labels": { "a": 1 } } } } });
        assert!(coerce(&mut wrong, &schema(), &mut unknown).unwrap_err().contains("cannot unmarshal number"));
        assert!(coerce(&mut json!({ "kind": 1 }), &schema(), &mut unknown).is_err());
    }

    proptest! {
        #[test]
        fn pruning_and_defaulting_again_changes_nothing(a in any::<Option<String>>(), extra in any::<u8>(), v in any::<Option<i32>>()) {
            let mut object = json!({ "spec": { "a": a, "z": extra, "map": { "k": { "v": v } }, "list": [{}, { "q": extra }] } });
            let schema = schema();
            let settle = |object: &mut Value| {
                prune(object, &schema);
                prune_nulls(object, &schema);
                default(object, &schema);
            };
            settle(&mut object);
            let once = object.clone();
            settle(&mut object);
            prop_assert_eq!(once, object);
        }
    }
}
