//! The evaluator: walks checked nodes, and counts what that costs as upstream's does, so that no
//! expression can run away.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::{Checked, Fold, Node, Op};
use crate::cost;
use crate::types::ListKind;
use crate::value::{Key, Value};

/// The most one evaluation may cost: about a tenth of a second.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// The most all rules of one object, or all expressions of one policy, may cost.
pub const RUNTIME_COST_BUDGET: u64 = 10_000_000;
/// The most the match conditions of one webhook or policy may cost.
pub const MATCH_CONDITIONS_BUDGET: u64 = RUNTIME_COST_BUDGET / 4;
/// The most values one value may be made of.
const MAX_WEIGHT: u64 = 1_000_000;

/// Why an evaluation gave no value. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The values do not fit the function.
    #[error("no such overload")]
    NoOverload,
    /// A map or object has no such key or field.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// It costs more than the limit.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// A failure with this text.
pub(crate) fn failed<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Failed(message.into()))
}

/// Counts what evaluation costs, up to a limit.
#[derive(Debug)]
pub struct Meter {
    limit: u64,
    used: Cell<u64>,
}

impl Meter {
    /// A meter that stops what costs more.
    pub fn new(limit: u64) -> Meter {
        Meter { limit, used: Cell::new(0) }
    }

    /// What was spent.
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    /// Spends some.
    ///
    /// # Errors
    /// If that is more than the limit.
    pub fn charge(&self, cost: u64) -> Result<(), Error> {
        self.used.set(self.used.get().saturating_add(cost));
        if self.used.get() > self.limit { Err(Error::CostExceeded) } else { Ok(()) }
    }
}

/// The values of an expression's variables, asked for when they are needed.
pub trait Variables {
    /// The value of a declared variable.
    ///
    /// # Errors
    /// If it is computed and that fails.
    fn get(&self, name: &str, meter: &Meter) -> Result<Value, Error>;
}

impl Variables for BTreeMap<&str, Value> {
    fn get(&self, name: &str, _: &Meter) -> Result<Value, Error> {
        BTreeMap::get(self, name).cloned().ok_or_else(|| Error::Failed(format!("no such attribute(s): {name}")))
    }
}

pub(crate) fn evaluate(checked: &Checked, variables: &dyn Variables, meter: &Meter) -> Result<Value, Error> {
    let cache = vec![None; checked.variables.len()];
    Machine { names: &checked.variables, variables, meter, cache, locals: vec![] }.node(&checked.root)
}

struct Machine<'a> {
    names: &'a [String],
    variables: &'a dyn Variables,
    meter: &'a Meter,
    cache: Vec<Option<Value>>,
    locals: Vec<Value>,
}

