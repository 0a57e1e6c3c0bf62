//! One word for one thing: words of the glossary in CONTRIBUTING.md that are not used, checked in everything that people
//! read. Words of its last column that also have a right use ("order", "marks") are left to the reviewers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{fs, path::Path};

/// Words that are not used here, and the word to use instead. A word also counts as part of a name (`cut_layer`, `CutLayer`).
const BANNED: [(&[&str], &str); 18] = [
    (&["folder", "folders"], "directory (in names: dir)"),
    (&["told", "tell", "tells", "telling"], "report, record or log; a message says"),
    (&["answer", "answers", "answered", "answering"], "return or respond; a response or a result"),
    (&["whoever", "whomever"], "the subject itself: the user, the pod, the caller"),
    (
        &["somebody", "nobody", "everybody"],
        "the subject itself: another process, no pod, each node",
    ),
    (&["room", "rooms"], "space or reservation on a disk; module in the code"),
    (&["cut", "cuts"], "capture (the moment) or snapshot (what it leaves); truncate a text"),
    (&["standstill"], "freeze"),
    (&["nudge", "hasten"], "requeue or touch"),
    (&["leftover", "leftovers"], "orphan"),
    (&["twin", "twins"], "fake"),
    (&["dress", "dressed"], "set attributes or set metadata"),
    (&["mend", "mends", "mended"], "fix or repair"),
    (&["cure", "cures", "remedy", "remedies"], "fix or repair"),
    (&["stranger", "strangers"], "tenant or neighbour"),
    (&["weakness", "weaknesses"], "vulnerability"),
    (&["border", "borders"], "trust boundary"),
    (&["scene", "scenes", "strike"], "test case, environment, teardown"),
];

/// Phrases in which a banned word is a word of the field, or belongs to a format that is read by others.
const ALLOWED: [&str; 24] = [
    // Electricity, and what ends early.
    "power cut",
    "power_cut",
    "cut_power",
    "cut off",
    "cuts off",
    // Objects and records of an earlier version, which are still read.
    "cutTime",
    "cut_time",
    "\"Cut\"",
    "`Cut`",
    "`cut`",
    "\"cut\"",
    "ovl.csi.dev/told",
    // Names in the table of the changelog.
    "`SnapshotCut`",
    "`room`",
    "`cure`",
    // What a snapshot's key is made of.
    "ovl-csi cut ",
    // A method that the former version's benchmark has too.
    "fn cut(&self",
    ".cut(&pod)",
    // A program, and a file in the image of the tests.
    "| cut -f",
    "| cut -d",
    "demo/twin",
    "rm twin",
    "new/twin",
    "no twin",
];

/// What is searched, below the root of the repository.
const SEARCHED: [&str; 17] = [
    "src",
    "charts",
    "deploy",
    "docs",
    "e2e/src",
    "proto",
    "tests",
    ".github",
    "Dockerfile",
    "findings",
    "fuzz/fuzz_targets",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "VERSIONING.md",
];

#[test]
fn no_banned_word_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for part in SEARCHED {
        search(&root.join(part), &mut |path, text| {
            // It names them.
            if path.ends_with("tests/words.rs") {
                return;
            }
            // Its words are those of the language.
            if path.extension().is_some_and(|extension| extension == "css") {
                return;
            }
            for (number, line) in text.lines().enumerate() {
                // A page quotes names of the code, which are checked where they are defined.
                let is_page = path.extension().is_some_and(|extension| extension == "md");
                // The glossary lists them.
                if path.ends_with("CONTRIBUTING.md") && line.starts_with('|') {
                    continue;
                }
                let line = if is_page { without_names(line) } else { line.to_owned() };
                for (word, instead) in banned_in(&line) {
                    let path = path.strip_prefix(root).unwrap().display();
                    found.push(format!("{path}:{}: `{word}`: use {instead}", number + 1));
                }
            }
        });
    }
    assert!(found.is_empty(), "{} banned words:\n{}", found.len(), found.join("\n"));
}

#[test]
fn words_are_found_in_prose_and_in_names() {
    for line in ["the folder", "let cut_layer = 1;", "struct CutLayer;", "Nobody knows", "NO_ROOM"]
    {
        assert_eq!(banned_in(line).len(), 1, "{line}");
    }
    for line in ["a power cut", "a shortcut", "cutting", "bedroom", "cut off at 63 characters"] {
        assert!(banned_in(line).is_empty(), "{line}");
    }
}

/// The banned words of a line, each with the word to use instead.
fn banned_in(line: &str) -> Vec<(String, &'static str)> {
    let mut line = line.to_owned();
    for phrase in ALLOWED {
        line = line.replace(phrase, "");
    }
    let words = split(&line);
    let mut found = Vec::new();
    for word in words {
        if let Some((_, instead)) = BANNED.iter().find(|(banned, _)| banned.contains(&&*word)) {
            found.push((word, *instead));
        }
    }
    found
}

/// A line without the words that have a `_`.
fn without_names(line: &str) -> String {
    let words = line.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| !word.contains('_')).collect()
}

/// The words of a line in lower case, names taken apart at `_` and before capitals.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut last) = (Vec::new(), String::new(), ' ');
    for c in line.chars().chain([' ']) {
        let begins = c.is_uppercase() && last.is_lowercase();
        if (begins || !c.is_alphabetic()) && !word.is_empty() {
            words.push(std::mem::take(&mut word).to_lowercase());
        }
        if c.is_alphabetic() {
            word.push(c);
        }
        last = c;
    }
    words
}

fn search(path: &Path, visit: &mut dyn FnMut(&Path, &str)) {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            search(&entry, visit);
        }
    } else if let Ok(text) = fs::read_to_string(path) {
        visit(path, &text);
    }
}
