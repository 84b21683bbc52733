//! The standard library: operators, sizes, conversions.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{GLOBAL, MEMBER, Outcome, Row, strings, time};
use crate::cost::Cost;
use crate::eval::{Error, concat, failed};
use crate::types::ListKind;
use crate::value::{Key, Value};

const ONE: Cost = Cost::Fixed(1);

const ARITHMETIC: &str = "int int: int | uint uint: uint | double double: double";
const ADD: &str = "int int: int | uint uint: uint | double double: double | string string: string | \
    bytes bytes: bytes | list(A) list(A): list(A) | duration duration: duration | \
    timestamp duration: timestamp | duration timestamp: timestamp";
const SUBTRACT: &str = "int int: int | uint uint: uint | double double: double | duration duration: duration | \
    timestamp duration: timestamp | timestamp timestamp: duration";
const NUMBERS: &str = "int int: bool | int uint: bool | int double: bool | uint int: bool | uint uint: bool | \
    uint double: bool | double int: bool | double uint: bool | double double: bool | bool bool: bool | \
    duration duration: bool | timestamp timestamp: bool";
const TEXTS: &str = "string string: bool | bytes bytes: bool";

pub(crate) const ROWS: &[Row] = &[
    ("_+_", GLOBAL, ADD, Cost::Concat, add),
    ("_-_", GLOBAL, SUBTRACT, ONE, subtract),
    ("_*_", GLOBAL, ARITHMETIC, ONE, |args| arithmetic(args, i64::checked_mul, u64::checked_mul, |a, b| a * b, "")),
    ("_/_", GLOBAL, ARITHMETIC, ONE, |args| {
        arithmetic(args, i64::checked_div, u64::checked_div, |a, b| a / b, "division by zero")
    }),
    ("_%_", GLOBAL, "int int: int | uint uint: uint", ONE, |args| match args {
        [Value::Double(_), _] => Err(Error::NoOverload),
        _ => arithmetic(args, i64::checked_rem, u64::checked_rem, |a, b| a % b, "modulus by zero"),
    }),
    ("-_", GLOBAL, "int: int | double: double", ONE, |args| match args {
        [Value::Int(a)] => a.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        _ => Err(Error::NoOverload),
    }),
    ("!_", GLOBAL, "bool: bool", ONE, |args| match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(Error::NoOverload),
    }),
    ("_==_", GLOBAL, "A A: bool", Cost::Compare, |args| Ok(Value::Bool(args[0] == args[1]))),
    ("_!=_", GLOBAL, "A A: bool", Cost::Compare, |args| Ok(Value::Bool(args[0] != args[1]))),
    ("_<_", GLOBAL, NUMBERS, ONE, |args| ordered(args, false, Ordering::is_lt)),
    ("_<_", GLOBAL, TEXTS, Cost::Compare, |args| ordered(args, true, Ordering::is_lt)),
    ("_<=_", GLOBAL, NUMBERS, ONE, |args| ordered(args, false, Ordering::is_le)),
    ("_<=_", GLOBAL, TEXTS, Cost::Compare, |args| ordered(args, true, Ordering::is_le)),
    ("_>_", GLOBAL, NUMBERS, ONE, |args| ordered(args, false, Ordering::is_gt)),
    ("_>_", GLOBAL, TEXTS, Cost::Compare, |args| ordered(args, true, Ordering::is_gt)),
    ("_>=_", GLOBAL, NUMBERS, ONE, |args| ordered(args, false, Ordering::is_ge)),
    ("_>=_", GLOBAL, TEXTS, Cost::Compare, |args| ordered(args, true, Ordering::is_ge)),
    ("@in", GLOBAL, "A list(A): bool", Cost::In, |args| match args {
        [item, Value::List(items, _)] => Ok(Value::Bool(items.contains(item))),
        _ => Err(Error::NoOverload),
    }),
    ("@in", GLOBAL, "A map(A,B): bool", ONE, |args| match args {
        [key, Value::Map(entries)] => Ok(Value::Bool(Key::of(key).is_some_and(|key| entries.contains_key(&key)))),
        _ => Err(Error::NoOverload),
    }),
    ("size", GLOBAL, "string: int | bytes: int | list(A): int | map(A,B): int", ONE, size),
    ("size", MEMBER, "string: int | bytes: int | list(A): int | map(A,B): int", ONE, size),
    ("dyn", GLOBAL, "A: dyn", ONE, |args| Ok(args[0].clone())),
    ("type", GLOBAL, "A: type", ONE, |args| Ok(Value::Type(args[0].type_name().into()))),
    ("int", GLOBAL, "int: int | uint: int | double: int | string: int | timestamp: int | duration: int", ONE, int),
    ("uint", GLOBAL, "uint: uint | int: uint | double: uint | string: uint", ONE, uint),
    ("double", GLOBAL, "double: double | int: double | uint: double | string: double", ONE, double),
    (
        "string",
        GLOBAL,
        "string: string | int: string | uint: string | double: string | bool: string | timestamp: string | \
            duration: string | net.IP: string | net.CIDR: string",
        ONE,
        string,
    ),
    ("string", GLOBAL, "bytes: string", Cost::Text(1.0), |args| match args {
        [Value::Bytes(bytes)] => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        _ => Err(Error::NoOverload),
    }),
    ("bytes", GLOBAL, "bytes: bytes | string: bytes", Cost::Text(1.0), |args| match args {
        [Value::Bytes(_)] => Ok(args[0].clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => Err(Error::NoOverload),
    }),
    ("bool", GLOBAL, "bool: bool | string: bool", ONE, |args| match args {
        [Value::Bool(_)] => Ok(args[0].clone()),
        [Value::String(text)] => match text.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => failed("type conversion error from 'string' to 'bool'"),
        },
        _ => Err(Error::NoOverload),
    }),
];

