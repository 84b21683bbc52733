//! The math extension's comparisons and roundings.

use std::cmp::Ordering;

use super::lists::list;
use super::{GLOBAL, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
const PAIRS: &str = "int: int | uint: uint | double: double | int int: int | uint uint: uint | \
    double double: double | dyn dyn: dyn | dyn dyn dyn: dyn | list(A): A";
const DOUBLE: &str = "double: double";

pub(crate) const ROWS: &[Row] = &[
    ("math.greatest", GLOBAL, PAIRS, ONE, |args| extreme(args, Ordering::Greater)),
    ("math.least", GLOBAL, PAIRS, ONE, |args| extreme(args, Ordering::Less)),
    ("math.ceil", GLOBAL, DOUBLE, ONE, |args| double(args, f64::ceil)),
    ("math.floor", GLOBAL, DOUBLE, ONE, |args| double(args, f64::floor)),
    ("math.round", GLOBAL, DOUBLE, ONE, |args| double(args, f64::round)),
    ("math.trunc", GLOBAL, DOUBLE, ONE, |args| double(args, f64::trunc)),
    ("math.abs", GLOBAL, "int: int | uint: uint | double: double", ONE, |args| match args {
        [Value::Int(i)] => i.checked_abs().map(Value::Int).ok_or_else(|| Error::Failed("integer overflow".into())),
        [Value::Uint(_)] => Ok(args[0].clone()),
        _ => double(args, f64::abs),
    }),
    ("math.isNaN", GLOBAL, "double: bool", ONE, |args| match args {
        [Value::Double(d)] => Ok(Value::Bool(d.is_nan())),
        _ => Err(Error::NoOverload),
    }),
    ("math.isFinite", GLOBAL, "double: bool", ONE, |args| match args {
        [Value::Double(d)] => Ok(Value::Bool(d.is_finite())),
        _ => Err(Error::NoOverload),
    }),
];

fn double(args: &[Value], f: fn(f64) -> f64) -> Outcome {
    match args {
        [Value::Double(d)] => Ok(Value::Double(f(*d))),
        _ => Err(Error::NoOverload),
    }
}

fn extreme(args: &[Value], wanted: Ordering) -> Outcome {
    let items = if let [Value::List(..)] = args { list(&args[0])? } else { args };
    let Some(first) = items.first() else { return failed("math.@max(list) argument must not be empty") };
    let best = items.iter().try_fold(first, |best, item| match item.compare(best) {
        Some(ordering) if ordering == wanted => Ok(item),
        Some(_) => Ok(best),
        None => Err(Error::NoOverload),
    })?;
    Ok(best.clone())
}
