//! Times and sizes as the demonstration prints them.

use std::time::Duration;

/// A duration for people: `3.2 ms`, `1.4 s`.
pub fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 1.0 => format!("{:.1} ms", short * 1000.0),
        long => format!("{long:.1} s"),
    }
}

/// A number of bytes for people, with decimal units.
#[allow(clippy::cast_precision_loss, reason = "one digit is shown")]
pub fn bytes(count: u64) -> String {
    match count {
        0..1000 => format!("{count} bytes"),
        1000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
