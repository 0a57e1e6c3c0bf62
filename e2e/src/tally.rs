//! Counts what passed and names what failed, in one suite and in all of them.
//!
//! Deliberately absent: a third kind. What was skipped without being asked to be has failed.

use std::fmt::Write as _;
use std::time::Duration;

use crate::progress::human;

/// What one suite found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many checks passed.
    pub passed: usize,
    /// Every check that failed, by name and with what a person needs to know about it.
    pub failures: Vec<String>,
}

impl Tally {
    /// One check, named, by its result.
    pub fn of(name: &str, result: anyhow::Result<()>) -> Self {
        let mut tally = Self::default();
        tally.count(name, result);
        tally
    }

    /// Adds one check.
    pub fn count(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.failures.push(format!("{name}: {error:#}")),
        }
    }

    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }

    /// `12 passed`, or `11 passed, 1 FAILED`; never the form of the line that ends a run.
    pub fn words(&self) -> String {
        match self.failures.len() {
            0 => format!("{} passed", self.passed),
            failed => format!("{} passed, {failed} FAILED", self.passed),
        }
    }
}

/// What one suite found, and in what time.
pub struct Row {
    /// The suite's name.
    pub suite: &'static str,
    /// What it found.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
}

/// How much of a failure is told again beside its suite, in characters.
const BRIEF: usize = 300;

/// The report that ends a run: what failed, a line a suite with the beginning of each of its
/// failures (the end of a log is what people see first), and the line that counts everything.
pub fn report(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut all = Tally::default();
    for row in rows {
        for failure in &row.tally.failures {
            // Writing to a string cannot fail, here and below.
            writeln!(text, "FAILED {}: {failure}\n", row.suite).unwrap_or_default();
        }
    }
    for row in rows {
        let (words, took) = (row.tally.words(), human(row.took));
        writeln!(text, "  {:<12}{words:<24}{took:>8}", row.suite).unwrap_or_default();
        for failure in &row.tally.failures {
            let brief: String = failure.lines().next().unwrap_or("").chars().take(BRIEF).collect();
            writeln!(text, "    {brief}").unwrap_or_default();
        }
        all.add(row.tally.clone());
    }
    writeln!(text, "{} passed, {} failed", all.passed, all.failures.len()).unwrap_or_default();
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn row(suite: &'static str, passed: usize, failures: &[&str]) -> Row {
        let failures = failures.iter().map(|&name| name.to_owned()).collect();
        Row { suite, tally: Tally { passed, failures }, took: Duration::from_secs(61) }
    }

    #[test]
    fn the_last_line_adds_up_everything_and_is_the_only_one_of_its_form() {
        let text = report(&[row("format", 1, &[]), row("unit", 40, &["a::b", "c::d"])]);
        assert_eq!(text.lines().last(), Some("41 passed, 2 failed"));
        let total = |line: &&str| line.contains(" passed, ") && line.ends_with(" failed");
        assert_eq!(text.lines().filter(total).count(), 1, "{text}");
        assert!(text.contains("FAILED unit: a::b") && text.contains("1m01s"), "{text}");
        assert!(text.ends_with("    a::b\n    c::d\n41 passed, 2 failed\n"), "{text}");
    }

    #[test]
    fn a_check_is_named_when_it_fails() {
        let mut tally = Tally::of("good", Ok(()));
        tally.count("bad", (|| bail!("no luck"))());
        assert_eq!(tally, Tally { passed: 1, failures: vec!["bad: no luck".into()] });
        assert_eq!(tally.words(), "1 passed, 1 FAILED");
    }
}