impl Machine<'_> {
    fn node(&mut self, node: &Node) -> Result<Value, Error> {
        match &node.op {
            Op::Const(value) => Ok(value.clone()),
            Op::Var(place) => {
                self.meter.charge(1)?;
                if let Some(value) = &self.cache[*place] {
                    return Ok(value.clone());
                }
                let value = self.variables.get(&self.names[*place], self.meter)?;
                self.cache[*place] = Some(value.clone());
                Ok(value)
            }
            Op::Local(depth) => {
                self.meter.charge(1)?;
                Ok(self.locals[*depth].clone())
            }
            Op::Select { operand, json, test, optional } => {
                let operand = self.node(operand)?;
                self.meter.charge(u64::from(!test))?;
                if *test { present(&operand, json) } else { lookup(&operand, &Value::String(json.clone()), *optional) }
            }
            Op::Index { operand, index, optional } => {
                let (operand, index) = (self.node(operand)?, self.node(index)?);
                self.meter.charge(1)?;
                lookup(&operand, &index, *optional)
            }
            Op::And(left, right) => self.logic(left, right, false),
            Op::Or(left, right) => self.logic(left, right, true),
            Op::If(parts) => {
                let (test, then, other) = parts.as_ref();
                if boolean(self.node(test)?)? { self.node(then) } else { self.node(other) }
            }
            Op::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    list.extend(keep(self.node(item)?, *optional)?);
                }
                self.meter.charge(cost::LIST)?;
                self.weighed(list.into())
            }
            Op::Map(entries) => {
                let mut map = BTreeMap::new();
                for (key, value, optional) in entries {
                    let (key, value) = (self.node(key)?, self.node(value)?);
                    if let Some(value) = keep(value, *optional)? {
                        insert(&mut map, &key, value)?;
                    }
                }
                self.meter.charge(cost::MAP)?;
                self.weighed(Value::Map(Arc::new(map)))
            }
            Op::Struct(fields) => {
                let mut map = BTreeMap::new();
                for (name, value, optional) in fields {
                    if let Some(value) = keep(self.node(value)?, *optional)? {
                        map.insert(Key::String(name.as_str().into()), value);
                    }
                }
                self.meter.charge(cost::STRUCT)?;
                self.weighed(Value::Map(Arc::new(map)))
            }
            Op::Bind(value, body) => {
                let value = self.node(value)?;
                self.within(value, |machine| machine.node(body))
            }
            Op::OptMap { operand, body, flat } => match self.node(operand)? {
                Value::Optional(None) => Ok(Value::NONE),
                Value::Optional(Some(inner)) => {
                    let mapped = self.within(inner.as_ref().clone(), |machine| machine.node(body))?;
                    Ok(if *flat { mapped } else { mapped.some() })
                }
                _ => Err(Error::NoOverload),
            },
            Op::Call { candidates, args } => {
                let args = args.iter().map(|arg| self.node(arg)).collect::<Result<Vec<_>, _>>()?;
                self.call(candidates, &args)
            }
            Op::Fold { fold, range, two, args } => self.fold(*fold, range, *two, args),
        }
    }

    fn within<T>(&mut self, local: Value, f: impl FnOnce(&mut Self) -> T) -> T {
        self.locals.push(local);
        let result = f(self);
        self.locals.pop();
        result
    }

    /// Charges for what is made of very many values, however often they are shared.
    fn weighed(&self, value: Value) -> Result<Value, Error> {
        let weight = value.weight(MAX_WEIGHT);
        if weight >= MAX_WEIGHT {
            return Err(Error::CostExceeded);
        }
        self.meter.charge(weight / 100)?;
        Ok(value)
    }

    /// `&&` and `||`: a side that decides alone makes the other's error unimportant.
    fn logic(&mut self, left: &Node, right: &Node, decides: bool) -> Result<Value, Error> {
        let left = self.node(left).and_then(boolean);
        if left == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        self.meter.charge(0)?;
        let right = self.node(right).and_then(boolean);
        if right == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        left?;
        right.map(Value::Bool)
    }

    fn call(&mut self, candidates: &[&'static crate::library::Function], args: &[Value]) -> Result<Value, Error> {
        let mut result = Err(Error::NoOverload);
        for function in candidates {
            // Paid before it is done: what is too dear is not done at all.
            self.meter.charge(cost::before(function.cost, args))?;
            result = (function.call)(args);
            if result != Err(Error::NoOverload) {
                if let Ok(value) = &result {
                    self.meter.charge(cost::after(function.cost, value))?;
                    if matches!(value, Value::List(..) | Value::Map(_) | Value::Optional(Some(_))) {
                        return self.weighed(result?);
                    }
                }
                break;
            }
        }
        result
    }

    fn fold(&mut self, fold: Fold, range: &Node, two: bool, args: &[Node]) -> Result<Value, Error> {
        let range = self.node(range)?;
        let count = match &range {
            Value::List(items, _) => items.len(),
            Value::Map(entries) => entries.len(),
            _ => return Err(Error::NoOverload),
        };
        // The entries' iterators, so that a map's keys are not searched for one by one.
        let mut list = if let Value::List(items, _) = &range { Some(items.iter().enumerate()) } else { None };
        let mut map = if let Value::Map(entries) = &range { Some(entries.iter()) } else { None };
        let (mut items, mut entries) = (Vec::new(), BTreeMap::new());
        let (mut found, mut error) = (0_u64, None);
        self.meter.charge(cost::fold_start(fold))?;
        for _ in 0..count {
            let (key, value) = if let Some((index, item)) = list.as_mut().and_then(Iterator::next) {
                (Value::Int(index as i64), item.clone())
            } else if let Some((key, value)) = map.as_mut().and_then(Iterator::next) {
                (Value::from(key), value.clone())
            } else {
                break;
            };
            self.meter.charge(cost::fold_step(fold))?;
            let depth = self.locals.len();
            if two {
                self.locals.extend([key.clone(), value.clone()]);
            } else {
                self.locals.push(if list.is_some() { value.clone() } else { key.clone() });
            }
            let step = self.step(fold, args);
            self.locals.truncate(depth);
            if step == Err(Error::CostExceeded) {
                return Err(Error::CostExceeded);
            }
            match (fold, step) {
                (Fold::All, Ok(Step::Test(false))) => return Ok(Value::Bool(false)),
                (Fold::Exists, Ok(Step::Test(true))) => return Ok(Value::Bool(true)),
                (Fold::All | Fold::Exists, Ok(_)) => {}
                // Another element may still decide.
                (Fold::All | Fold::Exists, Err(failure)) => error = error.or(Some(failure)),
                (_, Err(failure)) => return Err(failure),
                (_, Ok(Step::Test(false))) => {}
                (Fold::ExistsOne, _) => found += 1,
                (Fold::Filter, _) => items.push(if list.is_some() { value } else { key }),
                (Fold::TransformMap, Ok(Step::Value(made))) => insert(&mut entries, &key, made)?,
                (Fold::TransformMapEntry, Ok(Step::Value(Value::Map(made)))) => {
                    for (key, value) in made.iter() {
                        insert(&mut entries, &key.into(), value.clone())?;
                    }
                }
                (_, Ok(Step::Value(made))) => items.push(made),
                (_, Ok(Step::Test(true))) => {}
            }
        }
        if let Some(error) = error {
            return Err(error);
        }
        match fold {
            Fold::All => Ok(Value::Bool(true)),
            Fold::Exists => Ok(Value::Bool(false)),
            Fold::ExistsOne => Ok(Value::Bool(found == 1)),
            Fold::Filter => self.weighed(match &range {
                Value::List(_, kind) => Value::List(Arc::new(items), kind.clone()),
                _ => items.into(),
            }),
            Fold::Map | Fold::TransformList => self.weighed(items.into()),
            Fold::TransformMap | Fold::TransformMapEntry => self.weighed(Value::Map(Arc::new(entries))),
        }
    }

    /// One round: the tests, then what it makes.
    fn step(&mut self, fold: Fold, args: &[Node]) -> Result<Step, Error> {
        let (tests, result) = match (fold, args) {
            (Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter, tests) => (tests, None),
            (_, [tests @ .., result]) => (tests, Some(result)),
            (_, []) => return Err(Error::NoOverload),
        };
        for test in tests {
            if !boolean(self.node(test)?)? {
                return Ok(Step::Test(false));
            }
        }
        match result {
            None => Ok(Step::Test(true)),
            Some(result) => {
                let value = self.node(result)?;
                self.meter.charge(cost::fold_append(fold))?;
                Ok(Step::Value(value))
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    Test(bool),
    Value(Value),
}

fn boolean(value: Value) -> Result<bool, Error> {
    match value {
        Value::Bool(b) => Ok(b),
        _ => Err(Error::NoOverload),
    }
}

/// An element or entry of a literal, unless it is optional and not there.
fn keep(value: Value, optional: bool) -> Result<Option<Value>, Error> {
    match value {
        value if !optional => Ok(Some(value)),
        Value::Optional(inner) => Ok(inner.map(|inner| inner.as_ref().clone())),
        _ => Err(Error::NoOverload),
    }
}

fn insert(map: &mut BTreeMap<Key, Value>, key: &Value, value: Value) -> Result<(), Error> {
    let Some(as_key) = Key::of(key) else { return failed("unsupported key type") };
    match map.insert(as_key, value) {
        None => Ok(()),
        Some(_) => failed(format!("insert failed: key {} already exists", crate::library::strings::show(key))),
    }
}

fn present(operand: &Value, field: &Arc<str>) -> Result<Value, Error> {
    match operand {
        Value::Map(entries) => Ok(Value::Bool(entries.contains_key(&Key::String(field.clone())))),
        Value::Optional(None) => Ok(Value::Bool(false)),
        Value::Optional(Some(inner)) => present(inner, field),
        _ => Err(Error::NoOverload),
    }
}

/// `operand[index]`; of optional values and by optional access an optional.
fn lookup(operand: &Value, index: &Value, optional: bool) -> Result<Value, Error> {
    let found = match operand {
        Value::Optional(None) => return Ok(Value::NONE),
        Value::Optional(Some(inner)) => return lookup(inner, index, true),
        Value::Map(entries) => Key::of(index).and_then(|key| entries.get(&key)).cloned(),
        Value::List(items, _) => match index {
            Value::Int(at) => usize::try_from(*at).ok().and_then(|at| items.get(at)).cloned(),
            Value::Uint(at) => usize::try_from(*at).ok().and_then(|at| items.get(at)).cloned(),
            Value::Double(at) if at.fract() == 0.0 && *at >= 0.0 => items.get(*at as usize).cloned(),
            _ => return Err(Error::NoOverload),
        },
        _ => return Err(Error::NoOverload),
    };
    match (found, optional, operand) {
        (Some(value), true, _) => Ok(value.some()),
        (Some(value), false, _) => Ok(value),
        (None, true, _) => Ok(Value::NONE),
        (None, false, Value::List(..)) => {
            failed(format!("index out of bounds: {}", crate::library::strings::show(index)))
        }
        (None, false, _) => Err(Error::NoSuchKey(crate::library::strings::show(index))),
    }
}

/// Joins two lists as their kind says: sets and maps take over what they do not have, maps replace
/// what they have.
pub(crate) fn concat(a: &[Value], b: &[Value], kind: &ListKind) -> Vec<Value> {
    let mut joined = a.to_vec();
    match kind {
        ListKind::Atomic => joined.extend_from_slice(b),
        ListKind::Set => {
            let have = crate::value::set(a);
            joined.extend(b.iter().filter(|item| !have.contains(&Key::of(item))).cloned());
        }
        ListKind::Map(keys) => {
            let mut places: BTreeMap<_, _> =
                a.iter().enumerate().map(|(at, item)| (crate::value::keys_of(item, keys), at)).collect();
            for item in b {
                let at = *places.entry(crate::value::keys_of(item, keys)).or_insert(joined.len());
                if at < joined.len() { joined[at] = item.clone() } else { joined.push(item.clone()) }
            }
        }
    }
    joined
}
