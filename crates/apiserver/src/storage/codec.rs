//! How objects lie in the store: JSON whose first fields are `kind`, `apiVersion` and `metadata`, and
//! without `resourceVersion`, which is the key's revision and so not known before the write.
//!
//! Since the head is always the same, the version is put in by copying bytes ([`stamp`]), not by parsing.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use coracle_api::schema::type_of_kind;
use coracle_api::{ApiError, decode, protobuf};
use coracle_store::Revision;
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

const METADATA: &[u8] = br#""metadata":{"#;
const VERSION: &[u8] = br#""resourceVersion":""#;
/// `kind` and `apiVersion` fit in here, so `metadata` begins before it.
const HEAD_BYTES: usize = 512;

fn field(out: &mut Vec<u8>, key: &str, value: &impl Serialize) {
    if out.len() > 1 {
        out.push(b',');
    }
    write_json(out, &key);
    out.push(b':');
    write_json(out, value);
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory cannot fail, and JSON values have string keys only.
    serde_json::to_writer(out, value).expect("a JSON value serialises into memory");
}

/// An object as the store holds it.
pub fn encode(object: &Value) -> Vec<u8> {
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        if let Some(value) = fields.get(key) {
            field(&mut out, key, value);
        }
    }
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(METADATA);
    let mut first = true;
    for (key, value) in fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty) {
        if key != "resourceVersion" {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            write_json(&mut out, key);
            out.push(b':');
            write_json(&mut out, value);
        }
    }
    out.push(b'}');
    for (key, value) in fields {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            field(&mut out, key, value);
        }
    }
    out.push(b'}');
    out
}

/// A stored value as JSON. kube-apiserver stores built-in kinds as protobuf unless it is told otherwise: what lies there
/// so, in an etcd of kubeadm's or a snapshot of one, is read as it is, and becomes JSON when it changes.
pub fn readable(stored: &Bytes) -> Bytes {
    if !stored.starts_with(protobuf::MAGIC) {
        return stored.clone();
    }
    let decoded = protobuf::decode(stored).and_then(|mut object| {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        if let Some(ty) = type_of_kind(text("apiVersion"), text("kind")) {
            decode::normalise(ty, &mut object, &mut Vec::new()).map_err(ApiError::bad_request)?;
        }
        Ok(encode(&object).into_boxed_slice().into())
    });
    decoded.unwrap_or_else(|error| {
        tracing::warn!(%error, "a stored object cannot be read");
        stored.clone()
    })
}

/// The stored bytes of an object with its version put in (or replaced).
pub fn stamp(stored: &[u8], revision: Revision) -> Bytes {
    let head = &stored[..stored.len().min(HEAD_BYTES)];
    let Some(at) = head.windows(METADATA.len()).position(|window| window == METADATA) else {
        // Somebody else wrote this key: bring it into our form.
        let Ok(mut value) = serde_json::from_slice::<Value>(stored) else { return Bytes::copy_from_slice(stored) };
        if !value["metadata"].is_object() {
            value["metadata"] = Value::Object(Map::new());
        }
        return stamp(&encode(&value), revision);
    };
    let at = at + METADATA.len();
    let mut rest = &stored[at..];
    if let Some(after) = rest.strip_prefix(VERSION) {
        let end = after.iter().position(|b| *b == b'"').map_or(after.len(), |i| i + 1);
        rest = &after[end..];
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    let digits = revision.to_string();
    let mut out = Vec::with_capacity(stored.len() + VERSION.len() + digits.len() + 2);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(digits.as_bytes());
    out.push(b'"');
    if rest.first() != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(rest);
    out.into()
}

/// The text at a path of fields, such as `spec.nodeName`; empty if there is none. What lies elsewhere is only skipped.
pub fn text_at(json: &[u8], path: &str) -> String {
    let mut found = String::new();
    let fields = Descend { path, found: &mut found };
    // What is no JSON has no text there.
    _ = fields.deserialize(&mut serde_json::Deserializer::from_slice(json));
    found
}

/// Goes down a path of fields.
struct Descend<'a> {
    path: &'a str,
    found: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for Descend<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Descend<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what has the text {}", self.path)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let (field, rest) = self.path.split_once('.').unwrap_or((self.path, ""));
        while let Some(name) = fields.next_key::<Cow<'de, str>>()? {
            match name == field {
                true => fields.next_value_seed(Descend { path: rest, found: &mut *self.found })?,
                false => _ = fields.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.path.is_empty() {
            text.clone_into(self.found);
        }
        Ok(())
    }
}

/// The `apiVersion` of an object in our form.
pub fn api_version(json: &[u8]) -> Option<&str> {
    const FIELD: &[u8] = br#""apiVersion":""#;
    let head = &json[..json.len().min(HEAD_BYTES)];
    let value = &head[head.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len()..];
    std::str::from_utf8(&value[..value.iter().position(|byte| *byte == b'"')?]).ok()
}

/// An object with the version it has, in the form of answers.
pub fn whole(object: &Value) -> Bytes {
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    let bytes = encode(object);
    version.map_or_else(|| bytes.clone().into(), |version| stamp(&bytes, version))
}

#[cfg(test)]
mod tests {
    use coracle_store::{KeyRange, MemoryStore, RangeRequest, Store, Txn};
    use serde_json::json;

    use super::*;
    use crate::storage::Storage;
    use crate::testing::in_simulation;

    #[test]
    fn a_version_is_put_in_without_parsing_and_replaced_without_a_trace() {
        for object in [
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "3"}, "spec": {}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}}),
            json!({"metadata": {"annotations": {"x": "\"metadata\":{"}}, "a": 1}),
        ] {
            let first = stamp(&encode(&object), 7);
            let second = stamp(&first, 123);
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = "123".into();
            assert_eq!(serde_json::from_slice::<Value>(&second).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_stored_as_protobuf_is_read_as_json() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": {"b": "c"}},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"b": "c"}}, "strategy": {},
                "template": {"metadata": {"labels": {"b": "c"}}, "spec": {"containers": [{"name": "d", "image": "e", "resources": {}}]}},
            },
            "status": {},
        });
        let stored = Bytes::from(protobuf::encode(&object).unwrap());
        assert_eq!(serde_json::from_slice::<Value>(&readable(&stored)).unwrap(), object);
        assert_eq!(readable(&readable(&stored)), readable(&stored));
        let strange = Bytes::from_static(b"k8s\0strange");
        assert_eq!(readable(&strange), strange);

        in_simulation(async || {
            let store = MemoryStore::new();
            let key = "/registry/deployments/default/a";
            store.txn(Txn::put_if(key, 0, stored.clone(), 0)).await.unwrap();
            let storage = Storage::start(store.clone(), coracle_api::registry::builtin()).await.unwrap();
            let mut found = storage.get("apps", "deployments", "default", "a").await.unwrap().unwrap();
            assert_eq!((&found["spec"], &found["metadata"]["resourceVersion"]), (&object["spec"], &json!("2")));
            found["spec"]["replicas"] = 3.into();
            storage.put(key, 2, &found, 0).await.unwrap().unwrap();
            let now = store.range(RangeRequest::new(KeyRange::key(key))).await.unwrap().kvs.remove(0);
            assert_eq!(serde_json::from_slice::<Value>(&now.value).unwrap()["spec"]["replicas"], 3);
        });
    }

    #[test]
    fn objects_of_another_writer_are_brought_into_form() {
        let bytes = br#"{ "metadata" : {"name":"a"}, "kind":"Pod" }"#;
        let value: Value = serde_json::from_slice(&stamp(bytes, 5)).unwrap();
        assert_eq!(value, json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "5"}}));
    }
}
