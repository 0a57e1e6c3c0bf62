//! The pages against the code: every reason of an Event and every volume attribute is described, pages that are written
//! from the code are current, and every link and every name of a source file, a test or a case leads to something that
//! exists.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[allow(dead_code, reason = "the harness runs the commands of the blocks")]
#[path = "../e2e/src/pages/blocks.rs"]
mod blocks;
#[path = "pages/generated.rs"]
mod generated;
#[path = "pages/messages.rs"]
mod messages;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use blocks::Usage;

/// The modules that emit Events and set conditions.
const EMITTERS: [&str; 3] = ["src/agent", "src/controller", "src/volumes"];

/// Reasons that these modules take from the API types, as names of phases and conditions.
const API_TYPES: (&str, [&str; 3]) =
    ("src/cluster/overlay_snapshot.rs", ["Captured", "Deleting", "NotInRegistry"]);

/// Words in CamelCase in their code that are no reasons: kinds, policies and states of Kubernetes, a type of a
/// condition, a phase of a VolumeSnapshot.
const NO_REASONS: [&str; 9] = [
    "Delete",
    "Retain",
    "True",
    "False",
    "Pending",
    "Ready",
    "OverlaySnapshot",
    "VolumeSnapshot",
    "VolumeSnapshotContent",
];

/// A value in records of an earlier version.
const OLD_VALUE: &str = "Off";

#[test]
fn the_page_of_events_has_exactly_the_reasons_of_the_code() {
    let page = fs::read_to_string(root().join("docs/events.md")).unwrap();
    let documented: BTreeSet<_> = page.lines().flat_map(reasons_of_row).collect();
    let mut used = BTreeSet::new();
    for module in EMITTERS {
        for file in files(&root().join(module), "rs") {
            let text = fs::read_to_string(&file).unwrap();
            used.extend(camel_case_literals(product_code(&text)));
        }
    }
    let (file, reasons) = API_TYPES;
    let text = fs::read_to_string(root().join(file)).unwrap();
    let known = camel_case_literals(product_code(&text));
    used.extend(reasons.map(str::to_owned).into_iter().filter(|reason| known.contains(reason)));
    for word in NO_REASONS.iter().chain([&OLD_VALUE]) {
        assert!(used.remove(*word), "{word} is not in the code any more: remove it here");
    }
    assert!(used.len() > 30, "only {used:?} are found in the code");
    let missing: Vec<_> = used.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/events.md does not describe {missing:?}");
    let unused: Vec<_> = documented.difference(&used).collect();
    assert!(unused.is_empty(), "docs/events.md describes {unused:?}, which the code does not use");
}

/// The reasons in a row of a table: in its first cell, or in the second one if the first is the type of a condition.
fn reasons_of_row(line: &str) -> Vec<String> {
    let cells: Vec<_> = line.strip_prefix('|').unwrap_or_default().split('|').collect();
    let quoted = cells.iter().take(2).rfind(|cell| cell.trim().starts_with('`'));
    quoted.map_or_else(Vec::new, |cell| in_backticks(cell))
}

fn in_backticks(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The code without the tests at the end of a file.
fn product_code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// The string literals that are one word in CamelCase.
fn camel_case_literals(code: &str) -> Vec<String> {
    let is_code =
        |line: &&str| !["//", "#["].iter().any(|start| line.trim_start().starts_with(start));
    let code = code.lines().filter(is_code);
    let literals = code.flat_map(|line| line.split('"').skip(1).step_by(2));
    let is_word = |word: &&str| {
        word.len() > 2
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.contains(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_alphabetic())
    };
    literals.filter(is_word).map(str::to_owned).collect()
}

#[test]
fn the_readme_describes_exactly_the_volume_attributes_of_the_code() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Volume attributes\n").unwrap();
    let (table, _) = section.split_once("\n\nWithout `image`").unwrap();
    let first_cells = table.lines().filter_map(|line| line.split('|').nth(1));
    let documented: BTreeSet<_> = first_cells.flat_map(in_backticks).collect();
    let sources = files(&root().join("src/csi/request"), "rs");
    let sources = sources.iter().map(|file| fs::read_to_string(file).unwrap());
    let code: String = sources.collect();
    let (_, list) = code.split_once("const KEYS: [&str;").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let keys: BTreeSet<_> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(keys.len() > 10, "only {keys:?} are found in the code");
    assert_eq!(documented, keys);
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in links(&text) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let has_anchor = || {
                let text = fs::read_to_string(&to).unwrap_or_default();
                headings(&text).any(|heading| slug(heading) == anchor)
            };
            if !to.exists() || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{}: {target}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// The pages at the root with commands for users. The harness runs those of the README and of `docs/`.
const WITH_COMMANDS: [&str; 2] = ["README.md", "VERSIONING.md"];

#[test]
fn every_block_is_run_by_the_tests_or_says_why_not() {
    let pages = WITH_COMMANDS.map(|page| root().join(page));
    let pages = pages.into_iter().chain(files(&root().join("docs"), "md"));
    let (mut wrong, mut run) = (Vec::new(), 0);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks::blocks(&text).iter().filter(|block| block.language != "text") {
            let can_run = match (&block.usage, block.language.as_str()) {
                (Usage::NotRun(reason), _) => !reason.is_empty(),
                (Usage::Run, "console" | "yaml") | (Usage::File(_), "yaml") => true,
                _ => false,
            };
            run += usize::from(block.usage == Usage::Run);
            if !can_run {
                let page = page.strip_prefix(root()).unwrap().display();
                wrong.push(format!("{page}:{}: {:?}", block.line, block.usage));
            }
        }
    }
    assert!(run > 10, "only {run} blocks are run");
    assert!(
        wrong.is_empty(),
        "write `<!-- run -->` or `<!-- not run: REASON -->` on the line above these blocks \
         (e2e/src/pages/blocks.rs):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_book_has_every_page_of_docs() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let overview = fs::read_to_string(root().join("docs/README.md")).unwrap();
    let (summary, overview) = (links(&summary), links(&overview));
    for page in files(&root().join("docs"), "md") {
        let name = page.file_name().unwrap().to_str().unwrap();
        if !["README.md", "SUMMARY.md"].contains(&name) {
            assert!(summary.iter().any(|link| link == name), "{name} is not in docs/SUMMARY.md");
            assert!(overview.iter().any(|link| link == name), "{name} is not in docs/README.md");
        }
    }
}

#[test]
fn every_source_file_that_the_architecture_names_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let is_file = |name: &String| name.ends_with(".rs") && !name.contains('*');
    let named: BTreeSet<_> = in_backticks(&text).into_iter().filter(is_file).collect();
    assert!(named.len() > 50, "only {named:?} are found");
    let is_there =
        |name: &&String| ["src", ""].iter().any(|dir| root().join(dir).join(name).exists());
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}, which do not exist");
}

