//! The messages in `docs/troubleshooting.md` are messages of the code.

use std::fs;

use super::{files, in_backticks, root};

/// A heading above messages of other programs.
const OF_OTHERS: &str = "### Messages of Kubernetes";

#[test]
fn each_message_of_the_troubleshooting_page_is_in_the_code() {
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let code = texts_of_the_code();
    let (mut missing, mut found, mut is_ours) = (Vec::new(), 0, false);
    for line in page.lines() {
        if line.starts_with('#') {
            is_ours = line != OF_OTHERS;
        }
        let Some(cell) = line.strip_prefix('|').and_then(|row| row.split(" |").next()) else {
            continue;
        };
        for message in in_backticks(cell).iter().filter(|_| is_ours) {
            found += 1;
            let parts = message.split('…').map(str::trim).filter(|part| !part.is_empty());
            let unknown: Vec<_> = parts.filter(|part| !code.contains(part)).collect();
            if !unknown.is_empty() {
                missing.push(format!("`{message}`: {unknown:?}"));
            }
        }
    }
    assert!(found > 30, "only {found} messages are found on the page");
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md has messages that are not in the code:\n{}",
        missing.join("\n")
    );
}

/// The texts of the program and of the chart. Literals on several lines are joined.
fn texts_of_the_code() -> String {
    let sources = files(&root().join("src"), "rs").into_iter();
    let chart = files(&root().join("charts/ovl-csi/templates"), "yaml");
    let mut all = String::new();
    for file in sources.chain(chart) {
        for line in fs::read_to_string(file).unwrap().lines() {
            match line.strip_suffix('\\') {
                Some(start) => all.push_str(start.trim_start()),
                None => {
                    all.push_str(line.trim_start());
                    all.push(' ');
                }
            }
        }
    }
    all
}