fn overflow() -> Error {
    Error::Failed("integer overflow".into())
}

fn arithmetic(
    args: &[Value],
    ints: fn(i64, i64) -> Option<i64>,
    uints: fn(u64, u64) -> Option<u64>,
    doubles: fn(f64, f64) -> f64,
    zero: &str,
) -> Outcome {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] if !zero.is_empty() => failed(zero),
        [Value::Int(a), Value::Int(b)] => ints(*a, *b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => {
            uints(*a, *b).map(Value::Uint).ok_or_else(|| Error::Failed("unsigned integer overflow".into()))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(doubles(*a, *b))),
        _ => Err(Error::NoOverload),
    }
}

fn add(args: &[Value]) -> Outcome {
    match args {
        [Value::String(a), Value::String(b)] => Ok(format!("{a}{b}").into()),
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([a.as_ref(), b.as_ref()].concat().into())),
        [Value::List(a, kind), Value::List(b, other)] => {
            let kind = if *kind == ListKind::Atomic && a.is_empty() { other } else { kind };
            Ok(Value::List(Arc::new(concat(a, b, kind)), kind.clone()))
        }
        [Value::Duration(a), Value::Duration(b)] => time::duration(a + b),
        [Value::Timestamp(at), Value::Duration(by)] | [Value::Duration(by), Value::Timestamp(at)] => {
            time::timestamp(at.as_nanosecond() + by)
        }
        _ => arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b, ""),
    }
}

fn subtract(args: &[Value]) -> Outcome {
    match args {
        [Value::Duration(a), Value::Duration(b)] => time::duration(a - b),
        [Value::Timestamp(at), Value::Duration(by)] => time::timestamp(at.as_nanosecond() - by),
        [Value::Timestamp(a), Value::Timestamp(b)] => time::duration(a.as_nanosecond() - b.as_nanosecond()),
        _ => arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b, ""),
    }
}

/// Whether two values are in this order, if they are texts or (else) no texts.
fn ordered(args: &[Value], texts: bool, fits: fn(Ordering) -> bool) -> Outcome {
    let is_text = |value: &Value| matches!(value, Value::String(_) | Value::Bytes(_));
    match args {
        [Value::Double(a), _] | [_, Value::Double(a)] if a.is_nan() => Ok(Value::Bool(false)),
        [Value::Quantity(_) | Value::Semver(_), _] => Err(Error::NoOverload),
        [a, b] if is_text(a) == texts => match a.compare(b) {
            Some(ordering) => Ok(Value::Bool(fits(ordering))),
            None => Err(Error::NoOverload),
        },
        _ => Err(Error::NoOverload),
    }
}

fn size(args: &[Value]) -> Outcome {
    match &args[0] {
        value @ (Value::String(_) | Value::Bytes(_) | Value::List(..) | Value::Map(_)) => {
            Ok(Value::Int(value.size() as i64))
        }
        _ => Err(Error::NoOverload),
    }
}

fn int(args: &[Value]) -> Outcome {
    match &args[0] {
        Value::Int(i) => Ok(Value::Int(*i)),
        Value::Uint(u) => i64::try_from(*u).map(Value::Int).map_err(|_| overflow()),
        Value::Double(d) if d.abs() < 9_223_372_036_854_775_808.0 => Ok(Value::Int(*d as i64)),
        Value::Double(_) => Err(overflow()),
        Value::String(text) => match text.parse() {
            Ok(i) => Ok(Value::Int(i)),
            Err(_) => failed(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
        },
        Value::Timestamp(time) => Ok(Value::Int(time.as_second())),
        Value::Duration(nanos) => Ok(Value::Int(*nanos as i64)),
        _ => Err(Error::NoOverload),
    }
}

fn uint(args: &[Value]) -> Outcome {
    let overflow = || Error::Failed("unsigned integer overflow".into());
    match &args[0] {
        Value::Uint(u) => Ok(Value::Uint(*u)),
        Value::Int(i) => u64::try_from(*i).map(Value::Uint).map_err(|_| overflow()),
        Value::Double(d) if (0.0..18_446_744_073_709_551_616.0).contains(d) => Ok(Value::Uint(*d as u64)),
        Value::Double(_) => Err(overflow()),
        Value::String(text) => match text.parse() {
            Ok(u) => Ok(Value::Uint(u)),
            Err(_) => failed(format!("strconv.ParseUint: parsing {text:?}: invalid syntax")),
        },
        _ => Err(Error::NoOverload),
    }
}

fn double(args: &[Value]) -> Outcome {
    match &args[0] {
        Value::Double(d) => Ok(Value::Double(*d)),
        Value::Int(i) => Ok(Value::Double(*i as f64)),
        Value::Uint(u) => Ok(Value::Double(*u as f64)),
        Value::String(text) => match text.parse() {
            Ok(d) => Ok(Value::Double(d)),
            Err(_) => failed(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
        },
        _ => Err(Error::NoOverload),
    }
}

fn string(args: &[Value]) -> Outcome {
    match &args[0] {
        Value::Bytes(_) | Value::List(..) | Value::Map(_) | Value::Null | Value::Optional(_) => Err(Error::NoOverload),
        value => Ok(strings::show(value).into()),
    }
}
