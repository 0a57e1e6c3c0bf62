//! What a suite found, and the text at the end of a run.

use std::fmt::Write as _;
use std::time::Duration;

use crate::machine::progress::human;

/// The result of a suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many checks passed.
    pub passed: usize,
    /// Every check that failed: its name and the error.
    pub failures: Vec<String>,
}

impl Report {
    /// A report of one check.
    pub fn of(name: &str, result: anyhow::Result<()>) -> Self {
        let mut report = Self::default();
        report.count(name, result);
        report
    }

    /// Adds one check.
    pub fn count(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.failures.push(format!("{name}: {error:#}")),
        }
    }

    /// Adds another report.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }

    /// `12 passed`, or `11 passed, 1 FAILED`. Never the form of the last line of a run.
    pub fn counts(&self) -> String {
        match self.failures.len() {
            0 => format!("{} passed", self.passed),
            failed => format!("{} passed, {failed} FAILED", self.passed),
        }
    }
}

/// The result of a suite, with its name and duration.
pub struct SuiteResult {
    /// The suite's name.
    pub suite: &'static str,
    /// Its result.
    pub report: Report,
    /// How long it took.
    pub took: Duration,
}

/// How many characters of a failure are repeated beside its suite.
const BRIEF: usize = 300;

/// The text at the end of a run: every failure, then a line for each suite with the first line of
/// each of its failures (a reader sees the end of a log first), then the line that counts
/// everything.
pub fn summary(rows: &[SuiteResult]) -> String {
    let mut text = String::new();
    let mut all = Report::default();
    for row in rows {
        for failure in &row.report.failures {
            // Writing to a string cannot fail, here and below.
            writeln!(text, "FAILED {}: {failure}\n", row.suite).unwrap_or_default();
        }
    }
    for row in rows {
        let (words, took) = (row.report.counts(), human(row.took));
        writeln!(text, "  {:<12}{words:<24}{took:>8}", row.suite).unwrap_or_default();
        for failure in &row.report.failures {
            let brief: String = failure.lines().next().unwrap_or("").chars().take(BRIEF).collect();
            writeln!(text, "    {brief}").unwrap_or_default();
        }
        all.add(row.report.clone());
    }
    writeln!(text, "{} passed, {} failed", all.passed, all.failures.len()).unwrap_or_default();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn row(suite: &'static str, passed: usize, failures: &[&str]) -> SuiteResult {
        let failures = failures.iter().map(|&name| name.to_owned()).collect();
        SuiteResult { suite, report: Report { passed, failures }, took: Duration::from_secs(61) }
    }

    #[test]
    fn the_last_line_adds_up_everything_and_is_the_only_one_of_its_form() {
        let text = summary(&[row("format", 1, &[]), row("unit", 40, &["a::b", "c::d"])]);
        assert_eq!(text.lines().last(), Some("41 passed, 2 failed"));
        let total = |line: &&str| line.contains(" passed, ") && line.ends_with(" failed");
        assert_eq!(text.lines().filter(total).count(), 1, "{text}");
        assert!(text.contains("FAILED unit: a::b") && text.contains("1m01s"), "{text}");
        assert!(text.ends_with("    a::b\n    c::d\n41 passed, 2 failed\n"), "{text}");
    }

    #[test]
    fn a_check_is_named_when_it_fails() {
        let mut report = Report::of("good", Ok(()));
        report.count("bad", (|| bail!("no luck"))());
        assert_eq!(report, Report { passed: 1, failures: vec!["bad: no luck".into()] });
        assert_eq!(report.counts(), "1 passed, 1 FAILED");
    }
}
