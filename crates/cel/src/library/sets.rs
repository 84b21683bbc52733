//! The sets extension: lists as sets.

use super::lists::list;
use super::{GLOBAL, Row};
use crate::cost::Cost;
use crate::value::Value;

pub(crate) const ROWS: &[Row] = &[
    ("sets.contains", GLOBAL, "list(A) list(A): bool", Cost::Product, |args| {
        let (all, some) = (list(&args[0])?, list(&args[1])?);
        Ok(Value::Bool(some.iter().all(|item| all.contains(item))))
    }),
    ("sets.equivalent", GLOBAL, "list(A) list(A): bool", Cost::Product, |args| {
        let (a, b) = (list(&args[0])?, list(&args[1])?);
        Ok(Value::Bool(a.iter().all(|item| b.contains(item)) && b.iter().all(|item| a.contains(item))))
    }),
    ("sets.intersects", GLOBAL, "list(A) list(A): bool", Cost::Product, |args| {
        let (a, b) = (list(&args[0])?, list(&args[1])?);
        Ok(Value::Bool(a.iter().any(|item| b.contains(item))))
    }),
];
