//! Text: the standard functions and the strings extension.

use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::{Key, Value};

const ONCE: Cost = Cost::Text(1.0);

pub(crate) const ROWS: &[Row] = &[
    ("contains", MEMBER, "string string: bool", Cost::Contains, |args| {
        two(args, |text, part| text.contains(part).into())
    }),
    ("startsWith", MEMBER, "string string: bool", Cost::Prefix, |args| {
        two(args, |text, part| text.starts_with(part).into())
    }),
    ("endsWith", MEMBER, "string string: bool", Cost::Prefix, |args| {
        two(args, |text, part| text.ends_with(part).into())
    }),
    ("charAt", MEMBER, "string int: string", Cost::Fixed(1), |args| match args {
        [Value::String(text), Value::Int(at)] => match usize::try_from(*at) {
            Ok(at) if at <= text.chars().count() => {
                Ok(text.chars().nth(at).map(String::from).unwrap_or_default().into())
            }
            _ => failed(format!("index out of range: {at}")),
        },
        _ => Err(Error::NoOverload),
    }),
    ("indexOf", MEMBER, "string string: int | string string int: int", ONCE, |args| find(args, false)),
    ("lastIndexOf", MEMBER, "string string: int | string string int: int", ONCE, |args| find(args, true)),
    ("lowerAscii", MEMBER, "string: string", ONCE, |args| one(args, |text| text.to_ascii_lowercase().into())),
    ("upperAscii", MEMBER, "string: string", ONCE, |args| one(args, |text| text.to_ascii_uppercase().into())),
    ("trim", MEMBER, "string: string", ONCE, |args| one(args, |text| text.trim().into())),
    ("reverse", MEMBER, "string: string", ONCE, |args| one(args, |text| text.chars().rev().collect::<String>().into())),
    ("substring", MEMBER, "string int: string | string int int: string", ONCE, substring),
    ("replace", MEMBER, "string string string: string | string string string int: string", Cost::Text(2.0), |args| {
        let limit = match args.get(3) {
            None => usize::MAX,
            Some(Value::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
            Some(_) => return Err(Error::NoOverload),
        };
        let (text, from, to) = match args {
            [Value::String(text), Value::String(from), Value::String(to), ..] => (text, from, to),
            _ => return Err(Error::NoOverload),
        };
        // Replacing very short by very long texts makes more than it reads.
        let places = text.matches(from.as_ref()).take(limit).count();
        if places.saturating_mul(to.len()) > 16 << 20 {
            return Err(Error::CostExceeded);
        }
        Ok(text.replacen(from.as_ref(), to, limit).into())
    }),
    ("split", MEMBER, "string string: list(string) | string string int: list(string)", Cost::Text(2.0), split),
    ("join", MEMBER, "list(string): string | list(string) string: string", Cost::Join, |args| {
        let separator = args.get(1).map_or(Some(""), Value::as_str).ok_or(Error::NoOverload)?;
        let Value::List(items, _) = &args[0] else { return Err(Error::NoOverload) };
        let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
        let items = items.ok_or(Error::NoOverload)?;
        let length = items.iter().map(|item| item.len() + separator.len()).sum::<usize>();
        if length > 16 << 20 { Err(Error::CostExceeded) } else { Ok(items.join(separator).into()) }
    }),
    ("strings.quote", GLOBAL, "string: string", ONCE, |args| one(args, |text| format!("{text:?}").into())),
    ("format", MEMBER, "string list(dyn): string", ONCE, format),
    ("jsonpatch.escapeKey", GLOBAL, "string: string", ONCE, |args| {
        one(args, |text| text.replace('~', "~0").replace('/', "~1").into())
    }),
];

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

/// A function of one text.
pub(super) fn one(args: &[Value], f: impl Fn(&str) -> Value) -> Outcome {
    match args {
        [Value::String(text)] => Ok(f(text)),
        _ => Err(Error::NoOverload),
    }
}

/// A function of two texts.
fn two(args: &[Value], f: impl Fn(&str, &str) -> Value) -> Outcome {
    match args {
        [Value::String(text), Value::String(other)] => Ok(f(text, other)),
        _ => Err(Error::NoOverload),
    }
}

/// Where a character is, in bytes; the end is a place too.
fn byte_at(text: &str, at: i64) -> Result<usize, Error> {
    let out_of_range = || Error::Failed(format!("index out of range: {at}"));
    let at = usize::try_from(at).map_err(|_| out_of_range())?;
    text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(at).ok_or_else(out_of_range)
}

fn find(args: &[Value], last: bool) -> Outcome {
    let (text, part) = match args {
        [Value::String(text), Value::String(part), ..] => (text.as_ref(), part.as_ref()),
        _ => return Err(Error::NoOverload),
    };
    let found = match args.get(2) {
        None if last => text.rfind(part),
        None => text.find(part),
        Some(Value::Int(from)) if last => {
            // A match may begin at the offset, not after it.
            let from = byte_at(text, *from)?;
            let end = text.len().min(from + part.len());
            let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
            text[..end].rfind(part)
        }
        Some(Value::Int(from)) => {
            let from = byte_at(text, *from)?;
            text[from..].find(part).map(|at| at + from)
        }
        Some(_) => return Err(Error::NoOverload),
    };
    Ok(Value::Int(found.map_or(-1, |at| text[..at].chars().count() as i64)))
}

fn substring(args: &[Value]) -> Outcome {
    let (text, from, to) = match args {
        [Value::String(text), Value::Int(from)] => (text, byte_at(text, *from)?, text.len()),
        [Value::String(text), Value::Int(from), Value::Int(to)] => {
            if from > to {
                return failed(format!("invalid substring range. start: {from}, end: {to}"));
            }
            (text, byte_at(text, *from)?, byte_at(text, *to)?)
        }
        _ => return Err(Error::NoOverload),
    };
    Ok(text[from..to].into())
}

fn split(args: &[Value]) -> Outcome {
    let (text, by, limit) = match args {
        [Value::String(text), Value::String(by)] => (text, by, -1),
        [Value::String(text), Value::String(by), Value::Int(limit)] => (text, by, *limit),
        _ => return Err(Error::NoOverload),
    };
    let limit = if limit < 0 { usize::MAX } else { limit as usize };
    let parts: Vec<Value> = if limit == 0 {
        vec![]
    } else if by.is_empty() {
        // Every character for itself; the last takes the rest.
        let count = text.chars().count().min(limit);
        let mut parts: Vec<Value> = text.chars().take(count.saturating_sub(1)).map(|c| c.to_string().into()).collect();
        let rest: String = text.chars().skip(parts.len()).collect();
        if !rest.is_empty() {
            parts.push(rest.into());
        }
        parts
    } else {
        text.splitn(limit, by.as_ref()).map(Value::from).collect()
    };
    Ok(parts.into())
}

/// `format`: `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o`, with a precision for `%f` and `%e`.
fn format(args: &[Value]) -> Outcome {
    let [Value::String(text), Value::List(values, _)] = args else { return Err(Error::NoOverload) };
    let (mut made, mut next) = (String::new(), 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            made.push(c);
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().filter(|p| *p <= 1000);
            if precision.is_none() {
                return failed("could not parse formatting clause: precision is not a number up to 1000");
            }
        }
        let clause = chars.next();
        if clause == Some('%') {
            made.push('%');
            continue;
        }
        let Some(value) = values.get(next) else { return failed(format!("index {next} out of range")) };
        next += 1;
        let wrong = |clause: char| {
            let given = value.type_name();
            failed(format!("error during formatting: %{clause} is not supported for a value of type {given}"))
        };
        let part = match (clause, value) {
            (Some('s'), value) => show(value),
            (Some('d'), Value::Int(i)) => i.to_string(),
            (Some('d'), Value::Uint(u)) => u.to_string(),
            (Some('d'), Value::Double(d)) if !d.is_finite() => show(value),
            (Some('f'), Value::Double(d)) => format!("{d:.*}", precision.unwrap_or(6)),
            (Some('f'), Value::Int(i)) => format!("{:.*}", precision.unwrap_or(6), *i as f64),
            (Some('e'), Value::Double(d)) => exponent(*d, precision.unwrap_or(6)),
            (Some('b'), Value::Int(i)) => format!("{}{:b}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('b'), Value::Uint(u)) => format!("{u:b}"),
            (Some('b'), Value::Bool(b)) => u8::from(*b).to_string(),
            (Some('o'), Value::Int(i)) => format!("{}{:o}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('o'), Value::Uint(u)) => format!("{u:o}"),
            (Some('x'), Value::Int(i)) => format!("{}{:x}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('X'), Value::Int(i)) => format!("{}{:X}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('x'), Value::Uint(u)) => format!("{u:x}"),
            (Some('X'), Value::Uint(u)) => format!("{u:X}"),
            (Some('x'), Value::String(text)) => text.bytes().map(|b| format!("{b:02x}")).collect(),
            (Some('X'), Value::String(text)) => text.bytes().map(|b| format!("{b:02X}")).collect(),
            (Some('x'), Value::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
            (Some('X'), Value::Bytes(bytes)) => bytes.iter().map(|b| format!("{b:02X}")).collect(),
            (Some(clause @ ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X')), _) => return wrong(clause),
            (Some(clause), _) => {
                return failed(format!(
                    "could not parse formatting clause: unrecognized formatting clause \"{clause}\""
                ));
            }
            (None, _) => return failed("unexpected end of string"),
        };
        made.push_str(&part);
        if made.len() > 16 << 20 {
            return Err(Error::CostExceeded);
        }
    }
    Ok(made.into())
}

/// `1.500000e+00`.
fn exponent(d: f64, precision: usize) -> String {
    let text = format!("{d:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// A value as text: what `string()` and `%s` print.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) if d.is_nan() => "NaN".into(),
        Value::Double(d) if d.is_infinite() => if *d > 0.0 { "+Inf" } else { "-Inf" }.into(),
        Value::Double(d) if *d != 0.0 && !(1e-4..1e21).contains(&d.abs()) => {
            let text = format!("{d:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        Value::Double(d) => d.to_string(),
        Value::String(text) | Value::Type(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Duration(nanos) => super::time::show_duration(*nanos),
        Value::Timestamp(time) => time.to_string(),
        Value::List(items, _) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entry = |(key, value): (&Key, &Value)| format!("{}: {}", show(&key.into()), show(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::Optional(None) => "optional.none()".into(),
        Value::Optional(Some(value)) => format!("optional.of({})", show(value)),
        Value::Quantity(quantity) => quantity.to_string(),
        Value::Url(url) => url.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(ip, bits) => format!("{ip}/{bits}"),
        Value::Format(name) => (*name).into(),
        Value::Semver(version) => version.to_string(),
        Value::Check(check) => check.type_name().into(),
    }
}
