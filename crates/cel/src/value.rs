//! Values: what expressions compute with, made from JSON by its declared type.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use coracle_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value as Json;

use crate::authorizer::Check;
use crate::library::semver::Version;
use crate::types::{Decl, ListKind, Shape, Type};

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    String(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A length of time in nanoseconds.
    Duration(i128),
    /// A point in time.
    Timestamp(Timestamp),
    /// A list; how its items are told apart comes from the schema.
    List(Arc<Vec<Value>>, ListKind),
    /// A map, or an object with its fields by their JSON names.
    Map(Arc<BTreeMap<Key, Value>>),
    /// A type, by its name.
    Type(Arc<str>),
    /// A value or none.
    Optional(Option<Arc<Value>>),
    /// `kubernetes.Quantity`.
    Quantity(Quantity),
    /// `kubernetes.URL`.
    Url(Arc<url::Url>),
    /// `net.IP`.
    Ip(IpAddr),
    /// `net.CIDR`: address and prefix length.
    Cidr(IpAddr, u8),
    /// `kubernetes.NamedFormat`, by its name.
    Format(&'static str),
    /// `kubernetes.Semver`.
    Semver(Arc<Version>),
    /// A question to the authorizer, or its answer.
    Check(Arc<Check>),
}

/// A key of a map. Integers of either sort are one key if they are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer above every `int`.
    Uint(u64),
    /// Text.
    String(Arc<str>),
}

impl Key {
    /// A value as a key, if it can be one.
    pub fn of(value: &Value) -> Option<Key> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(i) => Key::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Key::Uint(*u), Key::Int),
            // `1.0` finds the key 1.
            Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Key::Int(*d as i64),
            Value::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }
}

impl From<&Key> for Value {
    fn from(key: &Key) -> Value {
        match key {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(text) => Value::String(text.clone()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text.into())
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::List(Arc::new(items), ListKind::Atomic)
    }
}

impl FromIterator<(String, Value)> for Value {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(entries: I) -> Value {
        Value::Map(Arc::new(entries.into_iter().map(|(key, value)| (Key::String(key.into()), value)).collect()))
    }
}

impl Value {
    /// `optional.none()`.
    pub const NONE: Value = Value::Optional(None);

    /// `optional.of(self)`.
    pub fn some(self) -> Value {
        Value::Optional(Some(Arc::new(self)))
    }

    /// `semver(text)`; none if it is no version.
    pub fn semver(text: &str) -> Option<Value> {
        Version::parse(text, false).map(|version| Value::Semver(Arc::new(version)))
    }

