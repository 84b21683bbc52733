//! Durations and timestamps.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
const OF_TIME: &str = "timestamp: int | timestamp string: int";
const OF_BOTH: &str = "timestamp: int | timestamp string: int | duration: int";
const SECOND: i128 = 1_000_000_000;

pub(crate) const ROWS: &[Row] = &[
    ("duration", GLOBAL, "duration: duration | string: duration | int: duration", ONE, |args| match args {
        [Value::Duration(_)] => Ok(args[0].clone()),
        [Value::Int(nanos)] => duration((*nanos).into()),
        [Value::String(text)] => match parse_duration(text) {
            Some(nanos) => duration(nanos),
            None => failed(format!("time: invalid duration {text:?}")),
        },
        _ => Err(Error::NoOverload),
    }),
    ("timestamp", GLOBAL, "timestamp: timestamp | string: timestamp | int: timestamp", ONE, |args| match args {
        [Value::Timestamp(_)] => Ok(args[0].clone()),
        [Value::Int(seconds)] => timestamp(i128::from(*seconds) * SECOND),
        [Value::String(text)] => match parse_timestamp(text) {
            Some(time) => timestamp(time.as_nanosecond()),
            None => failed(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\"")),
        },
        _ => Err(Error::NoOverload),
    }),
    ("getFullYear", MEMBER, OF_TIME, ONE, |args| part(args, |t| t.year().into())),
    ("getMonth", MEMBER, OF_TIME, ONE, |args| part(args, |t| i64::from(t.month()) - 1)),
    ("getDate", MEMBER, OF_TIME, ONE, |args| part(args, |t| t.day().into())),
    ("getDayOfMonth", MEMBER, OF_TIME, ONE, |args| part(args, |t| i64::from(t.day()) - 1)),
    ("getDayOfWeek", MEMBER, OF_TIME, ONE, |args| part(args, |t| t.weekday().to_sunday_zero_offset().into())),
    ("getDayOfYear", MEMBER, OF_TIME, ONE, |args| part(args, |t| i64::from(t.day_of_year()) - 1)),
    ("getHours", MEMBER, OF_BOTH, ONE, |args| of_either(args, 3600 * SECOND, |t| t.hour().into())),
    ("getMinutes", MEMBER, OF_BOTH, ONE, |args| of_either(args, 60 * SECOND, |t| t.minute().into())),
    ("getSeconds", MEMBER, OF_BOTH, ONE, |args| of_either(args, SECOND, |t| t.second().into())),
    ("getMilliseconds", MEMBER, OF_BOTH, ONE, |args| of_either(args, SECOND / 1000, |t| t.millisecond().into())),
];

/// A duration, which has 64 bits of nanoseconds.
pub(super) fn duration(nanos: i128) -> Outcome {
    if i64::try_from(nanos).is_err() { failed("duration overflow") } else { Ok(Value::Duration(nanos)) }
}

/// A time between the years 1 and 9999.
pub(super) fn timestamp(nanos: i128) -> Outcome {
    match Timestamp::from_nanosecond(nanos) {
        Ok(time) if time.as_second() >= -62_135_596_800 => Ok(Value::Timestamp(time)),
        _ => failed("timestamp overflow"),
    }
}

fn part(args: &[Value], f: fn(&jiff::Zoned) -> i64) -> Outcome {
    let (time, zone) = match args {
        [Value::Timestamp(time)] => (time, TimeZone::UTC),
        [Value::Timestamp(time), Value::String(name)] => match zone(name) {
            Some(zone) => (time, zone),
            None => return failed(format!("unknown time zone {name}")),
        },
        _ => return Err(Error::NoOverload),
    };
    Ok(Value::Int(f(&time.to_zoned(zone))))
}

/// The part of a timestamp, or a duration in whole units.
fn of_either(args: &[Value], unit: i128, f: fn(&jiff::Zoned) -> i64) -> Outcome {
    match args {
        // Milliseconds are what is left of the second; the others count the whole.
        [Value::Duration(nanos)] if unit < SECOND => Ok(Value::Int((nanos % SECOND / unit) as i64)),
        [Value::Duration(nanos)] => Ok(Value::Int((nanos / unit) as i64)),
        _ => part(args, f),
    }
}

/// `UTC`, `+01:30`, `Europe/Berlin` (if the system knows it).
fn zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match name.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, name.strip_prefix('+').unwrap_or(name)),
    };
    let Some((hours, minutes)) = rest.split_once(':') else { return TimeZone::get(name).ok() };
    let seconds = hours.parse::<i32>().ok()?.checked_mul(3600)? + minutes.parse::<i32>().ok()?.checked_mul(60)?;
    Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

/// RFC 3339, or a date alone.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    if text.len() == 10 {
        return format!("{text}T00:00:00Z").parse().ok();
    }
    text.parse().ok()
}

/// Go's notation: `1h15m30.5s`.
pub(crate) fn parse_duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || number.len() > 30 {
            return None;
        }
        if !whole.is_empty() {
            nanos = nanos.checked_add(whole.parse::<i128>().ok()?.checked_mul(unit)?)?;
        }
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            nanos += i128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * scale;
        }
        rest = after;
    }
    i64::try_from(if negative { -nanos } else { nanos }).ok().map(i128::from)
}

/// Seconds, as upstream converts durations to text: `5400s`, `1.5s`.
pub(crate) fn show_duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, rest) = (nanos.abs() / SECOND, nanos.abs() % SECOND);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    format!("{sign}{seconds}.{}s", format!("{rest:09}").trim_end_matches('0'))
}
