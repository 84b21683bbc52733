//! `resource.Quantity`: fixed-point numbers with a unit, such as `500m`, `1.5Gi` or `2e3`.
//!
//! ```
//! use coracle_api::quantity::Quantity;
//!
//! let memory: Quantity = "1.5Gi".parse().unwrap();
//! assert_eq!(memory.to_string(), "1536Mi"); // the canonical form, as the API server stores it
//! assert_eq!(memory.to_bytes(), 1_610_612_736);
//! let cpu = "500m".parse::<Quantity>().unwrap() + Quantity::from_millis(700);
//! assert_eq!((cpu.to_millis(), cpu.to_string().as_str()), (1200, "1200m"));
//! assert!(cpu > Quantity::from_value(1));
//! ```
//!
//! Values are exact: a whole number of nanos. Finer ones are rounded up when parsed, as upstream does.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

const NANO: i128 = 1_000_000_000;
/// Upstream caps values at 2^63-1 of whichever unit; nanos of that fit easily.
const MAX: i128 = i64::MAX as i128 * NANO;

/// The notation a quantity was written in, which its canonical form keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `k`, `M`, `G`, and `m`, `u`, `n`.
    #[default]
    DecimalSI,
    /// `Ki`, `Mi`, `Gi`.
    BinarySI,
    /// `e3`, `E6`.
    DecimalExponent,
}

/// A quantity. Ordered and compared by value, whatever the notation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is none of those known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    /// A whole number.
    pub fn from_value(value: i64) -> Self {
        Quantity { nanos: i128::from(value) * NANO, format: Format::DecimalSI }
    }

    /// Thousandths, as for CPU.
    pub fn from_millis(millis: i64) -> Self {
        Quantity { nanos: i128::from(millis) * (NANO / 1000), format: Format::DecimalSI }
    }

    /// A whole number of bytes, printed with `Ki`, `Mi`, ….
    pub fn from_bytes(bytes: i64) -> Self {
        Quantity { nanos: i128::from(bytes) * NANO, format: Format::BinarySI }
    }

    /// The value in thousandths, rounded up.
    pub fn to_millis(self) -> i64 {
        clamp(ceil(self.nanos, NANO / 1000))
    }

    /// The value as a whole number, rounded up.
    pub fn to_value(self) -> i64 {
        clamp(ceil(self.nanos, NANO))
    }

    /// The value as a whole number of bytes, rounded up: the same as [`Quantity::to_value`].
    pub fn to_bytes(self) -> i64 {
        self.to_value()
    }

    /// How many times `divisor` (not zero) fits into it, rounded up, as `resourceFieldRef.divisor` counts.
    pub fn divided_by(self, divisor: Self) -> i64 {
        clamp(ceil(self.nanos, divisor.nanos))
    }

    /// The value as a floating-point number.
    pub fn to_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// The larger of both.
    pub fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    /// The canonical text of a quantity in JSON, which may be a string or a number.
    ///
    /// # Errors
    /// If it is not a quantity.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, ParseError> {
        match value {
            serde_json::Value::String(text) => text.parse(),
            serde_json::Value::Number(number) => number.to_string().parse(),
            _ => Err(ParseError::Format),
        }
    }

    /// A quantity of the typed API; zero if it is malformed, which validation does not let into the store.
    pub fn of(wire: &Wire) -> Self {
        wire.0.parse().unwrap_or_default()
    }

    /// The typed API's form.
    pub fn to_wire(self) -> Wire {
        Wire(self.to_string())
    }
}

fn ceil(nanos: i128, unit: i128) -> i128 {
    nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0)
}

fn clamp(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// What a suffix multiplies by, and the notation it belongs to.
fn suffix(text: &str) -> Result<(Format, Scale), ParseError> {
    if let Some(&(_, bits)) = BINARY.iter().find(|(name, _)| *name == text) {
        return Ok((Format::BinarySI, Scale::Bits(bits)));
    }
    if let Some(&(_, power)) = DECIMAL.iter().find(|(name, _)| *name == text) {
        return Ok((Format::DecimalSI, Scale::Ten(power)));
    }
    let exponent = text.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
    let power = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
    Ok((Format::DecimalExponent, Scale::Ten(power)))
}

enum Scale {
    Ten(i32),
    Bits(u32),
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError::Format);
        }
        if !unit.chars().all(|c| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c)) {
            return Err(ParseError::Format);
        }
        let (format, scale) = suffix(unit)?;
        let nanos = magnitude(whole, fraction, &scale);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// `whole.fraction × scale` in nanos, rounded up, saturating at the largest quantity there is.
