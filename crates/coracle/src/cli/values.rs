//! What is written behind flags.

use std::time::Duration;

/// A number of requests a second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if rate > 0.0 && f64::is_finite(rate) { Ok(rate) } else { Err("it must be more than 0".into()) }
}

/// How fast a simulation's time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// As fast as it can.
    Max,
    /// So many times as fast as the machine's clock.
    Times(f64),
}

/// `max`, or a factor such as `60x`.
pub(super) fn speed(text: &str) -> Result<Speed, String> {
    let factor = || text.strip_suffix('x')?.parse().ok().filter(|factor: &f64| *factor > 0.0 && factor.is_finite());
    match text {
        "max" => Ok(Speed::Max),
        _ => factor().map(Speed::Times).ok_or_else(|| format!("{text:?} is neither max nor a factor such as 60x")),
    }
}

/// A duration as Go writes it: `8760h0m0s`, `1m30s`, `500ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale_ms = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(format!("time: invalid duration {text:?}")),
        };
        let number: u64 = number.parse().map_err(|_| format!("time: invalid duration {text:?}"))?;
        total += Duration::from_millis(number.saturating_mul(scale_ms));
        rest = after;
    }
    if text.is_empty() { Err("time: invalid duration \"\"".into()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_factors() {
        assert_eq!(
            (speed("max"), speed("60x"), speed("0.5x")),
            (Ok(Speed::Max), Ok(Speed::Times(60.0)), Ok(Speed::Times(0.5)))
        );
        for bad in ["60", "x", "0x", "-1x", "infx"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        assert_eq!(duration("8760h0m0s"), Ok(Duration::from_secs(8760 * 3600)));
        assert_eq!(duration("1m500ms"), Ok(Duration::from_millis(60_500)));
        for bad in ["", "1", "h", "1y", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
