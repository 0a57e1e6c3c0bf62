//! Reads what `cargo test` prints.
//!
//! Deliberately absent: libtest's JSON, which is not stable.

use crate::tally::Tally;

/// Adds up every `test result:` line and collects the names of the tests that failed.
///
/// A summary may count more failures than there are names (a test that ended its process); those
/// are kept as failures without a name.
pub fn tally(output: &str) -> Tally {
    let mut tally = Tally::default();
    let mut failed = 0;
    for line in output.lines() {
        if let Some(summary) = line.strip_prefix("test result: ") {
            tally.passed += count(summary, "passed");
            failed += count(summary, "failed");
        } else if let Some(name) = failed_test(line) {
            tally.failures.push(name.to_owned());
        }
    }
    let unnamed = failed.saturating_sub(tally.failures.len());
    tally.failures.extend((0..unnamed).map(|_| String::from("a test without a name in the log")));
    tally
}

/// The name in `test layers::names ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
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
        assert_eq!(tally(output), Tally { passed: 3, failures: vec![] });
    }

    #[test]
    fn failures_have_names() {
        let output = "\
test a::one ... ok
test a::two ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
";
        assert_eq!(tally(output), Tally { passed: 1, failures: vec!["a::two".into()] });
    }

    #[test]
    fn a_failure_without_a_name_is_still_one() {
        let output = "test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(tally(output).failures.len(), 2);
    }

    #[test]
    fn silence_counts_nothing() {
        assert_eq!(tally("error: could not compile\n"), Tally::default());
    }
}
