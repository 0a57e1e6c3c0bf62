//! Numbers and times as people read and write them.

use std::time::Duration;

use jiff::SignedDuration;

/// As `3.4 MB`, with decimal units, as Docker and registries count, and never more than there is: `1.9 MB` is less than two.
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

/// A time as people write it: `1h30m`, `90s`, `500ms`, `0s`. Nothing for other text, a number without its unit too, and for a time
/// less than none.
pub fn duration(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_as_people_read_them() {
        for (count, said) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_999_999, "1.9 MB"),
            (1_000_000_000, "1.0 GB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(bytes(count), said);
        }
    }

    #[test]
    fn durations_as_people_write_them() {
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
