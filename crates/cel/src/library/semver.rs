//! Semantic versions (semver.org, 2.0.0).

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::strings::one;
use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
const OF: &str = "kubernetes.Semver: int";
const TEST: &str = "kubernetes.Semver kubernetes.Semver: bool";

pub(crate) const ROWS: &[Row] = &[
    ("semver", GLOBAL, "string: kubernetes.Semver | string bool: kubernetes.Semver", Cost::Text(1.0), |args| {
        let (text, lenient) = given(args)?;
        match Version::parse(text, lenient) {
            Some(version) => Ok(Value::Semver(Arc::new(version))),
            None => failed(format!("invalid semver {text:?}")),
        }
    }),
    ("isSemver", GLOBAL, "string: bool", Cost::Text(1.0), |args| {
        one(args, |text| Version::parse(text, false).is_some().into())
    }),
    ("isSemver", GLOBAL, "string bool: bool", Cost::Text(1.0), |args| {
        let (text, lenient) = given(args)?;
        Ok(Version::parse(text, lenient).is_some().into())
    }),
    ("major", MEMBER, OF, ONE, |args| number(args, 0)),
    ("minor", MEMBER, OF, ONE, |args| number(args, 1)),
    ("patch", MEMBER, OF, ONE, |args| number(args, 2)),
    ("isGreaterThan", MEMBER, TEST, ONE, |args| compare(args, |o| o.is_gt().into())),
    ("isLessThan", MEMBER, TEST, ONE, |args| compare(args, |o| o.is_lt().into())),
    ("compareTo", MEMBER, "kubernetes.Semver kubernetes.Semver: int", ONE, |args| {
        compare(args, |o| Value::Int(o as i64))
    }),
];

/// A version: numbers, what comes before the release, and the build, which does not count.
#[derive(Debug)]
pub struct Version {
    numbers: [u64; 3],
    before: Vec<String>,
    build: String,
}

impl Version {
    /// `lenient` allows a leading `v`, leading zeros and missing numbers.
    pub(crate) fn parse(text: &str, lenient: bool) -> Option<Version> {
        let text = if lenient { text.trim().trim_start_matches(['v', 'V']) } else { text };
        let (text, build) = text.split_once('+').unwrap_or((text, ""));
        let (numbers, before) = text.split_once('-').map_or((text, None), |(numbers, rest)| (numbers, Some(rest)));
        let mut parts: Vec<&str> = numbers.split('.').collect();
        while lenient && parts.len() < 3 {
            parts.push("0");
        }
        let parse = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let plain = lenient || part.len() == 1 || !part.starts_with('0');
            if digits && plain { part.parse().ok() } else { None }
        };
        let [major, minor, patch] = parts.as_slice() else { return None };
        let before: Vec<String> = before.map_or(vec![], |text| text.split('.').map(str::to_owned).collect());
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let numeric_zero =
            |part: &String| part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
        if !before.iter().all(|part| word(part)) || before.iter().any(numeric_zero) {
            return None;
        }
        if !build.is_empty() && !build.split('.').all(word) {
            return None;
        }
        Some(Version { numbers: [parse(major)?, parse(minor)?, parse(patch)?], before, build: build.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if !self.before.is_empty() {
            write!(f, "-{}", self.before.join("."))?;
        }
        if self.build.is_empty() { Ok(()) } else { write!(f, "+{}", self.build) }
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let part = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => a.cmp(b),
        };
        let before = match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self
                .before
                .iter()
                .zip(&other.before)
                .map(|(a, b)| part(a, b))
                .find(|ordering| ordering.is_ne())
                .unwrap_or_else(|| self.before.len().cmp(&other.before.len())),
        };
        self.numbers.cmp(&other.numbers).then(before)
    }
}

fn given(args: &[Value]) -> Result<(&str, bool), Error> {
    match args {
        [Value::String(text)] => Ok((text, false)),
        [Value::String(text), Value::Bool(lenient)] => Ok((text, *lenient)),
        _ => Err(Error::NoOverload),
    }
}

fn number(args: &[Value], place: usize) -> Outcome {
    match args {
        [Value::Semver(version)] => Ok(Value::Int(i64::try_from(version.numbers[place]).unwrap_or(i64::MAX))),
        _ => Err(Error::NoOverload),
    }
}

fn compare(args: &[Value], f: impl Fn(Ordering) -> Value) -> Outcome {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(f(a.cmp(b))),
        _ => Err(Error::NoOverload),
    }
}