#[test]
fn every_source_file_that_a_header_names_exists() {
    let (mut names, mut missing) = (0, Vec::new());
    for tree in ["src", "e2e/src"].map(|tree| root().join(tree)) {
        for file in all_files(&tree) {
            let text = fs::read_to_string(&file).unwrap();
            let header = text.lines().filter(|line| line.starts_with("//!"));
            let named = header.flat_map(in_backticks).filter(|name| name.ends_with(".rs"));
            for name in named {
                names += 1;
                let children = file.with_extension("");
                let mut dirs = children.ancestors().take_while(|dir| dir.starts_with(root()));
                if !dirs.any(|dir| dir.join(&name).exists() || dir.join("src").join(&name).exists())
                {
                    missing.push(format!("{}: {name}", file.display()));
                }
            }
        }
    }
    assert!(names > 30, "only {names} names are found");
    assert!(missing.is_empty(), "headers name files that do not exist:\n{}", missing.join("\n"));
}

/// A row whose test has another name by now defends nothing that a reader can find.
#[test]
fn every_test_case_and_row_of_a_benchmark_that_the_hazards_name_exists() {
    let page = fs::read_to_string(root().join("docs/hazards.md")).unwrap();
    let text = |dirs: &[&str]| {
        let files = dirs.iter().flat_map(|dir| all_files(&root().join(dir)));
        files.map(|file| fs::read_to_string(file).unwrap()).collect::<String>()
    };
    let (code, cases) = (text(&["src", "tests", "e2e/src"]), text(&["e2e/src/cases"]));
    let benchmarks = fs::read_to_string(root().join("docs/benchmarks.md")).unwrap();
    let is_row = |line: &&str| line.starts_with("| ") && line[2..].starts_with(char::is_numeric);
    let (mut names, mut missing) = (0, Vec::new());
    for row in page.lines().filter(is_row) {
        let Some(tests) = row.split(" | ").nth(3) else { panic!("a row without tests: {row}") };
        for name in in_backticks(tests) {
            names += 1;
            let exists = match name.rsplit_once("::") {
                Some((_, module)) => code.contains(&format!("mod {module};")),
                None => code.contains(&format!("fn {name}(")),
            };
            if !exists {
                missing.push(name);
            }
        }
        let mut before = "";
        for (n, part) in tests.split('"').enumerate() {
            if n % 2 == 0 {
                before = part;
                continue;
            }
            names += 1;
            let exists = match before.ends_with("bench (") {
                true => benchmarks.contains(&format!("| {part} |")),
                false => cases.contains(&format!("what: \"{part}\"")),
            };
            if !exists {
                missing.push(part.to_owned());
            }
        }
    }
    assert!(names > 150, "only {names} names are found");
    assert!(missing.is_empty(), "docs/hazards.md names {missing:?}, which do not exist");
}

#[test]
fn anchors_are_made_as_github_makes_them() {
    assert_eq!(slug("Bird's-eye view"), "birds-eye-view");
    assert_eq!(slug("Limits: `size` and `inodes`"), "limits-size-and-inodes");
    assert_eq!(
        links("[a](b.md#c), `[no](code)` and\n```\n[no](code)\n```\n[d](#e)"),
        ["b.md#c", "#e"]
    );
}

/// The pages at the root and in `docs/`.
fn pages() -> Vec<PathBuf> {
    let at_root = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let at_root = at_root.filter(|path| path.extension().is_some_and(|e| e == "md"));
    at_root.chain(files(&root().join("docs"), "md")).collect()
}

/// The targets of the links to files of this repository and to headings.
fn links(text: &str) -> Vec<String> {
    let prose = outside_of_code(text).collect::<Vec<_>>().join("\n");
    let without_quotes: String = prose.split('`').step_by(2).collect();
    let targets = without_quotes.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

fn headings(text: &str) -> impl Iterator<Item = &str> {
    let headings = outside_of_code(text).filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim())
}

fn outside_of_code(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

fn slug(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The source files below a directory.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The files below a directory with this extension, without tests, fakes and fuzz targets.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_test = name == "tests" || name.ends_with("_tests") || name.starts_with("fake");
        if is_test || matches!(&*name, "testing" | "fuzzing") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
