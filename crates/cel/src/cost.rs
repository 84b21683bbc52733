//! What expressions cost: while they run ([`before`], [`after`]) and at worst, by the bounds their
//! variables are declared with ([`estimate`]). Units and factors are upstream's, whose limits are stated
//! in them: one unit is a step of fixed size, about 50 ns there.

use crate::check::{Fold, Node, Op};
use crate::types::{Shape, Type};
use crate::value::Value;

/// A list literal.
pub(crate) const LIST: u64 = 10;
/// A map literal.
pub(crate) const MAP: u64 = 30;
/// An object literal.
pub(crate) const STRUCT: u64 = 40;
/// A character read.
const CHARACTER: f64 = 0.1;
/// A character of a regular expression.
const REGEX: f64 = 0.25;

/// How a function's cost grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cost {
    /// Not at all.
    Fixed(u64),
    /// With its first argument's characters; the factor is how often they are read.
    Text(f64),
    /// As `Text`, by the second argument while only bounds are known (`startsWith`).
    Prefix,
    /// With its first argument's items.
    Items,
    /// With text and regular expression.
    Search,
    /// With text and what is looked for in it.
    Contains,
    /// With the list that is looked through.
    In,
    /// With the shorter of both sides.
    Compare,
    /// With both sides, if they are text.
    Concat,
    /// With the text it makes.
    Join,
    /// With the address; twice for a range; the flag says whether it is a range that is looked for.
    Cidr(bool),
    /// With each item of one list against each of the other.
    Product,
}

/// A range of costs or sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The most; `u64::MAX` for no bound.
    pub max: u64,
}

