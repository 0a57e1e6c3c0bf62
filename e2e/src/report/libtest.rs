//! Parses the output of `cargo test`.
//!
//! Deliberately absent: libtest's JSON, which is not stable.

use super::results::Report;

/// Adds up every `test result:` line and collects the names of failed tests.
///
/// A summary may count more failures than there are names, when a test ended its process. Those are
/// failures without a name.
pub fn parse(output: &str) -> Report {
    let mut report = Report::default();
    let mut failed = 0;
    for line in output.lines() {
        if let Some(summary) = line.strip_prefix("test result: ") {
            report.passed += count(summary, "passed");
            failed += count(summary, "failed");
        } else if let Some(name) = failed_test(line) {
            report.failures.push(name.to_owned());
        }
    }
    let unnamed = failed.saturating_sub(report.failures.len());
    report.failures.extend((0..unnamed).map(|_| String::from("a test without a name in the log")));
    report
}

/// The name in `test layers::names ... FAILED`. libtest-mimic aligns the results with spaces.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED").map(str::trim_end)
}

/// The number before a word in `ok. 5 passed; 0 failed; 1 ignored; …`.
fn count(summary: &str, word: &str) -> usize {
    let words: Vec<&str> = summary.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
    let found = words.windows(2).find(|pair| pair[1] == word);
    found.and_then(|pair| pair[0].parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary_counts() {
        let output = "\
running 2 tests
test a::one ... ok
test a::two ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s

running 1 test
test tidy ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(parse(output), Report { passed: 3, failures: vec![] });
    }

    #[test]
    fn failures_have_names() {
        let output = "\
test a::one ... ok
test a::two ... FAILED
test three     ... FAILED
test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out
";
        assert_eq!(
            parse(output),
            Report { passed: 1, failures: vec!["a::two".into(), "three".into()] }
        );
    }

    #[test]
    fn a_failure_without_a_name_is_still_one() {
        let output = "test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(parse(output).failures.len(), 2);
    }

    #[test]
    fn no_output_counts_nothing() {
        assert_eq!(parse("error: could not compile\n"), Report::default());
    }
}