    /// JSON whose schema is not known.
    pub fn untyped(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i),
                (_, Some(u)) => Value::Uint(u),
                _ => Value::Double(n.as_f64().unwrap_or_default()),
            },
            Json::String(text) => text.as_str().into(),
            Json::Array(items) => items.iter().map(Value::untyped).collect::<Vec<_>>().into(),
            Json::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), Value::untyped(value))).collect(),
        }
    }

    /// JSON as its declaration says. What does not fit it (validation has the word on that) stays as it is;
    /// fields that are not declared cannot be seen.
    pub fn typed(json: &Json, decl: &Decl) -> Value {
        match (&decl.shape, json) {
            (Shape::List(items, kind), Json::Array(list)) => {
                Value::List(Arc::new(list.iter().map(|item| Value::typed(item, items)).collect()), kind.clone())
            }
            (Shape::Map(values), Json::Object(fields)) => {
                fields.iter().map(|(key, value)| (key.clone(), Value::typed(value, values))).collect()
            }
            (Shape::Object(object), Json::Object(fields)) => object
                .fields
                .values()
                .filter_map(|field| Some((field.json.clone(), Value::typed(fields.get(&field.json)?, &field.decl))))
                .collect(),
            (Shape::Plain(ty), json) => Value::scalar(json, ty).unwrap_or_else(|| Value::untyped(json)),
            _ => Value::untyped(json),
        }
    }

    fn scalar(json: &Json, ty: &Type) -> Option<Value> {
        use base64::Engine as _;
        Some(match (ty, json) {
            (Type::Double, Json::Number(n)) => Value::Double(n.as_f64()?),
            (Type::Int, Json::Number(n)) => Value::Int(n.as_i64().or_else(|| n.as_f64().map(|f| f as i64))?),
            (Type::Bytes, Json::String(text)) => {
                Value::Bytes(base64::engine::general_purpose::STANDARD.decode(text).ok()?.into())
            }
            (Type::Duration, Json::String(text)) => Value::Duration(crate::library::time::parse_duration(text)?),
            (Type::Timestamp, Json::String(text)) => Value::Timestamp(crate::library::time::parse_timestamp(text)?),
            _ => return None,
        })
    }

    /// The value as JSON; `None` for what JSON has no form for.
    pub fn to_json(&self) -> Option<Json> {
        use base64::Engine as _;
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => (*i).into(),
            Value::Uint(u) => (*u).into(),
            Value::Double(d) => serde_json::Number::from_f64(*d)?.into(),
            Value::String(text) => Json::String(text.to_string()),
            Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
            Value::Duration(nanos) => crate::library::time::show_duration(*nanos).into(),
            Value::Timestamp(time) => time.to_string().into(),
            Value::List(items, _) => Json::Array(items.iter().map(Value::to_json).collect::<Option<_>>()?),
            Value::Map(entries) => {
                let entry = |(key, value): (&Key, &Value)| match key {
                    Key::String(key) => Some((key.to_string(), value.to_json()?)),
                    _ => None,
                };
                Json::Object(entries.iter().map(entry).collect::<Option<_>>()?)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Quantity(quantity) => quantity.to_string().into(),
            _ => return None,
        })
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The name of the value's type, as `type()` knows it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::List(..) => "list",
            Value::Map(_) => "map",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(..) => "net.CIDR",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Check(check) => check.type_name(),
        }
    }

    /// The size costs are counted by: characters, bytes, items, entries; one for everything else.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(items, _) => items.len() as u64,
            Value::Map(entries) => entries.len() as u64,
            Value::Ip(ip) | Value::Cidr(ip, _) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            _ => 1,
        }
    }

    /// How many values it is made of, itself included; counting stops at `most`.
    pub(crate) fn weight(&self, most: u64) -> u64 {
        let sum = |values: &mut dyn Iterator<Item = &Value>| {
            let mut sum = 1;
            for value in values {
                sum += value.weight(most.saturating_sub(sum));
                if sum >= most {
                    break;
                }
            }
            sum
        };
        match self {
            Value::List(items, _) => sum(&mut items.iter()),
            Value::Map(entries) => sum(&mut entries.values()),
            Value::Optional(Some(value)) => sum(&mut std::iter::once(value.as_ref())),
            _ => 1,
        }
    }

    /// How two values compare, if they do: numbers of any sort with each other, else alike with alike.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        use Value::*;
        match (self, other) {
            (Bool(a), Bool(b)) => Some(a.cmp(b)),
            (String(a), String(b)) => Some(a.cmp(b)),
            (Bytes(a), Bytes(b)) => Some(a.cmp(b)),
            (Duration(a), Duration(b)) => Some(a.cmp(b)),
            (Timestamp(a), Timestamp(b)) => Some(a.cmp(b)),
            (Quantity(a), Quantity(b)) => Some(a.cmp(b)),
            (Semver(a), Semver(b)) => Some(a.cmp(b)),
            (Int(a), Int(b)) => Some(a.cmp(b)),
            (Int(_) | Uint(_), Int(_) | Uint(_)) => Some(self.wide()?.cmp(&other.wide()?)),
            (Double(a), Double(b)) => a.partial_cmp(b),
            (Double(a), Int(_) | Uint(_)) => compare_double(*a, other.wide()?),
            (Int(_) | Uint(_), Double(b)) => compare_double(*b, self.wide()?).map(Ordering::reverse),
            _ => None,
        }
    }

    fn wide(&self) -> Option<i128> {
        match self {
            Value::Int(i) => Some((*i).into()),
            Value::Uint(u) => Some((*u).into()),
            _ => None,
        }
    }
}

fn compare_double(a: f64, b: i128) -> Option<Ordering> {
    match a {
        a if a.is_nan() => None,
        a if a >= 1e20 => Some(Ordering::Greater),
        a if a <= -1e20 => Some(Ordering::Less),
        a => Some((a.floor() as i128).cmp(&b).then((a - a.floor()).partial_cmp(&0.0)?)),
    }
}

/// CEL's equality: values of different types differ; sets and maps in lists do not know order.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        use Value::*;
        match (self, other) {
            (Null, Null) => true,
            (List(a, kind), List(b, other_kind)) => match if *kind == ListKind::Atomic { other_kind } else { kind } {
                ListKind::Atomic => a == b,
                ListKind::Set => a.len() == b.len() && set(a) == set(b),
                ListKind::Map(keys) => a.len() == b.len() && by_keys(a, keys) == by_keys(b, keys),
            },
            (Map(a), Map(b)) => a == b,
            (Type(a), Type(b)) => a == b,
            (Optional(a), Optional(b)) => a == b,
            (Url(a), Url(b)) => a == b,
            (Ip(a), Ip(b)) => a == b,
            (Cidr(a, n), Cidr(b, m)) => a == b && n == m,
            (Format(a), Format(b)) => a == b,
            (Check(a), Check(b)) => Arc::ptr_eq(a, b),
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }
}

/// The items of a set of scalars.
pub(crate) fn set(items: &[Value]) -> BTreeSet<Option<Key>> {
    items.iter().map(Key::of).collect()
}

/// The items of a list of type `map`, by their keys.
pub(crate) fn by_keys<'a>(items: &'a [Value], keys: &[String]) -> BTreeMap<Vec<Option<Key>>, &'a Value> {
    items.iter().map(|item| (keys_of(item, keys), item)).collect()
}

/// What an item of a list of type `map` is known by.
pub(crate) fn keys_of(item: &Value, keys: &[String]) -> Vec<Option<Key>> {
    let Value::Map(fields) = item else { return vec![] };
    keys.iter().map(|key| fields.get(&Key::String(key.as_str().into())).and_then(Key::of)).collect()
}