const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl Range {
    /// Exactly this.
    pub const fn exactly(n: u64) -> Range {
        Range { min: n, max: n }
    }

    fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> Range {
        Range { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    fn or(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Rounded up; no bound stays no bound.
fn scale(n: u64, factor: f64) -> u64 {
    let scaled = (n as f64 * factor).ceil();
    if scaled >= u64::MAX as f64 || n == u64::MAX { u64::MAX } else { scaled as u64 }
}

/// What calling a function with these arguments costs.
pub(crate) fn before(cost: Cost, args: &[Value]) -> u64 {
    let size = |place: usize| args.get(place).map_or(1, Value::size);
    // Beyond upstream: comparing what is made of very many values is not cheap.
    let weight = |value: &Value| value.weight(1_000_000) / 100;
    match cost {
        Cost::Fixed(n) => n,
        Cost::Text(times) => scale(size(0), times * CHARACTER),
        Cost::Prefix => scale(size(0), CHARACTER),
        Cost::Items => size(0) + weight(&args[0]),
        Cost::Search => scale(size(0) + 1, CHARACTER).saturating_mul(scale(size(1), REGEX)),
        Cost::Contains => scale(size(0), CHARACTER).saturating_mul(scale(size(1), CHARACTER)),
        Cost::In => size(1) + weight(&args[1]),
        Cost::Compare => {
            let weights = args.iter().map(weight).min().unwrap_or_default();
            scale(size(0).min(size(1)), CHARACTER) + weights
        }
        Cost::Concat => match &args[0] {
            Value::String(_) | Value::Bytes(_) => scale(size(0) + size(1), CHARACTER),
            _ => 1,
        },
        Cost::Join => 0,
        Cost::Cidr(range) => {
            let base = scale(size(0) * 2, CHARACTER) + if range { scale(size(0), CHARACTER) + 1 } else { 0 };
            base + if matches!(args.get(1), Some(Value::String(_))) { scale(size(1), CHARACTER) } else { 0 }
        }
        Cost::Product => size(0).saturating_mul(size(1)).saturating_add(weight(&args[0])).max(1),
    }
}

/// What is known only from the result.
pub(crate) fn after(cost: Cost, result: &Value) -> u64 {
    if cost == Cost::Join { scale(result.size(), 2.0 * CHARACTER) } else { 0 }
}

/// What a macro costs beside its range and expressions: once.
pub(crate) fn fold_start(fold: Fold) -> u64 {
    match fold {
        Fold::All | Fold::Exists => 1,
        Fold::ExistsOne => 2,
        Fold::Map | Fold::Filter | Fold::TransformList => LIST + 1,
        Fold::TransformMap | Fold::TransformMapEntry => MAP + 1,
    }
}

/// For every element.
pub(crate) fn fold_step(fold: Fold) -> u64 {
    match fold {
        Fold::All => 3,
        Fold::Exists => 4,
        Fold::ExistsOne => 2,
        Fold::Filter => LIST + 3,
        _ => 0,
    }
}

/// For every element that it makes.
pub(crate) fn fold_append(fold: Fold) -> u64 {
    match fold {
        Fold::Map | Fold::TransformList => LIST + 2,
        Fold::TransformMap | Fold::TransformMapEntry => 2,
        _ => 0,
    }
}

/// What an expression may cost.
pub(crate) fn estimate(node: &Node) -> Range {
    Estimator { locals: vec![] }.node(node).cost
}

/// A node's cost, the size of its value, and the size of that one's items.
#[derive(Clone, Copy)]
struct Estimate {
    cost: Range,
    size: Option<Range>,
    items: Option<Range>,
}

struct Estimator {
    locals: Vec<Option<Range>>,
}

impl Estimator {
    fn node(&mut self, node: &Node) -> Estimate {
        let mut estimate = self.bare(node);
        if estimate.size.is_none() {
            estimate.size = match &node.decl {
                Some(decl) => Some(Range { min: 0, max: decl.max_elements }),
                None if node.ty.scalar() => Some(Range::exactly(1)),
                None => None,
            };
        }
        if estimate.items.is_none()
            && let Some(Shape::List(items, _) | Shape::Map(items)) = node.decl.as_deref().map(|decl| &decl.shape)
        {
            estimate.items = Some(Range { min: 0, max: items.max_elements });
        }
        estimate
    }

    /// Without what the declaration says.
    fn bare(&mut self, node: &Node) -> Estimate {
        let of = |cost: Range| Estimate { cost, size: None, items: None };
        let one = Range::exactly(1);
        match &node.op {
            Op::Const(value) => Estimate { size: Some(Range::exactly(value.size())), ..of(Range::exactly(0)) },
            Op::Var(_) => of(one),
            Op::Local(depth) => {
                let known = self.locals.get(*depth).copied().flatten().filter(|_| node.decl.is_none());
                Estimate { size: known, ..of(one) }
            }
            Op::Select { operand, test, .. } => {
                let cost = self.node(operand).cost;
                // As upstream: reading an undeclared value's field is not counted.
                let counts = !test && !matches!(operand.ty, Type::Dyn);
                of(if counts { cost.plus(one) } else { cost })
            }
            Op::Index { operand, index, .. } => {
                let operand = self.node(operand);
                let cost = operand.cost.plus(self.node(index).cost).plus(one);
                Estimate { size: operand.items.filter(|_| node.decl.is_none()), ..of(cost) }
            }
            Op::And(left, right) | Op::Or(left, right) => {
                let (left, right) = (self.node(left).cost, self.node(right).cost);
                of(Range { min: left.min, max: left.plus(right).max })
            }
            Op::If(parts) => {
                let (test, then, other) = parts.as_ref();
                let (test, then, other) = (self.node(test), self.node(then), self.node(other));
                let both = |a: Option<Range>, b: Option<Range>| Some(a?.or(b?));
                Estimate {
                    cost: test.cost.plus(then.cost.or(other.cost)),
                    size: both(then.size, other.size),
                    items: both(then.items, other.items),
                }
            }
            Op::List(items) => {
                let mut made = Estimate { size: Some(Range::exactly(items.len() as u64)), ..of(Range::exactly(LIST)) };
                let mut sizes = None::<Range>;
                for (item, _) in items {
                    let item = self.node(item);
                    made.cost = made.cost.plus(item.cost);
                    let size = item.size.unwrap_or(UNKNOWN);
                    sizes = Some(sizes.map_or(size, |known| known.or(size)));
                }
                Estimate { items: Some(sizes.unwrap_or(Range::exactly(0))), ..made }
            }
            Op::Map(entries) => {
                let mut made = Estimate { size: Some(Range::exactly(entries.len() as u64)), ..of(Range::exactly(MAP)) };
                let mut sizes = Range::exactly(0);
                for (key, value, _) in entries {
                    let (key, value) = (self.node(key), self.node(value));
                    made.cost = made.cost.plus(key.cost).plus(value.cost);
                    sizes = sizes.or(value.size.unwrap_or(UNKNOWN));
                }
                Estimate { items: Some(sizes), ..made }
            }
            Op::Struct(fields) => {
                of(fields.iter().fold(Range::exactly(STRUCT), |cost, (_, value, _)| cost.plus(self.node(value).cost)))
            }
            Op::Bind(value, body) => {
                let value = self.node(value);
                self.locals.push(value.size);
                let body = self.node(body);
                self.locals.pop();
                Estimate { cost: value.cost.plus(body.cost).plus(Range::exactly(LIST)), ..body }
            }
            Op::OptMap { operand, body, .. } => {
                let operand = self.node(operand);
                self.locals.push(operand.size);
                let body = self.node(body);
                self.locals.pop();
                of(Range { min: operand.cost.min, max: operand.cost.plus(body.cost).plus(Range::exactly(LIST)).max })
            }
            Op::Call { candidates, args: nodes } => {
                let args: Vec<Estimate> = nodes.iter().map(|arg| self.node(arg)).collect();
                let sum = args.iter().fold(Range::exactly(0), |sum, arg| sum.plus(arg.cost));
                let calls = candidates.iter().map(|function| call(function.cost, &args, node));
                let (cost, size) = calls
                    .reduce(|(cost, size), (other, other_size)| {
                        (cost.or(other), size.zip(other_size).map(|(a, b)| a.or(b)).or(size).or(other_size))
                    })
                    .unwrap_or((one, None));
                // Numbers and times are short as text.
                let short = matches!((&node.ty, nodes.as_slice()), (Type::String, [of]) if of.ty.scalar());
                let size = if short { Some(Range { min: 1, max: 40 }) } else { size };
                Estimate { cost: sum.plus(cost), size, items: None }
            }
            Op::Fold { fold, range, two, args } => self.fold(*fold, range, *two, args),
        }
    }

    fn fold(&mut self, fold: Fold, range: &Node, two: bool, args: &[Node]) -> Estimate {
        let range = self.node(range);
        let depth = self.locals.len();
        if two {
            self.locals.push(None);
        }
        self.locals.push(range.items);
        let args: Vec<Estimate> = args.iter().map(|arg| self.node(arg)).collect();
        self.locals.truncate(depth);
        let (tests, result) = match (fold, args.as_slice()) {
            (Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter, tests) => (tests, None),
            (_, [tests @ .., result]) => (tests, Some(*result)),
            (_, []) => (args.as_slice(), None),
        };
        let tested = tests.iter().fold(Range::exactly(0), |sum, test| sum.plus(test.cost));
        let step = fold_step(fold);
        let round = match (fold, result) {
            // What is left of the loop when the first decides: the condition and the one side.
            (Fold::All | Fold::Exists, _) => Range { min: step, max: tested.max.saturating_add(step) },
            (Fold::ExistsOne, _) => tested.plus(Range { min: 1, max: step }),
            (Fold::Filter, _) => tested.plus(Range { min: 1, max: step }),
            (_, result) => {
                let made =
                    result.map_or(Range::exactly(0), |result| result.cost).plus(Range::exactly(fold_append(fold)));
                tested.plus(if tests.is_empty() { made } else { made.or(Range::exactly(1)) })
            }
        };
        let count = range.size.unwrap_or(UNKNOWN);
        let cost = range.cost.plus(Range::exactly(fold_start(fold))).plus(count.times(round));
        let size = match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Range::exactly(1),
            _ => count,
        };
        let items =
            if fold == Fold::Filter { range.items } else { result.map(|result| result.size.unwrap_or(UNKNOWN)) };
        Estimate { cost, size: Some(size), items }
    }
}

/// What a call may cost beside its arguments, and the size of its result.
fn call(cost: Cost, args: &[Estimate], node: &Node) -> (Range, Option<Range>) {
    let size = |place: usize| args.get(place).and_then(|arg| arg.size).unwrap_or(UNKNOWN);
    let one = Range::exactly(1);
    match cost {
        Cost::Fixed(n) => (Range::exactly(n), None),
        Cost::Text(times) => {
            let text = size(0);
            let (least, most) = if matches!(node.ty, Type::String) { (text.min, text.max) } else { (0, text.max) };
            (text.scaled(times * CHARACTER), Some(Range { min: least, max: most }))
        }
        Cost::Prefix => (size(1).scaled(CHARACTER), None),
        Cost::Items => match args.first().and_then(|arg| arg.items) {
            Some(items) => (size(0).times(one.plus(items.scaled(CHARACTER))), None),
            None => (size(0), None),
        },
        Cost::Search => {
            let text = size(0).plus(one).scaled(CHARACTER);
            (text.times(size(1).scaled(REGEX)), Some(Range { min: 0, max: size(0).max }))
        }
        Cost::Contains => (size(0).scaled(CHARACTER).times(size(1).scaled(CHARACTER)), None),
        Cost::In => (size(1), None),
        Cost::Compare => {
            let most = size(0).max.min(size(1).max);
            (Range { min: u64::from(most > 0), max: most }.scaled(CHARACTER), None)
        }
        Cost::Concat => {
            let both = size(0).plus(size(1));
            match node.ty {
                Type::String | Type::Bytes => (both.scaled(CHARACTER), Some(both)),
                Type::List(_) => (one, Some(both)),
                _ => (one, None),
            }
        }
        Cost::Join => {
            let items = args.first().and_then(|arg| arg.items).unwrap_or(UNKNOWN);
            let count = size(0);
            let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
            let separators = args.get(1).map_or(Range::exactly(0), |_| size(1).times(between));
            let made = count.times(items).plus(separators);
            (made.scaled(CHARACTER), Some(made))
        }
        Cost::Cidr(range) => {
            let base = Range { min: 4, max: 16 };
            let cost = base.plus(base).scaled(CHARACTER);
            (if range { cost.plus(base.scaled(CHARACTER)).plus(one) } else { cost }, None)
        }
        Cost::Product => (size(0).times(size(1)), None),
    }
}
