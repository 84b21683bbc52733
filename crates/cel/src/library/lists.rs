//! Kubernetes' functions over lists, and those of the lists extension.

use std::cmp::Ordering;

use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const SORTABLE: &str = "list(int): bool | list(uint): bool | list(double): bool | list(bool): bool | \
    list(duration): bool | list(timestamp): bool | list(string): bool | list(bytes): bool";
const EXTREMES: &str = "list(int): int | list(uint): uint | list(double): double | list(bool): bool | \
    list(duration): duration | list(timestamp): timestamp | list(string): string | list(bytes): bytes";

pub(crate) const ROWS: &[Row] = &[
    ("isSorted", MEMBER, SORTABLE, Cost::Items, |args| {
        for pair in list(&args[0])?.windows(2) {
            if pair[0].compare(&pair[1]).ok_or(Error::NoOverload)? == Ordering::Greater {
                return Ok(Value::Bool(false));
            }
        }
        Ok(Value::Bool(true))
    }),
    (
        "sum",
        MEMBER,
        "list(int): int | list(uint): uint | list(double): double | list(duration): duration",
        Cost::Items,
        |args| {
            let mut items = list(&args[0])?.iter();
            let Some(first) = items.next() else { return Ok(Value::Int(0)) };
            items.try_fold(first.clone(), |sum, item| add(&sum, item))
        },
    ),
    ("min", MEMBER, EXTREMES, Cost::Items, |args| extreme(&args[0], "min", Ordering::Less)),
    ("max", MEMBER, EXTREMES, Cost::Items, |args| extreme(&args[0], "max", Ordering::Greater)),
    ("indexOf", MEMBER, "list(A) A: int", Cost::Items, |args| {
        Ok(Value::Int(list(&args[0])?.iter().position(|item| *item == args[1]).map_or(-1, |at| at as i64)))
    }),
    ("lastIndexOf", MEMBER, "list(A) A: int", Cost::Items, |args| {
        Ok(Value::Int(list(&args[0])?.iter().rposition(|item| *item == args[1]).map_or(-1, |at| at as i64)))
    }),
    ("slice", MEMBER, "list(A) int int: list(A)", Cost::Items, |args| {
        let items = list(&args[0])?;
        let [_, Value::Int(from), Value::Int(to)] = args else { return Err(Error::NoOverload) };
        match (usize::try_from(*from), usize::try_from(*to)) {
            (Ok(from), Ok(to)) if from <= to && to <= items.len() => Ok(items[from..to].to_vec().into()),
            _ => failed(format!("cannot slice({from}, {to}), list is length {}", items.len())),
        }
    }),
    ("flatten", MEMBER, "list(list(A)): list(A) | list(A): list(dyn)", Cost::Items, |args| {
        let mut flat = Vec::new();
        for item in list(&args[0])? {
            match item {
                Value::List(items, _) => flat.extend(items.iter().cloned()),
                other => flat.push(other.clone()),
            }
        }
        Ok(flat.into())
    }),
    ("distinct", MEMBER, "list(A): list(A)", Cost::Items, |args| {
        let items = list(&args[0])?;
        if items.len() > 10_000 {
            return Err(Error::CostExceeded);
        }
        let mut distinct: Vec<Value> = Vec::new();
        for item in items {
            if !distinct.contains(item) {
                distinct.push(item.clone());
            }
        }
        Ok(distinct.into())
    }),
    ("reverse", MEMBER, "list(A): list(A)", Cost::Items, |args| {
        Ok(list(&args[0])?.iter().rev().cloned().collect::<Vec<_>>().into())
    }),
    (
        "sort",
        MEMBER,
        "list(int): list(int) | list(uint): list(uint) | list(double): list(double) | list(bool): list(bool) | \
            list(duration): list(duration) | list(timestamp): list(timestamp) | list(string): list(string) | \
            list(bytes): list(bytes)",
        Cost::Items,
        |args| {
            let mut items = list(&args[0])?.to_vec();
            if items.windows(2).any(|pair| pair[0].compare(&pair[1]).is_none()) {
                return failed("list elements must have the same type");
            }
            items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
            Ok(items.into())
        },
    ),
    ("lists.range", GLOBAL, "int: list(int)", Cost::Fixed(10), |args| match args {
        [Value::Int(n)] if (0..=100_000).contains(n) => Ok((0..*n).map(Value::Int).collect::<Vec<_>>().into()),
        [Value::Int(_)] => Err(Error::CostExceeded),
        _ => Err(Error::NoOverload),
    }),
];

pub(super) fn list(value: &Value) -> Result<&[Value], Error> {
    match value {
        Value::List(items, _) => Ok(items),
        _ => Err(Error::NoOverload),
    }
}

fn add(a: &Value, b: &Value) -> Outcome {
    let overflow = || Error::Failed("integer overflow".into());
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => super::time::duration(a + b),
        _ => Err(Error::NoOverload),
    }
}

fn extreme(value: &Value, name: &str, wanted: Ordering) -> Outcome {
    let mut items = list(value)?.iter();
    let Some(first) = items.next() else { return failed(format!("{name} called on empty list")) };
    let found = items.try_fold(first, |best, item| match item.compare(best) {
        Some(ordering) if ordering == wanted => Ok(item),
        Some(_) => Ok(best),
        None => Err(Error::NoOverload),
    })?;
    Ok(found.clone())
}
