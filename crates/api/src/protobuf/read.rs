//! Messages to JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value, json};

use super::malformed;
use super::wire::{Reader, Wire};
use crate::decode::time_text;
use crate::schema::{Field, Kind, Shape, Type};
use crate::status::ApiResult;

/// Reads a message of type `ty` into `object`, skipping fields that the schema does not know.
pub(super) fn message(ty: &'static Type, bytes: &[u8], object: &mut Value, depth: usize) -> ApiResult<()> {
    if depth == 0 {
        return Err(malformed("nested too deeply"));
    }
    for wire in Reader(bytes) {
        let (number, wire) = wire?;
        let Some(field) = ty.fields.iter().find(|field| u64::from(field.number) == number) else { continue };
        match field.shape {
            Shape::Inline => {
                if let (Some(inlined), Wire::Bytes(bytes)) = (field.message(), wire) {
                    message(inlined, bytes, object, depth - 1)?;
                }
            }
            Shape::One => object[field.name] = value(field, wire, depth)?,
            Shape::List => list(field, wire, &mut object[field.name], depth)?,
            Shape::Map => {
                let (key, value) = entry(field, wire, depth)?;
                object[field.name][key] = value;
            }
        }
    }
    Ok(())
}

fn list(field: &Field, wire: Wire<'_>, list: &mut Value, depth: usize) -> ApiResult<()> {
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return Ok(()) };
    let packable = matches!(field.kind, Kind::Int32 | Kind::Int64 | Kind::Bool);
    match wire {
        // Numbers may come packed into one field.
        Wire::Bytes(bytes) if packable => {
            let mut rest = bytes;
            while !rest.is_empty() {
                let length = rest.iter().position(|byte| *byte < 0x80).ok_or_else(|| malformed("unexpected EOF"))? + 1;
                let number = rest[..length].iter().rev().fold(0, |n: u64, byte| n << 7 | u64::from(byte & 0x7f));
                list.push(value(field, Wire::Varint(number), depth)?);
                rest = &rest[length..];
            }
        }
        wire => list.push(value(field, wire, depth)?),
    }
    Ok(())
}

/// A map's entry: a message of key and value. An absent value is the type's zero.
fn entry(field: &Field, wire: Wire<'_>, depth: usize) -> ApiResult<(String, Value)> {
    let Wire::Bytes(bytes) = wire else { return Err(malformed("a map entry is no message")) };
    let (mut key, mut item) = (String::new(), None);
    for wire in Reader(bytes) {
        match wire? {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, wire) => item = Some(value(field, wire, depth)?),
            _ => {}
        }
    }
    match item {
        Some(item) => Ok((key, item)),
        None => Ok((key, value(field, zero(field.kind), depth)?)),
    }
}

fn zero(kind: Kind) -> Wire<'static> {
    match kind {
        Kind::Bool | Kind::Int32 | Kind::Int64 => Wire::Varint(0),
        Kind::Double => Wire::Fixed64(0),
        _ => Wire::Bytes(&[]),
    }
}

fn text(bytes: &[u8]) -> ApiResult<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| malformed("invalid UTF-8"))
}

fn value(field: &Field, wire: Wire<'_>, depth: usize) -> ApiResult<Value> {
    Ok(match (field.kind, wire) {
        (Kind::String, Wire::Bytes(bytes)) => text(bytes)?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Kind::Bool, Wire::Varint(number)) => (number != 0).into(),
        // Negative numbers come sign-extended to 64 bits.
        (Kind::Int32, Wire::Varint(number)) => (number as i32).into(),
        (Kind::Int64, Wire::Varint(number)) => (number as i64).into(),
        (Kind::Double, Wire::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Kind::Quantity, Wire::Bytes(bytes)) => match first(bytes, 1)? {
            Some(Wire::Bytes(bytes)) if !bytes.is_empty() => text(bytes)?.into(),
            _ => "0".into(),
        },
        (Kind::Raw, Wire::Bytes(bytes)) => match first(bytes, 1)? {
            Some(Wire::Bytes(json)) if !json.is_empty() => {
                serde_json::from_slice(json).map_err(|e| malformed(&e.to_string()))?
            }
            _ => Value::Null,
        },
        (Kind::Time | Kind::MicroTime, Wire::Bytes(bytes)) => time(field.kind, bytes)?,
        (Kind::Duration, Wire::Bytes(bytes)) => match first(bytes, 1)? {
            Some(Wire::Varint(nanos)) => duration_text(nanos as i64).into(),
            _ => duration_text(0).into(),
        },
        (Kind::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Kind::Strings, Wire::Bytes(bytes)) => {
            let items = Reader(bytes).filter_map(|wire| match wire {
                Ok((1, Wire::Bytes(bytes))) => Some(text(bytes).map(Value::from)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            });
            Value::Array(items.collect::<ApiResult<_>>()?)
        }
        (Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings, Wire::Bytes(bytes)) => {
            schema_or(field, bytes, depth)?
        }
        (Kind::Message(_), Wire::Bytes(bytes)) => {
            let mut object = Value::Object(Map::new());
            if let Some(ty) = field.message() {
                message(ty, bytes, &mut object, depth - 1)?;
            }
            object
        }
        _ => return Err(malformed(&format!("wrong wireType for field {}", field.name))),
    })
}

