//! Formats byte counts and parses durations for the command line, log lines and messages.

use std::time::Duration;

use jiff::SignedDuration;

/// Formats a byte count as `3.4 MB`, with decimal units as Docker and registries use them. Rounds down: 1,999,999 bytes
/// are `1.9 MB`.
pub fn bytes(count: u64) -> String {
    let (mut unit, mut tenths) = ("B", u128::from(count) * 10);
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        if tenths < 10_000 {
            break;
        }
        (unit, tenths) = (next, tenths / 1000);
    }
    match unit {
        "B" => format!("{count} B"),
        unit => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// Parses a duration such as `1h30m`, `90s`, `500ms` or `0s`. `None` for other text, for a number without a unit and
/// for a negative duration.
pub fn duration(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_have_decimal_units_and_are_rounded_down() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_999_999, "1.9 MB"),
            (1_000_000_000, "1.0 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_duration_needs_a_unit_and_is_not_negative() {
        let of = |text: &str| duration(text).map(|time| time.as_millis());
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("1.5h", 5_400_000), ("1m30s", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(of(text), Some(millis), "{text}");
        }
        for text in ["", "5", "-5s", "soon", "1h-30m"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
