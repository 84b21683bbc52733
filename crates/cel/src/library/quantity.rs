//! Kubernetes' quantities.

use std::cmp::Ordering;

use coracle_api::quantity::Quantity;

use super::strings::one;
use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
const TEST: &str = "kubernetes.Quantity kubernetes.Quantity: bool";
const SUM: &str =
    "kubernetes.Quantity kubernetes.Quantity: kubernetes.Quantity | kubernetes.Quantity int: kubernetes.Quantity";

pub(crate) const ROWS: &[Row] = &[
    ("quantity", GLOBAL, "string: kubernetes.Quantity", Cost::Text(1.0), |args| {
        let Some(text) = args[0].as_str() else { return Err(Error::NoOverload) };
        text.parse().map(Value::Quantity).or_else(|error| failed(format!("{error}")))
    }),
    ("isQuantity", GLOBAL, "string: bool", Cost::Text(1.0), |args| {
        one(args, |text| text.parse::<Quantity>().is_ok().into())
    }),
    ("sign", MEMBER, "kubernetes.Quantity: int", ONE, |args| {
        of(args, |q| {
            Ok(Value::Int(if q.is_zero() {
                0
            } else if q.is_negative() {
                -1
            } else {
                1
            }))
        })
    }),
    ("isInteger", MEMBER, "kubernetes.Quantity: bool", ONE, |args| of(args, |q| Ok(Value::Bool(whole(q).is_some())))),
    ("asInteger", MEMBER, "kubernetes.Quantity: int", ONE, |args| {
        of(args, |q| match whole(q) {
            Some(value) => Ok(Value::Int(value)),
            None => failed("cannot convert value to integer"),
        })
    }),
    ("asApproximateFloat", MEMBER, "kubernetes.Quantity: double", ONE, |args| {
        of(args, |q| Ok(Value::Double(q.to_f64())))
    }),
    ("isGreaterThan", MEMBER, TEST, ONE, |args| compare(args, |o| o.is_gt().into())),
    ("isLessThan", MEMBER, TEST, ONE, |args| compare(args, |o| o.is_lt().into())),
    ("compareTo", MEMBER, "kubernetes.Quantity kubernetes.Quantity: int", ONE, |args| {
        compare(args, |o| Value::Int(o as i64))
    }),
    ("add", MEMBER, SUM, ONE, |args| sum(args, |a, b| a + b)),
    ("sub", MEMBER, SUM, ONE, |args| sum(args, |a, b| a - b)),
];

fn whole(quantity: Quantity) -> Option<i64> {
    quantity.is_whole().then(|| quantity.to_value())
}

fn of(args: &[Value], f: impl Fn(Quantity) -> Outcome) -> Outcome {
    match args {
        [Value::Quantity(quantity)] => f(*quantity),
        _ => Err(Error::NoOverload),
    }
}

fn compare(args: &[Value], f: impl Fn(Ordering) -> Value) -> Outcome {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(f(a.cmp(b))),
        _ => Err(Error::NoOverload),
    }
}

fn sum(args: &[Value], f: impl Fn(Quantity, Quantity) -> Quantity) -> Outcome {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Quantity(f(*a, *b))),
        [Value::Quantity(a), Value::Int(b)] => Ok(Value::Quantity(f(*a, Quantity::from_value(*b)))),
        _ => Err(Error::NoOverload),
    }
}