/// The last field of that number.
fn first<'a>(bytes: &'a [u8], wanted: u64) -> ApiResult<Option<Wire<'a>>> {
    let mut found = None;
    for wire in Reader(bytes) {
        let (number, wire) = wire?;
        if number == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn number(bytes: &[u8], field: u64) -> ApiResult<i64> {
    Ok(match first(bytes, field)? {
        Some(Wire::Varint(number)) => number as i64,
        _ => 0,
    })
}

/// Seconds and nanos; Go writes the zero time as an empty message, which JSON has as null.
fn time(kind: Kind, bytes: &[u8]) -> ApiResult<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let nanos = if kind == Kind::Time { 0 } else { number(bytes, 2)? as i32 };
    let time = jiff::Timestamp::new(number(bytes, 1)?, nanos).map_err(|e| malformed(&e.to_string()))?;
    Ok(time_text(kind, time).into())
}

fn int_or_string(bytes: &[u8]) -> ApiResult<Value> {
    Ok(match number(bytes, 1)? {
        0 => (number(bytes, 2)? as i32).into(),
        _ => match first(bytes, 3)? {
            Some(Wire::Bytes(bytes)) => text(bytes)?.into(),
            _ => "".into(),
        },
    })
}

/// `true`, a schema, a list of schemas, or a list of strings.
fn schema_or(field: &Field, bytes: &[u8], depth: usize) -> ApiResult<Value> {
    let Some(ty) = field.message() else { return Ok(Value::Null) };
    let schema = |bytes| {
        let mut object = json!({});
        message(ty, bytes, &mut object, depth - 1).map(|()| object)
    };
    let mut items = Vec::new();
    let (mut alone, mut allows) = (None, false);
    for wire in Reader(bytes) {
        match (field.kind, wire?) {
            (Kind::SchemaOrBool, (1, Wire::Varint(number))) => allows = number != 0,
            (Kind::SchemaOrBool, (2, Wire::Bytes(bytes))) | (_, (1, Wire::Bytes(bytes))) => {
                alone = Some(schema(bytes)?)
            }
            (Kind::SchemaOrArray, (2, Wire::Bytes(bytes))) => items.push(schema(bytes)?),
            (Kind::SchemaOrStrings, (2, Wire::Bytes(bytes))) => items.push(text(bytes)?.into()),
            _ => {}
        }
    }
    Ok(match (alone, field.kind) {
        (Some(schema), _) => schema,
        (None, Kind::SchemaOrBool) => allows.into(),
        (None, _) => Value::Array(items),
    })
}

/// A duration as Go prints it: `1h2m3s`, `1.5s`, `10ms`.
pub(crate) fn duration_text(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let fraction = format!("{:09}", (value % unit) * (1_000_000_000 / unit));
        let fraction = fraction.trim_end_matches('0');
        format!("{}{}{fraction}", value / unit, if fraction.is_empty() { "" } else { "." })
    };
    if nanos < 1_000 {
        return format!("{sign}{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{sign}{}µs", decimal(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{sign}{}ms", decimal(nanos, 1_000_000));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// Nanoseconds of a duration as Go prints it; 0 if it is none.
pub(crate) fn duration_nanos(text: &str) -> i64 {
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let scale = match &rest[digits..unit_end] {
            "h" => 3600e9,
            "m" => 60e9,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" => 1e3,
            "ns" => 1.0,
            _ => return 0,
        };
        nanos += rest[..digits].parse::<f64>().unwrap_or_default() * scale;
        rest = &rest[unit_end..];
    }
    (sign * nanos) as i64
}
