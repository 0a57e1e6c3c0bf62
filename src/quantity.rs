//! Parses a Kubernetes quantity, such as `10Gi`.

use std::str::FromStr;

/// A whole number greater than zero, written as a Kubernetes quantity: `10Gi`, `500M`, `1.5Ti`, `1e9`, `4096`.
/// Fractions are rounded up. At most 2^63 - 1, the limit of CSI and of the file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity(u64);

impl Quantity {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The text is not a quantity. The message does not repeat the text: the caller quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a number greater than zero, optionally with the suffix Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P or E, \
     such as 10Gi"
)]
pub struct QuantityError;

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse(text).filter(|n| (1..=i64::MAX as u64).contains(n)).map(Self).ok_or(QuantityError)
    }
}

fn parse(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(digits.checked_mul(factor(suffix)?)?.div_ceil(parts)).ok()
}

fn factor(suffix: &str) -> Option<u128> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let place =
        |list: &[&str]| list.iter().position(|s| *s == suffix).and_then(|n| u32::try_from(n).ok());
    if let Some(n) = place(&BINARY) {
        return Some(1 << (10 * (n + 1)));
    }
    if let Some(n) = place(&DECIMAL) {
        return Some(10_u128.pow(3 * n));
    }
    // Helm writes a large number with an exponent.
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
    let digits = exponent.bytes().all(|b| b.is_ascii_digit());
    exponent.parse().ok().filter(|n| digits && *n <= 18).map(|n: u32| 10_u128.pow(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_has_the_same_value_as_in_kubernetes() {
        for (text, number) in [
            ("1", 1),
            ("4096", 4096),
            ("1k", 1000),
            ("1Ki", 1024),
            ("500M", 500_000_000),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("0.0001k", 1),
            ("2Ti", 2 << 40),
            ("1Pi", 1 << 50),
            ("7Ei", 7 << 60),
            ("9E", 9_000_000_000_000_000_000),
            ("1e9", 1_000_000_000),
            ("1.073741824e+10", 10_737_418_240),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(text.parse(), Ok(Quantity(number)), "{text:?}");
        }
    }

    #[test]
    fn a_text_that_is_not_a_quantity_is_refused() {
        let long = "9".repeat(4096);
        let fraction = format!("0.{}1", "0".repeat(4096));
        for text in [
            "",
            "0",
            "0Gi",
            "-1",
            "-1Gi",
            "+1Gi",
            ".",
            "Gi",
            "1gi",
            "1 Gi",
            "1GB",
            "1m",
            "1e",
            "1e-3",
            "1e99",
            "1e+-3",
            "1.2.3",
            "0x10",
            "8Ei",
            "9223372036854775808",
            "１",
            "1Gi\n",
            "%s",
            &long,
            &fraction,
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError), "{text:?}");
        }
    }
}
