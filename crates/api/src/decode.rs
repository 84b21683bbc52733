//! From bytes to an object of a built-in kind: what Go's decoder and re-encoder do to it.
//!
//! 1. [`parse_json`] and [`parse_yaml`] read the text and notice duplicate keys;
//! 2. [`normalise`] walks the object along its [`Type`]: refuses values of the wrong type as Go words it, drops
//!    unknown fields (and notes them), nulls and zeroes that Go would not write, and brings quantities and times
//!    into their canonical form.

mod text;

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::quantity::Quantity;
use crate::resource::Resource;
use crate::schema::{Field, Kind, Shape, Type, type_of};
use crate::status::{ApiError, ApiResult};
pub use text::{line_of_duplicate, parse_json, parse_yaml};

/// Upstream's `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// Say nothing.
    Ignore,
    /// Answer with warnings.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; absent means `Warn`.
    ///
    /// # Errors
    /// 400 for an unknown value.
    pub fn parse(value: Option<&str>) -> ApiResult<Self> {
        match value {
            None | Some("" | "Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(ApiError::bad_request(format!(
                "invalid fieldValidation value {other:?}: supported values are \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether a value is nested more than `limit` levels deep.
pub fn deeper_than(value: &Value, limit: usize) -> bool {
    let inside = |value: &Value| limit == 0 || deeper_than(value, limit - 1);
    match value {
        Value::Array(items) => items.iter().any(inside),
        Value::Object(map) => map.values().any(inside),
        _ => false,
    }
}

/// 400: the body cannot be read as an object at all.
pub fn unreadable(resource: &Resource, why: impl fmt::Display) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why}",
        resource.kind
    ))
}

/// 400: the body is of the kind but cannot be handled as one.
pub fn unhandled(resource: &Resource, why: impl fmt::Display) -> ApiError {
    let (kind, version) = (&resource.kind, &resource.version);
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// 400 for what [`parse_json`] and [`normalise`] noted, under [`FieldValidation::Strict`].
pub fn strict_error(resource: &Resource, problems: &[String]) -> ApiError {
    unhandled(resource, format_args!("strict decoding error: {}", problems.join(", ")))
}

/// Fills in `apiVersion` and `kind` where the body lacks them, and refuses a body of another kind.
///
/// # Errors
/// 400 with upstream's words.
pub fn check_kind(resource: &Resource, object: &mut Value) -> ApiResult<()> {
    let Some(map) = object.as_object_mut() else {
        let found = go_kind(object);
        return Err(unreadable(
            resource,
            format_args!(
                "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            ),
        ));
    };
    let expected = resource.api_version();
    for (field, value) in [("apiVersion", &expected), ("kind", &resource.kind)] {
        if map.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
            map.insert(field.to_owned(), value.clone().into());
        }
    }
    let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({expected})",
            text("apiVersion")
        )));
    }
    if text("kind") != resource.kind {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: no kind {:?} is registered for version {expected:?}",
            text("kind"),
            resource.version,
            resource.kind,
            text("kind"),
        )));
    }
    Ok(())
}

/// Brings an object of a built-in resource into the form in which Go would write it. `problems` receives
/// `unknown field "…"` for each field that was dropped. Objects of types that the schema does not know are their
/// strategy's to decode.
///
/// # Errors
/// 400: a value has the wrong type.
pub fn decode(resource: &Resource, object: &mut Value, problems: &mut Vec<String>) -> ApiResult<()> {
    match type_of(&resource.definition) {
        Some(ty) => normalise(ty, object, problems).map_err(|why| unhandled(resource, why)),
        None => resource.strategy.decode(object, problems).map_err(|why| unhandled(resource, why)),
    }
}

/// As [`decode`], for any type of the schema, such as `DeleteOptions`.
///
/// # Errors
/// What Go says about a value of the wrong type.
pub fn normalise(ty: &Type, object: &mut Value, problems: &mut Vec<String>) -> Result<(), String> {
    Walk { path: String::new(), stack: Vec::new(), problems, sparse: false }.object(ty, object, true)
}

