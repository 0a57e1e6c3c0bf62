//! The rows of the benchmark, as text and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::images::BenchRegistry;
use super::times::percentile;

/// One result.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    against: Option<(String, f64)>,
    limit: Limit,
}

/// The limit of a row: of its ratio if it is compared, else of its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// No limit.
    None,
    /// At most this.
    AtMost(f64),
}

impl Row {
    /// A time in seconds.
    pub fn seconds(what: &str, time: Duration) -> Self {
        Self::new(what, "s", time.as_secs_f64())
    }

    /// A time in milliseconds.
    pub fn milliseconds(what: &str, time: Duration) -> Self {
        Self::new(what, "ms", time.as_secs_f64() * 1000.0)
    }

    /// An amount of memory.
    pub fn mebibytes(what: &str, bytes: u64) -> Self {
        Self::new(what, "MiB", bytes as f64 / f64::from(1 << 20))
    }

    /// A number.
    pub fn count(what: &str, number: f64) -> Self {
        Self::new(what, "", number)
    }

    fn new(what: &str, unit: &'static str, ours: f64) -> Self {
        Self { what: what.to_owned(), unit, ours, against: None, limit: Limit::None }
    }

    /// Compares a time with another program's, with a limit for the ratio.
    pub fn beside(mut self, name: &str, theirs: Duration, limit: Limit) -> Self {
        let of_a_second = if self.unit == "ms" { 1000.0 } else { 1.0 };
        self.against = Some((name.to_owned(), theirs.as_secs_f64() * of_a_second));
        self.limit = limit;
        self
    }

    /// Sets a limit for the value.
    pub fn within(mut self, most: f64) -> Self {
        self.limit = Limit::AtMost(most);
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.against.as_ref().map(|(_, theirs)| self.ours / theirs)
    }

    /// Whether it is within its limit. `None` without one.
    fn holds(&self) -> Option<bool> {
        match self.limit {
            Limit::None => None,
            Limit::AtMost(most) => Some(self.ratio().unwrap_or(self.ours) <= most),
        }
    }
}

/// The median of ours beside the former version's. It may take 3 % longer, or as much longer as the former
/// version's own times differ from their median.
pub fn not_slower(what: &str, ours: &mut [Duration], former: &mut [Duration]) -> Row {
    let (now, before) = (percentile(ours, 50), percentile(former, 50));
    let slowest = percentile(former, 100).as_secs_f64();
    let spread = slowest / before.as_secs_f64().max(f64::MIN_POSITIVE);
    Row::milliseconds(what, now).beside("former", before, Limit::AtMost(spread.max(1.03)))
}

/// The table as text.
pub fn text(rows: &[Row], registry: Option<&BenchRegistry>, notes: &[String]) -> String {
    let mut text = format!("{}\n\n", about(registry));
    // Writing to a string cannot fail, here and below.
    writeln!(text, "{:<32}{:>12}{:>26}{:>8}{:>8}", "", "ovl", "beside", "ratio", "limit")
        .unwrap_or_default();
    for row in rows {
        let unit = |value: f64| format!("{value:.2} {}", row.unit).trim_end().to_owned();
        let against = row.against.as_ref();
        let beside = against.map(|(name, theirs)| format!("{name} {}", unit(*theirs)));
        let ratio = row.ratio().map(|ratio| format!("{ratio:.2}"));
        let limit = match row.limit {
            Limit::None => String::new(),
            Limit::AtMost(most) => most.to_string(),
        };
        let verdict = match row.holds() {
            None => "",
            Some(true) => "  holds",
            Some(false) => "  MISSED",
        };
        writeln!(
            text,
            "{:<32}{:>12}{:>26}{:>8}{:>8}{verdict}",
            row.what,
            unit(row.ours),
            beside.unwrap_or_default(),
            ratio.unwrap_or_default(),
            limit
        )
        .unwrap_or_default();
    }
    for note in notes {
        writeln!(text, "Not measured: {note}").unwrap_or_default();
    }
    text
}

/// The table as JSON.
pub fn json(rows: &[Row], registry: Option<&BenchRegistry>, notes: &[String]) -> Value {
    let row = |row: &Row| {
        let beside = row.against.as_ref();
        let limit = match row.limit {
            Limit::None => None,
            Limit::AtMost(most) => Some(most),
        };
        json!({
            "what": row.what, "unit": row.unit, "ovl": row.ours,
            "beside": beside.map(|(name, theirs)| json!({ "who": name, "value": theirs })),
            "ratio": row.ratio(), "limit": limit, "holds": row.holds(),
        })
    };
    let rows: Vec<Value> = rows.iter().map(row).collect();
    json!({ "about": about(registry), "rows": rows, "not measured": notes })
}

/// The machine and the image, in one line.
fn about(registry: Option<&BenchRegistry>) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let machine = format!("{cores} cores, Linux {}", kernel.trim());
    let Some(registry) = registry else { return machine };
    let layers = registry.layers().unwrap_or_default();
    let bytes: u64 = layers.iter().map(|blob| blob.size).sum();
    format!(
        "{machine}; an image of {} layers, {} MB compressed; the middle of {} rounds",
        layers.len(),
        bytes / 1_000_000,
        super::times::ROUNDS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_for_the_ratio_where_there_is_one() {
        let second = Duration::from_secs(1);
        let row = Row::seconds("a", second).beside("b", second * 4, Limit::AtMost(0.5));
        assert_eq!((row.ratio(), row.holds()), (Some(0.25), Some(true)));
        let row = Row::milliseconds("a", second).beside("b", second * 2, Limit::None);
        assert_eq!((row.ratio(), row.holds()), (Some(0.5), None));
        assert_eq!(Row::milliseconds("a", second).within(3.0).holds(), Some(false));
        assert_eq!(Row::count("a", 1.0).holds(), None);
    }
}
