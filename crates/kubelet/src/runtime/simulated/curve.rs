//! Quantities that change over time, and how times and quantities are written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use coracle_api::quantity::Quantity;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A time span as people write it: `90s`, `10m`, `1h30m`, `250ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || format!("{text:?} is not a time; write it like 90s, 10m or 1h30m");
        let (mut rest, mut total) = (text, Duration::ZERO);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let seconds = match unit {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(wrong()),
            };
            let number: f64 = number.parse().map_err(|_| wrong())?;
            total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
            rest = after;
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Span(total)) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let parts = [(ms / 3_600_000, "h"), (ms / 60_000 % 60, "m"), (ms / 1000 % 60, "s"), (ms % 1000, "ms")];
        if ms == 0 {
            return f.write_str("0s");
        }
        parts.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

/// A value that stands in YAML as a text or a number.
struct Scalar<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = String>> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_any(Scalar(std::marker::PhantomData, "a time such as 90s"))
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An amount of a resource, as Kubernetes writes it (`250m`, `64Mi`): its value in whole units.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount(pub f64);

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Amount, String> {
        let quantity = text.parse::<Quantity>().ok().filter(|quantity| !quantity.is_negative());
        let quantity = quantity.ok_or_else(|| format!("{text:?} is not a quantity such as 250m or 64Mi"))?;
        Ok(Amount(quantity.to_f64()))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        deserializer.deserialize_any(Scalar(std::marker::PhantomData, "a quantity such as 250m"))
    }
}

/// A quantity over time: straight lines between its points, level before the first and after the last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve(Vec<(Duration, f64)>);

impl Curve {
    /// The same at all times.
    pub fn level(value: f64) -> Curve {
        Curve(vec![(Duration::ZERO, value)])
    }

    /// A curve through points.
    ///
    /// # Errors
    /// There are none, or time runs backwards between two.
    pub fn through(points: Vec<(Duration, f64)>) -> Result<Curve, String> {
        if points.is_empty() {
            return Err("a curve needs a point".into());
        }
        match points.windows(2).find(|pair| pair[1].0 <= pair[0].0) {
            Some(pair) => {
                let (before, after) = (Span(pair[0].0), Span(pair[1].0));
                Err(format!("time runs backwards: {after} comes after {before}; put the points in order of time"))
            }
            None => Ok(Curve(points)),
        }
    }

    /// The same shape, so many times as high.
    pub fn times(&self, factor: f64) -> Curve {
        Curve(self.0.iter().map(|(at, value)| (*at, value * factor)).collect())
    }

    /// The value at a time.
    pub fn at(&self, time: Duration) -> f64 {
        let next = self.0.partition_point(|(at, _)| *at <= time);
        match (next.checked_sub(1).and_then(|last| self.0.get(last)), self.0.get(next)) {
            (Some(before), Some(after)) => {
                let share = (time - before.0).as_secs_f64() / (after.0 - before.0).as_secs_f64();
                before.1 + (after.1 - before.1) * share
            }
            (Some(only), None) | (None, Some(only)) => only.1,
            (None, None) => 0.0,
        }
    }

    /// The area below it from the beginning until a time, in units × seconds.
    pub fn area(&self, until: Duration) -> f64 {
        let inner = self.0.iter().map(|(at, _)| *at).filter(|at| *at < until && !at.is_zero());
        let (mut from, mut area) = (Duration::ZERO, 0.0);
        for to in inner.chain([until]) {
            area += (self.at(from) + self.at(to)) / 2.0 * (to - from).as_secs_f64();
            from = to;
        }
        area
    }

    /// When it first is above a limit.
    pub fn first_above(&self, limit: f64) -> Option<Duration> {
        if self.0.first()?.1 > limit {
            return Some(Duration::ZERO);
        }
        self.0.windows(2).find_map(|pair| {
            let ((from, low), (to, high)) = (pair[0], pair[1]);
            (high > limit).then(|| from + (to - from).mul_f64((limit - low) / (high - low)))
        })
    }

    /// The highest value.
    pub fn peak(&self) -> f64 {
        self.0.iter().map(|(_, value)| *value).fold(0.0, f64::max)
    }

    /// The time of the last point.
    pub fn end(&self) -> Duration {
        self.0.last().map_or(Duration::ZERO, |(at, _)| *at)
    }
}

/// In YAML a curve is one amount (`250m`), or a list of points: `[{at: 0s, use: 50m}, {at: 10m, use: 1}]`.
impl<'de> Deserialize<'de> for Curve {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Curve, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Point {
            at: Span,
            r#use: Amount,
        }
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Curve;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 250m, or a list of {at, use}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Curve, E> {
                let amount: Amount = text.parse().map_err(E::custom)?;
                Ok(Curve::level(amount.0))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Curve, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Curve, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Curve, A::Error> {
                let mut points = Vec::new();
                while let Some(Point { at, r#use }) = items.next_element()? {
                    points.push((at.0, r#use.0));
                }
                Curve::through(points).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn times_are_read_and_written_as_people_do() {
        for (text, ms, canonical) in
            [("90s", 90_000, "1m30s"), ("1h30m", 5_400_000, "1h30m"), ("1.5s", 1500, "1s500ms"), ("0s", 0, "0s")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0.as_millis(), span.to_string().as_str()), (ms, canonical), "{text}");
        }
        for wrong in ["", "5", "m", "1y", "-1s", "1..5s"] {
            assert!(wrong.parse::<Span>().unwrap_err().contains("90s"), "{wrong}");
        }
    }

    #[test]
    fn a_curve_is_straight_between_points_and_level_outside() {
        let curve = Curve::through(vec![(seconds(10), 0.0), (seconds(20), 100.0)]).unwrap();
        for (at, value, area) in
            [(0, 0.0, 0.0), (10, 0.0, 0.0), (15, 50.0, 125.0), (20, 100.0, 500.0), (30, 100.0, 1500.0)]
        {
            assert_eq!((curve.at(seconds(at)), curve.area(seconds(at))), (value, area), "at {at} s");
        }
        for (limit, expected) in [(-1.0, Some(seconds(0))), (50.0, Some(seconds(15))), (100.0, None)] {
            assert_eq!(curve.first_above(limit), expected, "above {limit}");
        }
        assert_eq!((curve.peak(), curve.end()), (100.0, seconds(20)));
    }

    #[test]
    fn a_curve_whose_time_runs_backwards_is_refused() {
        let wrong = Curve::through(vec![(seconds(10), 1.0), (seconds(5), 2.0)]).unwrap_err();
        assert!(wrong.contains("5s comes after 10s"), "{wrong}");
    }

    proptest! {
        #[test]
        fn area_grows_as_the_value_says(values in proptest::collection::vec(0.0..1e6_f64, 1..6), until in 0_u64..100) {
            let points = values.iter().enumerate().map(|(i, v)| (seconds(7 * i as u64), *v)).collect();
            let curve = Curve::through(points).unwrap();
            let step = curve.area(seconds(until + 1)) - curve.area(seconds(until));
            let (low, high) = (values.iter().copied().fold(f64::MAX, f64::min), curve.peak());
            prop_assert!(step >= low - 1e-3 && step <= high + 1e-3, "{step} is not in {low}..{high}");
        }
    }
}
