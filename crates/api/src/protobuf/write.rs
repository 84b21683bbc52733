//! JSON to messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::read::duration_nanos;
use super::wire::{put_bytes, put_double, put_int};
use crate::schema::{Field, Kind, Shape, Type};

/// Writes an object as a message of type `ty`. What JSON does not have is not written.
pub(super) fn message(ty: &'static Type, object: &Value, out: &mut Vec<u8>) {
    for field in &ty.fields {
        match field.shape {
            Shape::Inline => {
                let mut inner = Vec::new();
                if let Some(inlined) = field.message() {
                    message(inlined, object, &mut inner);
                }
                if !inner.is_empty() {
                    put_bytes(out, field.number, &inner);
                }
            }
            Shape::One => {
                if let Some(item) = object.get(field.name).filter(|item| !item.is_null()) {
                    value(field, field.number, item, out);
                }
            }
            Shape::List => {
                for item in object.get(field.name).and_then(Value::as_array).into_iter().flatten() {
                    value(field, field.number, item, out);
                }
            }
            Shape::Map => {
                for (key, item) in object.get(field.name).and_then(Value::as_object).into_iter().flatten() {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    value(field, 2, item, &mut entry);
                    put_bytes(out, field.number, &entry);
                }
            }
        }
    }
}

fn value(field: &Field, number: u16, item: &Value, out: &mut Vec<u8>) {
    let text = item.as_str().unwrap_or_default();
    let mut inner = Vec::new();
    match field.kind {
        Kind::String => return put_bytes(out, number, text.as_bytes()),
        // Malformed base64 does not come this far: decoding refuses it.
        Kind::Bytes => return put_bytes(out, number, &STANDARD.decode(text).unwrap_or_default()),
        Kind::Bool => return put_int(out, number, u64::from(item == &Value::Bool(true))),
        Kind::Int32 | Kind::Int64 => return put_int(out, number, item.as_i64().unwrap_or_default() as u64),
        Kind::Double => return put_double(out, number, item.as_f64().unwrap_or_default()),
        Kind::Quantity => put_bytes(&mut inner, 1, text.as_bytes()),
        Kind::Raw => put_bytes(&mut inner, 1, item.to_string().as_bytes()),
        Kind::Duration => put_int(&mut inner, 1, duration_nanos(text) as u64),
        Kind::Time | Kind::MicroTime => {
            if let Ok(time) = text.parse::<jiff::Timestamp>() {
                put_int(&mut inner, 1, time.as_second() as u64);
                put_int(&mut inner, 2, time.subsec_nanosecond() as u64);
            }
        }
        Kind::IntOrString => match item {
            Value::String(text) => {
                put_int(&mut inner, 1, 1);
                put_int(&mut inner, 2, 0);
                put_bytes(&mut inner, 3, text.as_bytes());
            }
            other => {
                put_int(&mut inner, 1, 0);
                put_int(&mut inner, 2, other.as_i64().unwrap_or_default() as u64);
                put_bytes(&mut inner, 3, b"");
            }
        },
        Kind::Strings => {
            for item in item.as_array().into_iter().flatten().filter_map(Value::as_str) {
                put_bytes(&mut inner, 1, item.as_bytes());
            }
        }
        Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings => schema_or(field, item, &mut inner),
        Kind::Message(_) => {
            if let Some(ty) = field.message() {
                message(ty, item, &mut inner);
            }
        }
    }
    put_bytes(out, number, &inner);
}

fn schema_or(field: &Field, item: &Value, out: &mut Vec<u8>) {
    let schema = |item: &Value| {
        let mut bytes = Vec::new();
        if let Some(ty) = field.message() {
            message(ty, item, &mut bytes);
        }
        bytes
    };
    match item {
        Value::Bool(allows) => put_int(out, 1, u64::from(*allows)),
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::String(text) => put_bytes(out, 2, text.as_bytes()),
                    item => put_bytes(out, 2, &schema(item)),
                }
            }
        }
        item if field.kind == Kind::SchemaOrBool => {
            put_int(out, 1, 1);
            put_bytes(out, 2, &schema(item));
        }
        item => put_bytes(out, 1, &schema(item)),
    }
}
