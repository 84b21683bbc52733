//! What fields may hold and what they hold when nobody says: defaults and limits of every type, as a table.
//!
//! `data/rules.tsv` has a header line `=<type>` per type of [`crate::schema`], then a line per field: its path below
//! the type, its rules, and the words of a refusal where upstream has some of its own. One walk over an object
//! finds the rules of every type in it, so a pod template is held to the same in a Deployment, a Job and a
//! PodTemplate. What a line cannot say is code, one function a type, in [`crate::defaults`] and [`crate::validate`].
//!
//! | rule | meaning |
//! |---|---|
//! | `d=JSON` `z=JSON` | the default of a field that is missing or empty; `z`: or zero |
//! | `!` `!0` `!!` | must be there and not be empty; or zero; or only where what it is in is there |
//! | `=A\|B` | one of these |
//! | `~format` | obeys a grammar of [`crate::names`] |
//! | `!=` `!~` | the same, of an empty text too |
//! | `<=KEY` | a number that is not more than another |
//! | `>=N` `>N` `A..B` | a number in these bounds; `^` before it: a missing one is zero; `?`: zero is a missing one |
//! | `items=N` `bytes=N` | at most so many items, or bytes; of a map, those of its keys and values |
//! | `unique` `unique=KEY` | items differ, or their values of KEY do; `!` before it: empty ones too |
//! | `distinct=KEY` | as `!unique=KEY`, but errors name the item |
//! | `alone` | `*` has no other items beside it |
//! | `labels` `amount` | a map of labels; a quantity that is not negative |
//! | `fixed` `frozen` `grows` | stays as it was made: Invalid, or Forbidden with the line's words; or never shrinks |
//! | `skip` `flat` | is not looked into; its items have the path of what it is in |
//! | `[]` before a rule | the items of the list are judged, each with its index |
//! | `@path` | the path that errors name, where upstream's differs; `@^path`: of the list, without the item's index; `@.`: of the object |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::Value;

use crate::field::FieldErrors;
use crate::names::{self, Problems};
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, Shape, Type, all_types};
use crate::validate::join;

const TABLE: &str = include_str!("../data/rules.tsv");

