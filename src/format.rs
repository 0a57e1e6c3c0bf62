//! Formats byte counts, durations and paths, and parses durations, for the command line, log lines and messages.

use std::time::Duration;

use jiff::SignedDuration;

/// Formats a byte count as `3.4 MiB`, with binary units as Kubernetes' quantities have them. Rounds down: one byte less
/// than 2 MiB is `1.9 MiB`.
pub fn bytes(count: u64) -> String {
    let unit = unit(count);
    format!("{} {}", in_unit(count, unit), UNITS[unit])
}

/// Formats a part of a byte count as `0.5 of 3.4 MiB`, both in the unit of the whole.
pub fn part(done: u64, whole: u64) -> String {
    let unit = unit(whole);
    format!("{} of {} {}", in_unit(done, unit), in_unit(whole, unit), UNITS[unit])
}

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// The index of the largest unit of which a byte count has at least one.
fn unit(count: u64) -> usize {
    (count.checked_ilog2().unwrap_or(0) as usize / 10).min(UNITS.len() - 1)
}

fn in_unit(count: u64, unit: usize) -> String {
    let tenths = (u128::from(count) * 10) >> (10 * unit);
    match unit {
        0 => count.to_string(),
        _ => format!("{}.{}", tenths / 10, tenths % 10),
    }
}

/// Formats a duration in the form in which users write one: `0.3ms`, `1.5s`, `1m30s`, `2h5m`. Rounds down to a tenth
/// of a millisecond, from one second to a tenth of a second, and from one minute to a second.
pub fn span(time: Duration) -> String {
    let tenths = |tenths: u128, unit: &str| match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    };
    match time.as_secs() {
        0 => tenths(time.as_micros() / 100, "ms"),
        1..60 => tenths(time.as_millis() / 100, "s"),
        seconds => {
            let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
            let parts = parts.into_iter().filter(|(count, _)| *count > 0);
            parts.map(|(count, unit)| format!("{count}{unit}")).collect()
        }
    }
}

/// Parses a duration such as `1h30m`, `90s`, `500ms` or `0s`. `None` for other text, for a number without a unit and
/// for a negative duration.
pub fn duration(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

/// A path of any bytes on one line: unchanged if it is plain text, else quoted with escapes.
pub fn path(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with('"') => {
            text.to_owned()
        }
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_have_binary_units_and_are_rounded_down() {
        for (count, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1 << 10, "1.0 KiB"),
            ((2 << 20) - 1, "1.9 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(part(512 << 10, 7 << 19), "0.5 of 3.5 MiB");
    }

    #[test]
    fn a_formatted_duration_has_the_form_that_is_parsed() {
        for (micros, text) in [
            (0, "0ms"),
            (349, "0.3ms"),
            (12_000, "12ms"),
            (1_549_999, "1.5s"),
            (59_000_000, "59s"),
            (90_900_000, "1m30s"),
            (600_000_000, "10m"),
            (7_500_000_000, "2h5m"),
        ] {
            assert_eq!(span(Duration::from_micros(micros)), text);
            assert!(duration(text).is_some(), "{text}");
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

    #[test]
    fn paths_that_are_no_plain_text_are_quoted() {
        for (bytes, text) in [
            (&b"a/b c"[..], "a/b c"),
            ("ä".as_bytes(), "ä"),
            (b"a\nb", "\"a\\nb\""),
            (b"\"a", "\"\\\"a\""),
            (b"a\xff\x1b", "\"a\\xff\\x1b\""),
        ] {
            assert_eq!(path(bytes), text);
        }
    }
}
