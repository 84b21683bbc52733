//! Quantities (`100m`, `64Mi`, `1.5`) as numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;

/// Decimal and binary suffixes with their factor in units of 1e-9.
const SUFFIXES: [(&str, i128); 15] = [
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
    ("Ei", NANO << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", 1_000 * NANO),
    ("M", 1_000_000 * NANO),
    ("G", 1_000_000_000 * NANO),
    ("T", 1_000_000_000_000 * NANO),
    ("P", 1_000_000_000_000_000 * NANO),
    ("E", 1_000_000_000_000_000_000 * NANO),
];

/// The value in units of 1e-9; 0 for what is not a quantity (the API server lets none in).
pub fn nano(quantity: &Quantity) -> i128 {
    parse(&quantity.0).unwrap_or(0)
}

/// The value rounded up to a whole number, as `Quantity.Value()`.
pub fn value(quantity: &Quantity) -> i64 {
    divide_up(nano(quantity), NANO)
}

/// The value in thousandths, rounded up, as `Quantity.MilliValue()`.
pub fn milli_value(quantity: &Quantity) -> i64 {
    divide_up(nano(quantity), NANO / 1000)
}

/// `value / divisor`, rounded up; the divisor 0 counts as 1 (`resourceFieldRef.divisor`).
pub fn divided(value: i128, divisor: i128) -> i64 {
    divide_up(value, if divisor == 0 { NANO } else { divisor })
}

fn divide_up(value: i128, divisor: i128) -> i64 {
    let quotient = value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0);
    i64::try_from(quotient).unwrap_or(i64::MAX)
}

fn parse(text: &str) -> Option<i128> {
    let text = text.trim();
    if let Some((number, factor)) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)))
    {
        return scaled(number, factor);
    }
    match text.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            let exponent: u32 = exponent.trim_start_matches('+').parse().ok()?;
            scaled(number, NANO.checked_mul(10_i128.checked_pow(exponent)?)?)
        }
        None => scaled(text, NANO),
    }
}

/// A decimal number times a factor, rounded up.
fn scaled(number: &str, factor: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let product = digits.checked_mul(factor)?;
    Some(product.div_euclid(scale) + i128::from(product.rem_euclid(scale) != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers() {
        for (text, whole, milli) in [
            ("1", 1, 1000),
            ("100m", 1, 100),
            ("1.5", 2, 1500),
            ("64Mi", 67_108_864, 67_108_864_000),
            ("1G", 1_000_000_000, 1_000_000_000_000),
            ("2e3", 2000, 2_000_000),
            ("0.5Gi", 536_870_912, 536_870_912_000),
            ("", 0, 0),
        ] {
            let quantity = Quantity(text.into());
            assert_eq!((value(&quantity), milli_value(&quantity)), (whole, milli), "{text}");
        }
    }
}