#[derive(Debug)]
enum Rule {
    Required { nor_zero: bool, inside: bool },
    OneOf { values: Vec<&'static str>, nor_empty: bool },
    Format { check: fn(&str) -> Problems, nor_empty: bool },
    AtMost(&'static str),
    Bounds { low: i64, high: i64, words: String, zero: Zero },
    Items(usize),
    Bytes(usize),
    Unique { key: &'static str, nor_empty: bool, whole: bool },
    Alone,
    Labels,
    Amount,
    Fixed,
    Frozen,
    Grows,
}

/// What a zero and a missing number are to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Zero {
    Counts,
    Missing,
    IsMissing,
}

#[derive(Debug)]
struct Row {
    path: Vec<&'static str>,
    /// The path in errors.
    shown: &'static str,
    each: bool,
    rule: Rule,
    words: &'static str,
}

#[derive(Debug)]
struct Default {
    path: Vec<&'static str>,
    value: Value,
    zero: bool,
}

/// What is done to the objects of one type.
#[derive(Debug, std::default::Default)]
struct TypeRules {
    defaults: Vec<Default>,
    rows: Vec<Row>,
    skip: BTreeSet<&'static str>,
    flat: BTreeSet<&'static str>,
    /// The fields that are amounts.
    amounts: Vec<&'static str>,
    fill_in: Option<fn(&mut Value)>,
    code: Option<fn(&Value, &str, &mut FieldErrors)>,
    /// Whether there is anything to do to an object of the type, or to something in it: all others need no visit.
    visited: bool,
    /// Where in it.
    visits: Vec<Visit>,
}

#[derive(Debug)]
struct Visit {
    field: &'static Field,
    inner: &'static Type,
    /// Whether only defaults are looked after.
    skip: bool,
    /// Whether its items have the path of what it is in.
    flat: bool,
}

/// By the types' places.
static RULES: LazyLock<Vec<TypeRules>> = LazyLock::new(|| {
    let mut lines: BTreeMap<&str, TypeRules> = BTreeMap::new();
    let mut current = "";
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('=') {
            Some(name) => current = name,
            None => parse_line(line, lines.entry(current).or_default()),
        }
    }
    let own = all_types().map(|ty| {
        let has_lines = lines.contains_key(ty.name);
        let mut rules = lines.remove(ty.name).unwrap_or_default();
        rules.amounts = ty.fields.iter().filter(|field| is_amounts(ty, field)).map(|field| field.name).collect();
        (rules.fill_in, rules.code) = (crate::defaults::of_type(ty.name), crate::validate::of_type(ty.name));
        rules.visited = has_lines || !rules.amounts.is_empty() || rules.fill_in.is_some() || rules.code.is_some();
        rules
    });
    let mut all: Vec<TypeRules> = own.collect();
    loop {
        let mut more = false;
        for (at, ty) in all_types().enumerate().filter(|(at, _)| !all[*at].visited).collect::<Vec<_>>() {
            all[at].visited = ty.fields.iter().filter_map(Field::message).any(|inner| all[inner.place].visited);
            more |= all[at].visited;
        }
        if !more {
            break;
        }
    }
    for (at, ty) in all_types().enumerate() {
        let inside = ty.fields.iter().filter_map(|field| Some((field, field.message()?)));
        let visits = inside.filter(|(_, inner)| all[inner.place].visited).map(|(field, inner)| Visit {
            field,
            inner,
            skip: all[at].skip.contains(field.name),
            flat: all[at].flat.contains(field.name),
        });
        all[at].visits = visits.collect();
    }
    all
});

fn parse_line(line: &'static str, rules: &mut TypeRules) {
    let mut columns = line.split('\t');
    let mut next = || columns.next().unwrap_or_default();
    let (name, tokens, words) = (next(), next(), next());
    let path: Vec<&str> = name.split('.').collect();
    let shown = tokens.split(' ').find_map(|token| token.strip_prefix('@')).unwrap_or(name);
    for token in tokens.split(' ').filter(|token| !token.starts_with('@')) {
        if let Some((kind @ ("d" | "z"), json)) = token.split_once('=') {
            // The table is ours and a test reads all of it.
            let value = serde_json::from_str(json).unwrap_or_default();
            rules.defaults.push(Default { path: path.clone(), value, zero: kind == "z" });
        } else if token == "skip" {
            rules.skip.insert(name);
        } else if token == "flat" {
            rules.flat.insert(name);
        } else {
            let (each, token) = token.strip_prefix("[]").map_or((false, token), |token| (true, token));
            if let Some(rule) = parse_rule(token) {
                rules.rows.push(Row { path: path.clone(), shown, each, rule, words });
            }
        }
    }
}

fn parse_rule(token: &'static str) -> Option<Rule> {
    let (zero, token) = match token.split_at_checked(1)? {
        ("^", rest) => (Zero::IsMissing, rest),
        ("?", rest) => (Zero::Missing, rest),
        _ => (Zero::Counts, token),
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let bounds = |low, high, words| Some(Rule::Bounds { low, high, words, zero });
    match token {
        "!" => return Some(Rule::Required { nor_zero: false, inside: false }),
        "!0" => return Some(Rule::Required { nor_zero: true, inside: false }),
        "!!" => return Some(Rule::Required { nor_zero: false, inside: true }),
        "alone" => return Some(Rule::Alone),
        "labels" => return Some(Rule::Labels),
        "amount" => return Some(Rule::Amount),
        "fixed" => return Some(Rule::Fixed),
        "frozen" => return Some(Rule::Frozen),
        "grows" => return Some(Rule::Grows),
        "unique" => return Some(Rule::Unique { key: "", nor_empty: false, whole: true }),
        _ => {}
    }
    let (nor_empty, token) = token.strip_prefix('!').map_or((false, token), |token| (true, token));
    if let Some(values) = token.strip_prefix('=') {
        return Some(Rule::OneOf { values: values.split('|').collect(), nor_empty });
    }
    if let Some(name) = token.strip_prefix('~') {
        return names::format(name).map(|check| Rule::Format { check, nor_empty });
    }
    if let Some(key) = token.strip_prefix("<=") {
        return Some(Rule::AtMost(key));
    }
    if let Some(least) = token.strip_prefix(">=") {
        return bounds(number(least)?, i64::MAX, format!("must be greater than or equal to {least}"));
    }
    if let Some(floor) = token.strip_prefix('>') {
        return bounds(number(floor)? + 1, i64::MAX, format!("must be greater than {floor}"));
    }
    if let Some((low, high)) = token.split_once("..") {
        return bounds(number(low)?, number(high)?, format!("must be between {low} and {high}, inclusive"));
    }
    match token.split_once('=')? {
        ("items", most) => most.parse().ok().map(Rule::Items),
        ("bytes", most) => most.parse().ok().map(Rule::Bytes),
        ("unique", key) => Some(Rule::Unique { key, nor_empty, whole: false }),
        ("distinct", key) => Some(Rule::Unique { key, nor_empty: true, whole: true }),
        _ => None,
    }
}

/// Whether a value is as good as none: null, an empty text, list or map.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn at<'a>(object: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(object, |value, key| &value[*key])
}

/// Whether a field is a `ResourceList`. Devices count their capacity in maps of their own.
fn is_amounts(ty: &Type, field: &Field) -> bool {
    field.kind == Kind::Quantity && field.shape == Shape::Map && !ty.name.starts_with("resource.")
}

/// No resource is counted more finely than in thousandths.
fn round_up(amount: &mut Value) {
    if let Ok(quantity) = Quantity::from_json(amount)
        && !quantity.is_whole()
        && Quantity::from_millis(quantity.to_millis()) != quantity
    {
        *amount = Quantity::from_millis(quantity.to_millis()).to_string().into();
    }
}

/// Fills in the defaults of an object of that type, and of everything in it.
pub fn default(ty: &'static Type, object: &mut Value) {
    let rules = &RULES[ty.place];
    if !rules.visited || !object.is_object() {
        return;
    }
    for default in &rules.defaults {
        let Some((last, outer)) = default.path.split_last() else { continue };
        let parent = outer.iter().fold(&mut *object, |value, key| crate::defaults::child(value, key));
        let there = parent.get(*last).unwrap_or(&Value::Null);
        if there.is_null() || there == "" || default.zero && *there == 0 {
            parent[*last] = default.value.clone();
        }
    }
    for field in &rules.amounts {
        let amounts = object.get_mut(*field).and_then(Value::as_object_mut);
        amounts.into_iter().flatten().for_each(|(_, amount)| round_up(amount));
    }
    if let Some(fill_in) = rules.fill_in {
        fill_in(object);
    }
    for Visit { field, inner, .. } in &rules.visits {
        if field.shape == Shape::Inline {
            default(inner, object);
            continue;
        }
        match (field.shape, object.get_mut(field.name)) {
            (_, None) => {}
            (Shape::List, Some(list)) => {
                list.as_array_mut().into_iter().flatten().for_each(|item| default(inner, item));
            }
            (Shape::Map, Some(map)) => {
                map.as_object_mut().into_iter().flatten().for_each(|(_, item)| default(inner, item));
            }
            (_, Some(value)) => default(inner, value),
        }
    }
}

/// Judges the part `path` (a field, or all of it if empty) of an object of that type. Metadata is
/// [`crate::meta`]'s, and a status is judged only when it is asked for.
pub fn check(ty: &'static Type, object: &Value, only: &str, errors: &mut FieldErrors) {
    if only.is_empty() {
        judge(ty, object, "", &["metadata", "status"], errors);
    } else if let Some(inner) = ty.field(only).and_then(Field::message) {
        judge(inner, &object[only], only, &[], errors);
    }
}

fn judge(ty: &'static Type, object: &Value, path: &str, without: &[&str], errors: &mut FieldErrors) {
    let rules = &RULES[ty.place];
    if !rules.visited || !object.is_object() {
        return;
    }
    for row in &rules.rows {
        row.judge(object, path, errors);
    }
    if let Some(code) = rules.code {
        code(object, path, errors);
    }
    for Visit { field, inner, skip, flat } in &rules.visits {
        if *skip || without.contains(&field.name) {
            continue;
        }
        if field.shape == Shape::Inline {
            judge(inner, object, path, &[], errors);
            continue;
        }
        // Paths are made for what is there alone: most fields are not.
        let Some(value) = object.get(field.name).filter(|value| !value.is_null()) else { continue };
        let below = join(path, field.name);
        match field.shape {
            Shape::One | Shape::Inline => judge(inner, value, &below, &[], errors),
            Shape::List => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    let path = if *flat { path.to_owned() } else { format!("{below}[{i}]") };
                    judge(inner, item, &path, &[], errors);
                }
            }
            Shape::Map => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    judge(inner, item, &format!("{below}[{key}]"), &[], errors);
                }
            }
        }
    }
}

