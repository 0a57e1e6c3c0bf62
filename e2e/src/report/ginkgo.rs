//! Parses the output of a Ginkgo suite, such as csi-sanity.
//!
//! Deliberately absent: its JUnit report, which needs an XML parser.

use super::results::Report;

/// Parses the counts of the line `SUCCESS! -- 9 Passed | 0 Failed | 0 Pending | 83 Skipped`, and
/// the names in the summary of failures. `None` if the suite did not finish.
pub fn parse(output: &str) -> Option<Report> {
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
    // The count decides: a spec may be named when it fails and again in the summary.
    let named = failures.split_off(failures.len().saturating_sub(failed));
    let unnamed = (named.len()..failed).map(|_| String::from("a spec without a name in the log"));
    Some(Report {
        passed: count(" Passed")?,
        failures: named.iter().cloned().chain(unnamed).collect(),
    })
}

/// The name of a spec, without markers of where in it the failure was.
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
        assert_eq!(parse(output), Some(Report { passed: 9, failures: vec![] }));
    }

    #[test]
    fn failed_specs_have_names() {
        let output = "  [FAIL] Node Service [It] should fail when no volume id is provided\n\
                      Summarizing 1 Failure:\n\
                      \x20 [FAIL] Node Service [It] should fail when no volume id is provided\n\
                      FAIL! -- 8 Passed | 1 Failed | 0 Pending | 83 Skipped\n";
        let name = "Node Service should fail when no volume id is provided";
        assert_eq!(parse(output), Some(Report { passed: 8, failures: vec![name.into()] }));
    }

    #[test]
    fn a_suite_that_stopped_early_has_no_report() {
        assert_eq!(parse("Running Suite\npanic: boom\n"), None);
    }
}
