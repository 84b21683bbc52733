//! Regular expressions: `matches`, and Kubernetes' `find` and `findAll`.

use regex::RegexBuilder;

use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

/// The most memory a compiled expression may take, in bytes.
const SIZE_LIMIT: usize = 2 << 20;

pub(crate) const ROWS: &[Row] = &[
    ("matches", MEMBER, "string string: bool", Cost::Search, matches),
    ("matches", GLOBAL, "string string: bool", Cost::Search, matches),
    ("find", MEMBER, "string string: string", Cost::Search, |args| {
        let (text, regex) = compiled(args)?;
        Ok(regex.find(text).map_or("", |found| found.as_str()).into())
    }),
    ("findAll", MEMBER, "string string: list(string) | string string int: list(string)", Cost::Search, |args| {
        let (text, regex) = compiled(args)?;
        let limit = match args.get(2) {
            None => usize::MAX,
            Some(Value::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
            Some(_) => return Err(Error::NoOverload),
        };
        Ok(regex.find_iter(text).take(limit).map(|found| found.as_str().into()).collect::<Vec<Value>>().into())
    }),
];

fn matches(args: &[Value]) -> Outcome {
    let (text, regex) = compiled(args)?;
    Ok(Value::Bool(regex.is_match(text)))
}

fn compiled(args: &[Value]) -> Result<(&str, regex::Regex), Error> {
    let [Value::String(text), Value::String(pattern), ..] = args else { return Err(Error::NoOverload) };
    // Go's \z is ours; Go has no word for a literal that ours lacks.
    match RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).nest_limit(100).build() {
        Ok(regex) => Ok((text, regex)),
        Err(error) => {
            let last = error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            failed(format!("error parsing regexp: {last}: `{pattern}`"))
        }
    }
}