/// Judges a value of that type at that path.
pub(crate) fn check_type(name: &str, value: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(ty) = crate::schema::type_of(name) {
        judge(ty, value, path, &[], errors);
    }
}

/// Judges what an update, or one of the status, may not change.
pub fn check_update(ty: &'static Type, new: &Value, old: &Value, errors: &mut FieldErrors) {
    for row in &RULES[ty.place].rows {
        let (now, was) = (at(new, &row.path), at(old, &row.path));
        if now == was || is_empty(now) && is_empty(was) {
            continue;
        }
        match row.rule {
            Rule::Fixed if row.words.is_empty() => {
                errors.invalid(row.shown, now.clone(), crate::validate::IMMUTABLE);
            }
            Rule::Fixed => errors.invalid(row.shown, now.clone(), row.words),
            Rule::Frozen => errors.forbidden(row.shown, row.words),
            Rule::Grows if now.as_i64().unwrap_or_default() < was.as_i64().unwrap_or_default() => {
                errors.invalid(row.shown, now.as_i64().unwrap_or_default(), "cannot be decremented");
            }
            _ => {}
        }
    }
}

impl Row {
    fn judge(&self, object: &Value, path: &str, errors: &mut FieldErrors) {
        let value = at(object, &self.path);
        if is_empty(value) && !self.minds_empty() {
            return;
        }
        let path = || match self.shown.strip_prefix('^') {
            None if self.shown == "." => path.to_owned(),
            None => join(path, self.shown),
            Some("") => without_index(path).to_owned(),
            Some(field) => join(without_index(path), field),
        };
        match self.rule {
            Rule::AtMost(key) if value.as_i64() > Some(object[key].as_i64().unwrap_or_default()) => {
                errors.invalid(&path(), value.clone(), self.words);
            }
            Rule::Required { inside: true, .. }
                if at(object, self.path.split_last().map_or(&[], |(_, outer)| outer)).is_null() => {}
            _ if self.each => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.judge_value(item, &|| format!("{}[{i}]", path()), errors);
                }
            }
            _ => self.judge_value(value, &path, errors),
        }
    }

    /// Whether it can object to a value that is not there or is empty.
    fn minds_empty(&self) -> bool {
        match &self.rule {
            Rule::Required { .. } => true,
            Rule::OneOf { nor_empty, .. } | Rule::Format { nor_empty, .. } => *nor_empty,
            Rule::Bounds { zero, .. } => *zero == Zero::IsMissing,
            _ => false,
        }
    }

    fn judge_value(&self, value: &Value, path: &dyn Fn() -> String, errors: &mut FieldErrors) {
        if let Rule::Bounds { low, high, words, zero } = &self.rule {
            let number = value.as_i64().or((*zero == Zero::IsMissing).then_some(0));
            let number = number.filter(|number| *zero != Zero::Missing || *number != 0);
            if let Some(number) = number.filter(|number| !(*low..=*high).contains(number)) {
                errors.invalid(&path(), number, if self.words.is_empty() { words } else { self.words });
            }
            return;
        }
        if let Rule::Required { nor_zero, .. } = self.rule {
            if is_empty(value) || nor_zero && *value == 0 {
                errors.required(&path(), self.words);
            }
            return;
        }
        match &self.rule {
            Rule::OneOf { values, nor_empty: true } if is_empty(value) => {
                return errors.not_supported(&path(), "", values);
            }
            Rule::Format { check, nor_empty: true } if is_empty(value) => {
                return crate::validate::report(check(""), &path(), "", errors);
            }
            _ if is_empty(value) => return,
            _ => {}
        }
        let count = value.as_array().map(Vec::len).or_else(|| value.as_object().map(serde_json::Map::len));
        match &self.rule {
            Rule::OneOf { values, .. } => {
                for text in texts(value).filter(|text| !values.contains(text)) {
                    errors.not_supported(&path(), text, values);
                }
            }
            Rule::Format { check, .. } => {
                for text in texts(value) {
                    let problems = check(text);
                    if !problems.is_empty() {
                        crate::validate::report(problems, &path(), text, errors);
                    }
                }
            }
            Rule::Items(most) => {
                if let Some(count) = count.filter(|count| count > most) {
                    errors.too_many(&path(), count, *most);
                }
            }
            Rule::Bytes(most) if bytes(value) > *most => match self.words {
                "" => errors.too_long(&path(), *most),
                words => errors.invalid(&path(), value.clone(), words),
            },
            Rule::Unique { key, nor_empty, whole } => {
                let mut seen = Vec::new();
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    let id = if key.is_empty() { item } else { &item[*key] };
                    if (*nor_empty || !is_empty(id)) && seen.contains(&id) {
                        let item = if self.shown == "." { path() } else { format!("{}[{i}]", path()) };
                        errors.duplicate(&if *whole { item } else { join(&item, key) }, id.clone());
                    }
                    seen.push(id);
                }
            }
            Rule::Alone if count > Some(1) && texts(value).any(|text| text == "*") => {
                errors.invalid(&path(), value.clone(), self.words);
            }
            Rule::Labels => crate::meta::validate_labels(value, &path(), errors),
            Rule::Amount if crate::validate::quantity(value).is_negative() => {
                errors.invalid(&path(), value.clone(), "must be greater than or equal to 0");
            }
            _ => {}
        }
    }
}

