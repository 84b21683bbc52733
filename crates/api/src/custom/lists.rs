//! Lists that are sets or maps hold no item twice.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::Schema;
use crate::field::FieldErrors;

/// What comes twice in an object's sets and maps.
pub fn validate(schema: &Schema, value: &Value, path: &str, errors: &mut FieldErrors) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(part) = schema.properties.get(key) {
                    let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    validate(part, value, &at, errors);
                } else if let Some(part) = schema.additional() {
                    validate(part, value, &format!("{path}[{key}]"), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => repeated(items, Value::clone, path, errors),
                Some("map") => check_map(schema, items, path, errors),
                _ => {}
            }
            let Some(part) = schema.item() else { return };
            items.iter().enumerate().for_each(|(i, item)| validate(part, item, &format!("{path}[{i}]"), errors));
        }
        _ => {}
    }
}

fn check_map(schema: &Schema, items: &[Value], path: &str, errors: &mut FieldErrors) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        return errors.invalid(&format!("{path}[{i}]"), item.clone(), detail);
    }
    let key = |item: &Value| {
        let keys = schema.list_map_keys.iter();
        keys.filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect::<Map<_, _>>().into()
    };
    repeated(items, key, path, errors);
}

/// Says of each item that comes more than once where it comes the second time.
fn repeated(items: &[Value], key: impl Fn(&Value) -> Value, path: &str, errors: &mut FieldErrors) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        let key = key(item);
        let times = seen.entry(key.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.duplicate(&format!("{path}[{i}]"), key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_and_maps_hold_no_item_twice() {
        let schema = Schema::read(&json!({ "properties": {
            "set": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
            "map": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                     "items": { "type": "object" } },
            "any": { "type": "array" },
        } }))
        .unwrap();
        let object = json!({ "set": ["x", "y", "x", "x"], "map": [{ "a": 1, "b": 1 }, { "a": 1 }, {}], "any": [1, 1] });
        let mut errors = FieldErrors::default();
        validate(&schema, &object, "", &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [r#"map[1]: Duplicate value: {"a":1}"#, r#"set[2]: Duplicate value: "x""#]);
    }
}