fn magnitude(whole: &str, fraction: &str, scale: &Scale) -> i128 {
    // Digits past the cap or far below a nano cannot change the result except by rounding up.
    const DIGITS: usize = 27;
    let whole = whole.trim_start_matches('0');
    if whole.len() > DIGITS {
        return MAX;
    }
    let kept = &fraction[..fraction.len().min(DIGITS - whole.len())];
    let lost = fraction[kept.len()..].bytes().any(|digit| digit != b'0');
    let digits: i128 = whole.bytes().chain(kept.bytes()).fold(0, |n, digit| n * 10 + i128::from(digit - b'0'));
    let (factor, power) = match *scale {
        Scale::Ten(power) => (1, power),
        Scale::Bits(bits) => (1_i128 << bits, 0),
    };
    let power = power.saturating_add(9).saturating_sub(kept.len() as i32);
    let scaled = if power >= 0 {
        let ten = 10_i128.checked_pow(power.unsigned_abs());
        ten.and_then(|ten| digits.checked_mul(ten)).and_then(|n| n.checked_mul(factor))
    } else {
        // The factor goes first, so that nothing is lost; 27 digits and 60 bits may not fit: divide then.
        let ten = 10_i128.checked_pow(power.unsigned_abs());
        match (digits.checked_mul(factor), ten) {
            (Some(n), Some(ten)) => Some(ceil(n, ten)),
            (None, Some(ten)) => (ceil(digits, ten)).checked_mul(factor),
            (_, None) => Some(i128::from(digits != 0)),
        }
    };
    let rounded = i128::from(lost && scaled.is_some_and(|n| n < MAX));
    match scaled {
        _ if digits == 0 && !lost => 0,
        Some(n) => n.saturating_add(rounded).min(MAX),
        None => MAX,
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, no precision lost, the largest unit possible.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let value = self.nanos / NANO;
        if self.format == Format::BinarySI && self.is_whole() && value.abs() >= 1024 {
            let bits = (value.trailing_zeros() / 10 * 10).min(60);
            let unit = BINARY.iter().find(|(_, b)| *b == bits).map_or("", |(name, _)| name);
            return write!(f, "{}{unit}", value >> bits);
        }
        let (mut number, mut power) = (self.nanos, -9);
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        match self.format {
            Format::DecimalExponent if power == 0 => write!(f, "{number}"),
            Format::DecimalExponent => write!(f, "{number}e{power}"),
            _ => write!(f, "{number}{}", DECIMAL.iter().find(|(_, p)| *p == power).map_or("", |(name, _)| name)),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// The sum, in the notation of the first that is not zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Self {
        Quantity { nanos: -self.nanos, ..self }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(quantities: I) -> Self {
        quantities.fold(Quantity::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_stored_in_their_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("100Mi", "100Mi"),
            ("2000M", "2G"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("-5", "-5"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.1n", "1n"),
            ("0.0000000001", "1n"),
            ("1Ei", "1Ei"),
            ("8Ei", "9223372036854775807"),
            ("100n", "100n"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_quantity_is_refused() {
        for text in ["", ".", "1.2.3", "abc", "1 Gi", "--1"] {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), ParseError::Format, "{text}");
        }
        for text in ["1mi", "1kk", "1e", "1Kii", "1K"] {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), ParseError::Suffix, "{text}");
        }
    }

    #[test]
    fn readings_round_up() {
        let quantity: Quantity = "1.0001".parse().unwrap();
        assert_eq!((quantity.to_value(), quantity.to_millis()), (2, 1001));
        assert_eq!("-1500m".parse::<Quantity>().unwrap().to_value(), -1);
    }

    #[test]
    fn a_sum_keeps_the_notation_of_what_was_there() {
        let sum: Quantity = ["1Gi", "512Mi"].iter().map(|t| t.parse::<Quantity>().unwrap()).sum();
        assert_eq!(sum.to_string(), "1536Mi");
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back_as_the_same_value(nanos in -1_000_000_000_000_000_000_i128..=1_000_000_000_000_000_000, format in 0..3) {
            let format = [Format::DecimalSI, Format::BinarySI, Format::DecimalExponent][format as usize];
            let quantity = Quantity { nanos, format };
            let text = quantity.to_string();
            let again: Quantity = text.parse().unwrap();
            prop_assert_eq!(again, quantity);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn adding_and_taking_away_is_exact(a in any::<i32>(), b in any::<i32>()) {
            let (a, b) = (Quantity::from_millis(a.into()), Quantity::from_bytes(b.into()));
            prop_assert_eq!(a + b - b, a);
        }
    }
}