/// As [`normalise`], for a configuration to apply: every field that was sent stays, and none is added.
///
/// # Errors
/// What Go says about a value of the wrong type.
pub fn normalise_sparse(ty: &Type, object: &mut Value, problems: &mut Vec<String>) -> Result<(), String> {
    Walk { path: String::new(), stack: Vec::new(), problems, sparse: true }.object(ty, object, true)
}

struct Walk<'a> {
    /// Where we are, with indices, for unknown fields.
    path: String,
    /// Where we are, field names only, for type errors.
    stack: Vec<&'static str>,
    problems: &'a mut Vec<String>,
    /// Whether zeroes stay as they were sent and are not added.
    sparse: bool,
}

impl Walk<'_> {
    fn object(&mut self, ty: &Type, value: &mut Value, root: bool) -> Result<(), String> {
        if value.is_null() {
            *value = json!({});
        }
        let Some(map) = value.as_object_mut() else { return Err(self.mismatch(ty, value, ty.go_type())) };
        let mut gone = Vec::new();
        for (key, value) in map.iter_mut() {
            if (root || ty.object) && matches!(key.as_str(), "apiVersion" | "kind") {
                continue;
            }
            let Some(field) = ty.field(key) else {
                let path = join(&self.path, key);
                self.problems.push(format!("unknown field {path:?}"));
                gone.push(key.clone());
                continue;
            };
            let length = self.enter(key);
            self.stack.push(field.name);
            let keep = !value.is_null() && self.field(ty, field, value)?;
            self.stack.pop();
            self.path.truncate(length);
            if !keep {
                gone.push(key.clone());
            }
        }
        for key in gone {
            map.remove(&key);
        }
        if self.sparse { Ok(()) } else { self.complete(ty, map) }
    }

    /// Adds what Go always writes.
    fn complete(&mut self, ty: &Type, map: &mut Map<String, Value>) -> Result<(), String> {
        for field in &ty.fields {
            match (field.shape, field.message()) {
                (Shape::Inline, Some(inlined)) => self.complete(inlined, map)?,
                _ if !(field.always || field.required) || map.contains_key(field.name) => {}
                _ => {
                    if let Some(zero) = self.zero(field)? {
                        map.insert(field.name.to_owned(), zero);
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes to a key below; how long the path was.
    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    /// What Go writes for a required field that was not given; nothing for those it cannot write sensibly.
    fn zero(&mut self, field: &Field) -> Result<Option<Value>, String> {
        Ok(match (field.shape, field.kind) {
            (Shape::One, Kind::Message(_)) if field.always => match field.message() {
                Some(ty) => {
                    let mut value = json!({});
                    self.object(ty, &mut value, false)?;
                    Some(value)
                }
                None => None,
            },
            (Shape::One, Kind::String) => Some("".into()),
            (Shape::One, Kind::Int32 | Kind::Int64) => Some(0.into()),
            (Shape::One, Kind::Bool) => Some(false.into()),
            _ => None,
        })
    }

    /// Checks a field that is there and not null; false if Go would not write it.
    fn field(&mut self, ty: &Type, field: &Field, value: &mut Value) -> Result<bool, String> {
        match field.shape {
            Shape::One | Shape::Inline => {
                self.single(ty, field, value)?;
                Ok(self.sparse || field.required || field.pointer || !is_zero(field.kind, value))
            }
            Shape::List => {
                let Value::Array(items) = value else { return Err(self.mismatch(ty, value, &go_type(field))) };
                let length = self.path.len();
                for (i, item) in items.iter_mut().enumerate() {
                    // Writing into a text cannot fail.
                    let _ = write!(self.path, "[{i}]");
                    self.item(ty, field, item)?;
                    self.path.truncate(length);
                }
                Ok(self.sparse || field.required || !items.is_empty())
            }
            Shape::Map => {
                let Value::Object(map) = value else { return Err(self.mismatch(ty, value, &go_type(field))) };
                let length = self.path.len();
                for (key, item) in map.iter_mut() {
                    self.enter(key);
                    self.item(ty, field, item)?;
                    self.path.truncate(length);
                }
                Ok(self.sparse || field.required || !map.is_empty())
            }
        }
    }

    /// An item of a list or map: null stands for the zero value.
    fn item(&mut self, ty: &Type, field: &Field, value: &mut Value) -> Result<(), String> {
        if value.is_null() {
            *value = match field.kind {
                Kind::String | Kind::Bytes => "".into(),
                Kind::Quantity => "0".into(),
                Kind::Message(_) => json!({}),
                _ => return Ok(()),
            };
        }
        self.single(ty, field, value)
    }

    fn single(&mut self, ty: &Type, field: &Field, value: &mut Value) -> Result<(), String> {
        match field.kind {
            Kind::Message(_) => match field.message() {
                Some(message) if value.is_object() => self.object(message, value, false),
                Some(message) => Err(self.mismatch(ty, value, message.go_type())),
                None => Ok(()),
            },
            Kind::Raw | Kind::Strings => Ok(()),
            Kind::SchemaOrBool if value.is_boolean() => Ok(()),
            Kind::SchemaOrArray | Kind::SchemaOrStrings if value.is_array() => {
                let items = value.as_array_mut().into_iter().flatten();
                for item in items.filter(|item| item.is_object()) {
                    self.object_of(field, item)?;
                }
                Ok(())
            }
            Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings => self.object_of(field, value),
            Kind::Quantity => {
                let quantity = Quantity::from_json(value).map_err(|error| error.to_string())?;
                *value = quantity.to_string().into();
                Ok(())
            }
            Kind::Time | Kind::MicroTime => canonical_time(field.kind, value)
                .map_err(|why| why.unwrap_or_else(|| self.mismatch(ty, value, "string"))),
            Kind::Bytes => match value.as_str() {
                Some(text) => {
                    let at = STANDARD.decode(text).err().map(|error| match error {
                        base64::DecodeError::InvalidByte(at, _) => at,
                        _ => text.len(),
                    });
                    at.map_or(Ok(()), |at| Err(format!("illegal base64 data at input byte {at}")))
                }
                None => Err(self.mismatch(ty, value, "[]uint8")),
            },
            Kind::IntOrString => match value {
                Value::String(_) => Ok(()),
                Value::Number(number) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
                _ => Err(self.mismatch(ty, value, "int32")),
            },
            kind => {
                whole(kind, value);
                let fits = match kind {
                    Kind::String | Kind::Duration => value.is_string(),
                    Kind::Bool => value.is_boolean(),
                    Kind::Int32 => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    Kind::Int64 => value.is_i64() || value.as_i64().is_some(),
                    _ => value.is_number(),
                };
                if fits { Ok(()) } else { Err(self.mismatch(ty, value, scalar_type(kind))) }
            }
        }
    }

    fn object_of(&mut self, field: &Field, value: &mut Value) -> Result<(), String> {
        field.message().map_or(Ok(()), |ty| self.object(ty, value, false))
    }

    /// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
    fn mismatch(&self, ty: &Type, value: &Value, wanted: &str) -> String {
        let found = match value {
            Value::Number(number) => format!("number {number}"),
            other => go_kind(other).to_owned(),
        };
        // A number's text is only shown where a number was wanted.
        let found = if matches!(value, Value::Number(_)) && !wanted.starts_with("int") { "number" } else { &found };
        match self.stack.is_empty() {
            true => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
            false => format!(
                "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
                ty.go_name(),
                self.stack.join(".")
            ),
        }
    }
}

/// `1.0` reads as the integer 1.
fn whole(kind: Kind, value: &mut Value) {
    if !matches!(kind, Kind::Int32 | Kind::Int64) {
        return;
    }
    let exact = |number: &f64| number.fract() == 0.0 && number.abs() < 9e15;
    if let Some(number) = value.as_f64().filter(|_| value.is_f64()).filter(exact) {
        *value = (number as i64).into();
    }
}

fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn scalar_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Double => "float64",
        _ => "string",
    }
}

/// The Go type of a list or map.
fn go_type(field: &Field) -> String {
    let item = match field.kind {
        Kind::Message(_) => field.message().map_or("interface {}", Type::go_type),
        Kind::Quantity => "resource.Quantity",
        Kind::Bytes => "[]uint8",
        kind => scalar_type(kind),
    };
    if field.shape == Shape::Map { format!("map[string]{item}") } else { format!("[]{item}") }
}

/// Whether Go's `omitempty` would leave it out. Structs are never empty.
fn is_zero(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::String | Kind::Bytes => value.as_str() == Some(""),
        Kind::Bool => value == &Value::Bool(false),
        Kind::Int32 | Kind::Int64 => value.as_i64() == Some(0),
        Kind::Double => value.as_f64() == Some(0.0),
        _ => false,
    }
}

/// Times are written in UTC: `Time` in whole seconds, `MicroTime` with six digits.
fn canonical_time(kind: Kind, value: &mut Value) -> Result<(), Option<String>> {
    let text = value.as_str().ok_or(None)?;
    let layout = if kind == Kind::Time { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| Some(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"")))?;
    *value = time_text(kind, time).into();
    Ok(())
}

