//! Reads what a Ginkgo suite prints (csi-sanity is one).
//!
//! Deliberately absent: its JUnit report, for which one line would need an XML reader.

use crate::tally::Tally;

/// The counts of the line `SUCCESS! -- 9 Passed | 0 Failed | 0 Pending | 83 Skipped`, and the
/// names in the summary of failures. `None` if the suite did not get to its end.
pub fn tally(output: &str) -> Option<Tally> {
    let line = output.lines().rev().find(|line| line.contains(" Passed | "))?;
    let (_, counts) = line.split_once("-- ")?;
    let count = |word: &str| {
        let part = counts.split(" | ").find_map(|part| part.trim().strip_suffix(word))?;
        part.trim().parse::<usize>().ok()
    };
    let failed = count(" Failed")?;
    let mut failures: Vec<String> =
        output.lines().filter_map(|line| line.trim().strip_prefix("[FAIL] ")).map(name).collect();
    failures.dedup();
    // The count decides: a spec may be named while it fails and again in the summary.
    let named = failures.split_off(failures.len().saturating_sub(failed));
    let unnamed = (named.len()..failed).map(|_| String::from("a spec without a name in the log"));
    Some(Tally {
        passed: count(" Passed")?,
        failures: named.iter().cloned().chain(unnamed).collect(),
    })
}

/// The spec's own words, without marks of where in it the failure was.
fn name(line: &str) -> String {
    line.split_whitespace().filter(|word| !matches!(*word, "[It]" | "[BeforeEach]")).fold(
        String::new(),
        |mut name, word| {
            if !name.is_empty() {
                name.push(' ');
            }
            name.push_str(word);
            name
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let output = "Running Suite\nRan 9 of 92 Specs in 0.052 seconds\n\
                      SUCCESS! -- 9 Passed | 0 Failed | 0 Pending | 83 Skipped\nPASS\n";
        assert_eq!(tally(output), Some(Tally { passed: 9, failures: vec![] }));
    }

    #[test]
    fn failed_specs_have_names() {
        let output = "  [FAIL] Node Service [It] should fail when no volume id is provided\n\
                      Summarizing 1 Failure:\n\
                      \x20 [FAIL] Node Service [It] should fail when no volume id is provided\n\
                      FAIL! -- 8 Passed | 1 Failed | 0 Pending | 83 Skipped\n";
        let name = "Node Service should fail when no volume id is provided";
        assert_eq!(tally(output), Some(Tally { passed: 8, failures: vec![name.into()] }));
    }

    #[test]
    fn a_suite_that_broke_off_has_no_tally() {
        assert_eq!(tally("Running Suite\npanic: boom\n"), None);
    }
}
