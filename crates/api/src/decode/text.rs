//! JSON and YAML text to values, noticing keys that come twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::join;

/// Reads JSON; the second part names duplicate fields.
///
/// # Errors
/// The parser's words.
pub fn parse_json(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = read_value(&mut deserializer)?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(read)
}

/// Reads YAML as JSON; the second part names duplicate fields.
///
/// # Errors
/// The parser's words.
pub fn parse_yaml(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    read_value(serde_yaml_ng::Deserializer::from_slice(body))
}

fn read_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(Value, Vec<String>), String> {
    let mut duplicates = Vec::new();
    let seed = Reader { path: String::new(), duplicates: &mut duplicates };
    let value = seed.deserialize(deserializer).map_err(|error| error.to_string())?;
    Ok((value, duplicates))
}

/// Builds a value and remembers the paths of keys that came twice; the last one wins, as in Go.
struct Reader<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            match items.next_element_seed(Reader { path, duplicates: self.duplicates })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let path = join(&self.path, &key);
            let value = entries.next_value_seed(Reader { path: path.clone(), duplicates: self.duplicates })?;
            if map.insert(key, value).is_some() {
                self.duplicates.push(format!("duplicate field {path:?}"));
            }
        }
        Ok(Value::Object(map))
    }
}

/// A key as text: YAML's may be numbers and booleans.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        let value = Reader { path: String::new(), duplicates: &mut Vec::new() }.deserialize(deserializer)?;
        Ok(match value {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_found_in_json_and_yaml() {
        let (value, duplicates) = parse_json(br#"{"spec": {"a": 1, "a": [{"b": 1, "b": 2}]}}"#).unwrap();
        assert_eq!(duplicates, [r#"duplicate field "spec.a[0].b""#, r#"duplicate field "spec.a""#]);
        assert_eq!(value, json!({"spec": {"a": [{"b": 2}]}}));
        let (value, duplicates) = parse_yaml(b"a: 1\nb:\n- c: x\n1: true\na: 2\n").unwrap();
        assert_eq!((value, duplicates.len()), (json!({"a": 2, "b": [{"c": "x"}], "1": true}), 1));
        assert!(parse_json(b"{\"a\": 1} x").is_err());
    }
}