/// A time as `Time` or `MicroTime` prints it.
pub(crate) fn time_text(kind: Kind, time: jiff::Timestamp) -> String {
    let layout = if kind == Kind::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    time.strftime(layout).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::lookup_kind;

    fn decoded(kind: &str, mut object: Value) -> Result<(Value, Vec<String>), String> {
        let resource = lookup_kind(if kind == "Deployment" { "apps/v1" } else { "v1" }, kind).unwrap();
        let mut problems = Vec::new();
        decode(&resource, &mut object, &mut problems).map_err(|error| error.message)?;
        Ok((object, problems))
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let (object, problems) = decoded(
            "Pod",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                   "spec": {"foo": 1, "containers": [{"name": "c", "imagee": "x"}]}}),
        )
        .unwrap();
        assert_eq!(problems, [r#"unknown field "spec.containers[0].imagee""#, r#"unknown field "spec.foo""#]);
        assert_eq!(object["spec"], json!({"containers": [{"name": "c", "resources": {}}]}));
    }

    #[test]
    fn wrong_types_are_refused_as_go_words_it() {
        for (kind, object, message) in [
            (
                "Deployment",
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "Pod",
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "Pod",
                json!({"spec": {"containers": [{"name": 1}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
            ),
            (
                "ConfigMap",
                json!({"data": {"a": true}}),
                "json: cannot unmarshal bool into Go struct field ConfigMap.data of type string",
            ),
        ] {
            let version = "v1";
            assert_eq!(
                decoded(kind, object).unwrap_err(),
                format!("{kind} in version {version:?} cannot be handled as a {kind}: {message}")
            );
        }
    }

    #[test]
    fn zeroes_that_go_would_not_write_are_dropped_and_pointers_kept() {
        let (object, _) = decoded(
            "Deployment",
            json!({"metadata": {"name": "d", "labels": {}, "creationTimestamp": null},
                   "spec": {"replicas": 0, "minReadySeconds": 0, "selector": {},
                            "template": {"spec": {"hostNetwork": false, "terminationGracePeriodSeconds": 0}}}}),
        )
        .unwrap();
        assert_eq!(
            object,
            json!({"metadata": {"name": "d"}, "status": {},
                   "spec": {"replicas": 0, "selector": {}, "strategy": {},
                            "template": {"metadata": {}, "spec": {"terminationGracePeriodSeconds": 0}}}})
        );
    }

    #[test]
    fn quantities_and_times_become_canonical() {
        let (object, _) = decoded(
            "Pod",
            json!({"metadata": {"creationTimestamp": "2026-01-01T01:00:00.5+01:00"},
                   "spec": {"overhead": {"cpu": 1, "memory": "1024Mi"}}}),
        )
        .unwrap();
        assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(object["spec"]["overhead"], json!({"cpu": "1", "memory": "1Gi"}));
        assert!(decoded("Pod", json!({"spec": {"overhead": {"cpu": "1x"}}})).unwrap_err().contains("quantities must"));
    }

    #[test]
    fn a_body_of_another_kind_is_refused() {
        let pods = lookup_kind("v1", "Pod").unwrap();
        let mut empty = json!({});
        check_kind(&pods, &mut empty).unwrap();
        assert_eq!(empty, json!({"apiVersion": "v1", "kind": "Pod"}));
        let error = check_kind(&pods, &mut json!({"apiVersion": "v2", "kind": "Pod"})).unwrap_err();
        assert_eq!(error.message, "the API version in the data (v2) does not match the expected API version (v1)");
        assert!(check_kind(&pods, &mut json!({"apiVersion": "v1", "kind": "Service"})).is_err());
    }
}