/// A list's path, of that of one of its items.
pub(crate) fn without_index(path: &str) -> &str {
    path.strip_suffix(']').and_then(|path| path.rsplit_once('[')).map_or(path, |(list, _)| list)
}

/// How long a text is, or all keys and values of a map.
fn bytes(value: &Value) -> usize {
    let of = |value: &Value| value.as_str().map_or(0, str::len);
    of(value) + value.as_object().into_iter().flatten().map(|(key, value)| key.len() + of(value)).sum::<usize>()
}

/// A text, or the texts of a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::type_of;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let mut ty = None;
        for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('=') {
                ty = type_of(name);
                assert!(ty.is_some(), "{line}");
                continue;
            }
            let [path, tokens] = [0, 1].map(|i| line.split('\t').nth(i).unwrap_or_else(|| panic!("{line}")));
            let mut inner = ty;
            for key in path.split('.') {
                let field = inner.and_then(|ty| ty.field(key));
                assert!(field.is_some(), "no field {key}: {line}");
                inner = field.and_then(Field::message);
            }
            for token in tokens.split(' ') {
                let understood = match token.split_once('=') {
                    Some(("d" | "z", json)) => serde_json::from_str::<Value>(json).is_ok(),
                    _ => {
                        ["skip", "flat"].contains(&token)
                            || token.starts_with('@')
                            || parse_rule(token.trim_start_matches("[]")).is_some()
                    }
                };
                assert!(understood, "{token}: {line}");
            }
        }
    }
}
