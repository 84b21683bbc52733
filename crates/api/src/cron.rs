//! Cron schedules, as CronJobs have them: `*/15 9-17 * * MON-FRI`, `@daily`, `@every 1h30m`.
//!
//! ```
//! use coracle_api::cron::Schedule;
//!
//! let schedule = Schedule::parse("30 6 * * MON-FRI").unwrap();
//! let berlin = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
//! let saturday: jiff::Timestamp = "2026-03-28T12:00:00Z".parse().unwrap();
//! // Monday, in summer time since Sunday.
//! assert_eq!(schedule.next(saturday, &berlin).unwrap().to_string(), "2026-03-30T04:30:00Z");
//! ```
//!
//! When both the day of the month and the day of the week are restricted, either suffices. Times that a clock
//! skips when summer begins do not happen; those it repeats when summer ends happen twice.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Unit, Zoned};

/// How far ahead an occurrence is looked for: there may be none (`0 0 31 2 *`).
const YEARS: i16 = 5;
/// Among the bits of a field: it was written as `*` or `?`.
const STAR: u64 = 1 << 63;

/// A parsed schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Minutes at which all fields hold: minute, hour, day of month, month, day of week; a bit for each value.
    At([u64; 5]),
    /// At intervals.
    Every(SignedDuration),
}

/// The fields: bounds, and names for numbers from the lower bound on.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Names for schedules.
const DESCRIPTORS: [(&str, &str); 7] = [
    ("yearly", "0 0 1 1 *"),
    ("annually", "0 0 1 1 *"),
    ("monthly", "0 0 1 * *"),
    ("weekly", "0 0 * * 0"),
    ("daily", "0 0 * * *"),
    ("midnight", "0 0 * * *"),
    ("hourly", "0 * * * *"),
];

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, in the words of upstream's parser.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(descriptor) = text.strip_prefix('@') {
            if let Some((_, fields)) = DESCRIPTORS.iter().find(|(name, _)| *name == descriptor) {
                return Schedule::parse(fields);
            }
            let interval = descriptor.strip_prefix("every ").map(str::trim);
            let interval = interval.filter(|interval| crate::protobuf::is_duration(interval));
            let interval = interval.and_then(|interval| interval.parse::<SignedDuration>().ok());
            let interval = interval.ok_or_else(|| format!("unrecognized descriptor: {text}"))?;
            return Ok(Schedule::Every(SignedDuration::from_secs(interval.as_secs().max(1))));
        }
        let parts: Vec<&str> = text.split_whitespace().collect();
        if parts.len() != FIELDS.len() {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        }
        let mut fields = [0; 5];
        for ((field, part), (low, high, names)) in fields.iter_mut().zip(parts).zip(FIELDS) {
            for range in part.split(',') {
                *field |= bits(range, low, high, names)?;
            }
        }
        Ok(Schedule::At(fields))
    }

    /// The first time after `after`, on clocks of that time zone; none within five years for a date that never comes.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let [minutes, hours, days, months, weekdays] = match self {
            Schedule::Every(interval) => {
                return Timestamp::from_second(after.as_second()).ok()?.checked_add(*interval).ok();
            }
            Schedule::At(fields) => *fields,
        };
        let has = |field: u64, value: i8| field & 1 << value != 0;
        let after = after.to_zoned(zone.clone());
        let last_year = after.year().checked_add(YEARS)?;
        let mut at = later(&whole(&after, Unit::Minute)?, SignedDuration::from_mins(1))?;
        while at.year() <= last_year {
            at = if !has(months, at.month()) {
                at.last_of_month().ok()?.tomorrow().ok()?.start_of_day().ok()?
            } else if !day_matches(days, weekdays, &at) {
                at.tomorrow().ok()?.start_of_day().ok()?
            } else if !has(hours, at.hour()) {
                later(&whole(&at, Unit::Hour)?, SignedDuration::from_hours(1))?
            } else if !has(minutes, at.minute()) {
                later(&at, SignedDuration::from_mins(1))?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }
}

/// Time that passes, whatever clocks are set to meanwhile.
fn later(at: &Zoned, by: SignedDuration) -> Option<Zoned> {
    Some(at.timestamp().checked_add(by).ok()?.to_zoned(at.time_zone().clone()))
}

/// The beginning of the minute or hour; of the same hour, if a clock shows it twice.
fn whole(at: &Zoned, unit: Unit) -> Option<Zoned> {
    let minutes = if unit == Unit::Hour { i64::from(at.minute()) } else { 0 };
    let seconds = SignedDuration::from_secs(minutes * 60 + i64::from(at.second()));
    later(at, -(seconds + SignedDuration::from_nanos(at.subsec_nanosecond().into())))
}

fn day_matches(days: u64, weekdays: u64, at: &Zoned) -> bool {
    let day = days & 1 << at.day() != 0;
    let weekday = weekdays & 1 << Weekday::to_sunday_zero_offset(at.weekday()) != 0;
    if (days | weekdays) & STAR != 0 { day && weekday } else { day || weekday }
}

/// The bits of `*`, `?`, `5`, `1-5`, `*/10`, `5/10` (from 5 on), `1-30/2`.
fn bits(range: &str, low: u32, high: u32, names: &[&str]) -> Result<u64, String> {
    let (span, step) = range.split_once('/').map_or((range, None), |(span, step)| (span, Some(step)));
    let unreadable =
        |text: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax");
    let number = |text: &str| -> Result<u32, String> {
        let name = names.iter().position(|name| name.eq_ignore_ascii_case(text)).and_then(|at| u32::try_from(at).ok());
        name.map(|at| at + low).or_else(|| text.parse().ok()).ok_or_else(|| unreadable(text))
    };
    let star = matches!(span, "*" | "?");
    let (start, end) = match span.split_once('-') {
        _ if star => (low, high),
        Some((start, end)) => (number(start)?, number(end)?),
        None => (number(span)?, if step.is_some() { high } else { number(span)? }),
    };
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {range}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {range}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    let step = step.map_or(Ok(1), |step| step.parse::<usize>().map_err(|_| unreadable(step)))?;
    if step == 0 {
        return Err(format!("step of range should be a positive number: {range}"));
    }
    let values = (start..=end).step_by(step).fold(0, |bits, value| bits | 1 << value);
    Ok(if star && step == 1 { values | STAR } else { values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_checked() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 ? * 0", "5/15 * * * *"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
        ] {
            assert_eq!(Schedule::parse(bad).unwrap_err(), why);
        }
    }

    #[test]
    fn the_next_time_is_found_across_months_leap_days_and_changing_clocks() {
        for (schedule, zone, after, next) in [
            ("* * * * *", "UTC", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "UTC", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"),
            ("*/15 * * * *", "UTC", "2026-01-01T00:46:00Z", "2026-01-01T01:00:00Z"),
            ("5/20 * * * *", "UTC", "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
            ("0 0 29 2 *", "UTC", "2025-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 12 13 * FRI", "UTC", "2026-01-01T12:00:00Z", "2026-01-02T12:00:00Z"),
            ("0 12 13 * *", "UTC", "2026-01-02T12:00:00Z", "2026-01-13T12:00:00Z"),
            ("0 9 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", "2026-01-01T03:15:00Z"),
            // 02:30 is skipped in Berlin on 29 March.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            // 02:30 comes twice on 25 October.
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("@every 90s", "UTC", "2026-01-01T00:00:00.7Z", "2026-01-01T00:01:30Z"),
        ] {
            let found = Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &TimeZone::get(zone).unwrap());
            assert_eq!(found.map(|at| at.to_string()).as_deref(), Some(next), "{schedule} after {after}");
        }
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }
}
