//! Optional values.

use super::{GLOBAL, MEMBER, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);

pub(crate) const ROWS: &[Row] = &[
    ("optional.of", GLOBAL, "A: optional(A)", ONE, |args| Ok(args[0].clone().some())),
    ("optional.none", GLOBAL, ": optional(A)", ONE, |_| Ok(Value::NONE)),
    ("optional.ofNonZeroValue", GLOBAL, "A: optional(A)", ONE, |args| {
        let zero = match &args[0] {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
            Value::Double(d) => *d == 0.0,
            value @ (Value::String(_) | Value::Bytes(_) | Value::List(..) | Value::Map(_)) => value.size() == 0,
            _ => false,
        };
        Ok(if zero { Value::NONE } else { args[0].clone().some() })
    }),
    ("hasValue", MEMBER, "optional(A): bool", ONE, |args| match args {
        [Value::Optional(inner)] => Ok(Value::Bool(inner.is_some())),
        _ => Err(Error::NoOverload),
    }),
    ("value", MEMBER, "optional(A): A", ONE, |args| match args {
        [Value::Optional(Some(inner))] => Ok(inner.as_ref().clone()),
        [Value::Optional(None)] => failed("optional.none() dereference"),
        _ => Err(Error::NoOverload),
    }),
    ("or", MEMBER, "optional(A) optional(A): optional(A)", ONE, |args| match args {
        [some @ Value::Optional(Some(_)), _] => Ok(some.clone()),
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        _ => Err(Error::NoOverload),
    }),
    ("orValue", MEMBER, "optional(A) A: A", ONE, |args| match args {
        [Value::Optional(Some(inner)), _] => Ok(inner.as_ref().clone()),
        [Value::Optional(None), other] => Ok(other.clone()),
        _ => Err(Error::NoOverload),
    }),
];
