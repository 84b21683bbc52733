//! JSON and YAML text to values, noticing keys that come twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
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
    // Most YAML that clients send is JSON, for which there is the quicker parser.
    if body.trim_ascii_start().starts_with(b"{")
        && let Ok(read) = parse_json(body)
    {
        return Ok(read);
    }
    if flow_depth(body) > MAX_FLOW_DEPTH {
        return Err(format!("yaml: exceeded max depth of {MAX_FLOW_DEPTH}"));
    }
    read_value(serde_yaml_ng::Deserializer::from_slice(body))
}

/// Upstream's limit of nesting in YAML.
const MAX_FLOW_DEPTH: usize = 10_000;

/// How deep brackets nest in YAML, or a little more than that: those in quotes and comments open, but do not close.
/// The parser takes time with the square of the depth, so this is asked first.
fn flow_depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quote, mut escaped) = (0_usize, 0, None, false);
    for &byte in body {
        match (byte, quote) {
            (b'[' | b'{', _) => depth += 1,
            (b']' | b'}', None) => depth = depth.saturating_sub(1),
            (b'"' | b'\'', None) | (b'#', None) => quote = Some(byte),
            (b'\n', Some(b'#')) => quote = None,
            (_, Some(open)) if byte == open && byte != b'#' && !escaped => quote = None,
            _ => {}
        }
        escaped = byte == b'\\' && quote == Some(b'"') && !escaped;
        deepest = deepest.max(depth);
    }
    deepest
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

/// The line, from 1, on which a field comes for the second time; `path` is its path, such as `spec.a`. Looks at block
/// style only, where each key has its own line: in flow style it is the line of the text's first one.
pub fn line_of_duplicate(body: &[u8], path: &str) -> usize {
    let key = path.rsplit('.').next().unwrap_or(path);
    let text = String::from_utf8_lossy(body);
    let mut open: Vec<usize> = Vec::new(); // the indents at which the key was seen
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.trim_start();
        let item = content.starts_with("- ");
        let content = content.trim_start_matches("- ");
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - content.len();
        // A line further left, or a new item, ends the maps that were open.
        open.retain(|seen| *seen <= indent && !(item && *seen == indent));
        let name = content.split(':').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        if name == key && content.contains(':') {
            if open.contains(&indent) {
                return number;
            }
            open.push(indent);
        }
    }
    1
}

/// A key as text: YAML's may be numbers and booleans, and nothing else, as in Go.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        let value = Reader { path: String::new(), duplicates: &mut Vec::new() }.deserialize(deserializer)?;
        let kind = match value {
            Value::String(text) => return Ok(text),
            Value::Bool(_) | Value::Number(_) => return Ok(value.to_string()),
            // As text they would double with every level, for the quotes in them.
            Value::Object(_) => "map[interface {}]interface {}",
            Value::Array(_) => "[]interface {}",
            Value::Null => "%!s(<nil>)",
        };
        Err(D::Error::custom(format!("unsupported map key of type: {kind}")))
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
        for (text, key) in [("{a: {{b: 1}: 2}}", "map["), ("? [a]\n: 1\n", "[]"), ("~: 1\n", "%!s(<nil>)")] {
            let error = parse_yaml(text.as_bytes()).unwrap_err();
            assert!(error.contains(&format!("unsupported map key of type: {key}")), "{error}");
        }
        for (text, depth) in
            [("a: [1, [2]]\nb: {c: [3]}\n", 2), ("[']', [\"\\\"]\", [ # ]\n1]]]", 3), ("a: x]\n- ]", 0)]
        {
            assert_eq!(flow_depth(text.as_bytes()), depth, "{text}");
        }
        for (text, path, line) in [
            ("a:\n  b: 1\n  c: 2\n  b: 3\n", "a.b", 4),
            ("a:\n- b: 1\n- b: 1\n  c: 1\n  b: 2\n", "a[1].b", 5),
            ("a:\n  b: 1\nx:\n  b: 1\na: 1\n", "a", 5),
            ("{\"a\": 1, \"a\": 2}", "a", 1),
        ] {
            assert_eq!(line_of_duplicate(text.as_bytes(), path), line, "{text}");
        }
    }
}
