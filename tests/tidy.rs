//! Checks the rules for source files: which module may import which, which module owns a crate, and how long a file may
//! be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "tidy/imports.rs"]
mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use imports::{Crate, is_child, module_of};

/// Single-file modules that import no module outside of this list, so every module may use them.
const COMMON: [&str; 16] = [
    "backoff",
    "budget",
    "digest",
    "dns_name",
    "error",
    "format",
    "http_proxy",
    "media_type",
    "metrics",
    "overlay_xattr",
    "owner",
    "quantity",
    "reference",
    "registry_name",
    "telemetry",
    "turns",
];

/// Crates with owners, and the owners. No other module may name them.
const OWNED: [(&str, &[&str]); 17] = [
    ("clap", &["cli", "kubectl"]),
    ("tonic", &["csi"]),
    ("prost", &["csi"]),
    ("tar", &["changeset"]),
    ("tar_core", &["changeset"]),
    ("flate2", &["changeset"]),
    ("zstd", &["changeset"]),
    ("redb", &["spill"]),
    ("reqwest", &["image"]),
    ("nix", &["sys"]),
    ("rustix", &["sys"]),
    ("kube", &["cluster"]),
    ("k8s_openapi", &["cluster"]),
    ("kube_lease_manager", &["cluster"]),
    ("indicatif", &["kubectl"]),
    ("rcgen", &["cli"]),
    ("bcrypt", &["cli"]),
];

/// The most lines of code in a file, without tests.
const MAX_CODE_LINES: usize = 400;

/// The most lines of an inline test module.
const MAX_INLINE_TEST_LINES: usize = 100;

#[test]
fn modules_import_only_what_they_declare() {
    let mut wrong = Vec::new();
    for (module, files) in modules().iter().chain(&harness_modules()) {
        let allowed = may_use(module, files);
        for (path, text) in files {
            for used in crate_imports(&code_of(text)) {
                let known =
                    used == *module || allowed.contains(&used) || COMMON.contains(&used.as_str());
                if !known {
                    wrong.push(format!(
                        "{}: module {module} may not use crate::{used}",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn modules_declare_only_what_they_import() {
    for (module, files) in modules().iter().chain(&harness_modules()) {
        let used: BTreeSet<_> =
            files.iter().flat_map(|(_, text)| crate_imports(&code_of(text))).collect();
        let unused: Vec<_> = may_use(module, files).difference(&used).cloned().collect();
        assert!(unused.is_empty(), "module {module} declares and does not use {unused:?}");
    }
}

#[test]
fn no_file_is_empty() {
    for (path, text) in sources(&root().join("src")) {
        assert!(words(&text).next().is_some(), "{} is empty", path.display());
    }
}

#[test]
fn modules_have_no_import_cycles() {
    for all in [modules(), harness_modules()] {
        let uses = all.iter().map(|(module, files)| (module.clone(), may_use(module, files)));
        assert_no_cycle(&uses.collect());
    }
}

/// A file's imports say what it depends on, also within a module.
#[test]
fn files_have_no_import_cycles() {
    let uses = crate_in("src", |path| !is_test_file(path)).uses();
    assert!(uses.len() > 250 && uses["csi::node"].contains("csi::request"));
    assert_no_cycle(&uses);
}

/// In the harness, a module also depends on everything below it.
#[test]
fn files_of_the_harness_have_no_import_cycles() {
    let harness = crate_in("e2e/src", |_| true);
    let mut uses = harness.uses();
    for (module, used) in &mut uses {
        used.extend(harness.modules().filter(|other| is_child(other, module)).cloned());
    }
    assert!(uses.len() > 50 && uses["env::environment"].contains("env::node"));
    assert_no_cycle(&uses);
}

/// Panics if a module uses itself through others.
fn assert_no_cycle(uses: &BTreeMap<String, BTreeSet<String>>) {
    for start in uses.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = uses[start].iter().map(|used| (used, used.clone())).collect();
        while let Some((name, path)) = next.pop() {
            assert_ne!(name, start, "a cycle: {start} -> {path}");
            if seen.insert(name) {
                let used = uses.get(name).unwrap_or_else(|| panic!("there is no {name}"));
                next.extend(used.iter().map(|used| (used, format!("{path} -> {used}"))));
            }
        }
    }
}

#[test]
fn each_owned_crate_is_named_only_by_its_owners() {
    let mut wrong = Vec::new();
    for (module, files) in &modules() {
        for (path, text) in files {
            let code = code_of(text);
            for (name, owners) in OWNED {
                if !owners.contains(&module.as_str()) && names_crate(&code, name) {
                    wrong.push(format!("{}: {name} belongs to {owners:?}", path.display()));
                }
            }
            if module != "sys" && words(&code).any(|word| word == "unsafe") {
                wrong.push(format!("{}: unsafe belongs to sys", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_small() {
    let mut wrong = Vec::new();
    for (path, text) in
        sources(&root().join("src")).into_iter().chain(sources(&root().join("e2e/src")))
    {
        let (total, code) = (text.lines().count(), code_of(&text).lines().count());
        if code > MAX_CODE_LINES && !is_test_file(&path) {
            wrong.push(format!(
                "{}: {code} lines of code, at most {MAX_CODE_LINES}",
                path.display()
            ));
        }
        if total - code > MAX_INLINE_TEST_LINES {
            let long = total - code;
            wrong.push(format!("{}: {long} lines of tests; move them to a file", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Long tests start only by name, with `cargo xtask soak`.
#[test]
fn long_tests_are_ignored_and_not_privileged() {
    let mut found = 0;
    for (path, text) in
        sources(&root().join("src")).into_iter().chain(sources(&root().join("tests")))
    {
        let lines: Vec<_> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let words: Vec<_> = line.split_whitespace().collect();
            let is_long = |pair: &[&str]| pair[0] == "fn" && pair[1].starts_with("soak_");
            if !words.windows(2).any(is_long) {
                continue;
            }
            found += 1;
            let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
            let is_ignored = attributes.into_iter().any(|line| line.starts_with("#[ignore"));
            assert!(
                is_ignored,
                "{}: a test that takes long is not ignored: {line}",
                path.display()
            );
            assert!(!line.contains("privileged_"), "{}: {line}", path.display());
        }
    }
    assert!(found > 0);
}

#[test]
fn lib_rs_and_architecture_md_name_every_module() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for module in modules().keys() {
        let named = |text: &str| words(text).any(|word| word == module);
        assert!(
            lib.lines().any(|l| l.starts_with("//!") && named(l)),
            "lib.rs does not name {module}"
        );
        assert!(named(&architecture), "ARCHITECTURE.md does not name {module}");
    }
}

#[test]
fn imports_are_found_in_all_forms() {
    let code = "use crate::{a::B, c, d::{e, f}};\nuse crate::g::H;\nfn x() { crate::i::j() }";
    let found = crate_imports(code);
    assert_eq!(found, ["a", "c", "d", "g", "i"].map(str::to_owned).into());
    for naming in [
        "use tar::Archive;",
        "use tar;",
        "    pub use tar as t;",
        "use ::tar;",
        "use {std::io, tar};",
        "use {\n    std::io,\n    tar,\n};",
        "extern crate tar;",
        "fn f(a: ::tar::Archive) {}",
        "let a = tar::Archive::new();",
    ] {
        assert!(names_crate(naming, "tar"), "{naming}");
    }
    for other in [
        "let star::x; my_tar::y; a.tar()",
        "use super::tar;",
        "use crate::{tar, b};",
        "use star;",
        "other::tar::x()",
        "<T>::tar::x()",
        "// use tar;",
    ] {
        assert!(!names_crate(other, "tar"), "{other}");
    }
}

/// A file uses the file that defines an item, also through a re-export.
#[test]
fn a_re_export_hides_no_use() {
    let files = [
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod c; mod d;\n#[cfg(test)]\nmod t;\npub use c::{C, f as g};\nuse d::D;"),
        (
            "a/c.rs",
            "use super::{D, d::{self, E as F}};\nfn f(x: &'static str) { \"b::B \\\" // x\"; d::f('\\'', 'b') }",
        ),
        ("a/d.rs", "use crate::{a::C, b};\n// crate::a::g\nfn f() { b::Via::new() }"),
        ("a/t.rs", "use super::g;"),
        (
            "b.rs",
            "pub use crate::a::g as Via;\npub struct B;\n#[cfg(test)]\nfn t() { crate::a::C; }\n",
        ),
    ];
    let uses = Crate::new(files.map(|(path, text)| (Path::new(path), text))).uses();
    let of = |module: &str| uses[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(uses.keys().collect::<Vec<_>>(), ["", "a", "a::c", "a::d", "b"]);
    assert_eq!(of("a"), ["a::d"], "its private import; `C` is only passed on");
    assert_eq!(of("a::c"), ["a::d"], "through `a`, and by path");
    assert_eq!(of("a::d"), ["a::c"], "through `a`, and through `b`");
    assert_eq!(of("b"), [""; 0], "it only passes `f` on");
    assert_eq!(module_of(Path::new("a/b/mod.rs")), module_of(Path::new("a/b.rs")));
    assert!(is_child("a", "") && is_child("a::b", "a") && !is_child("a::b", ""));
}

#[test]
fn the_removal_of_inline_tests_keeps_the_code_after_them() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\nuse crate::b;\n";
    assert_eq!(code_of(code), "fn a() {}\nuse crate::b;\n");
    let last = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
    assert_eq!(code_of(last), "fn a() {}\n");
}

type Files = Vec<(PathBuf, String)>;

/// The modules of `src/`: a directory, or a single file that is not in [`COMMON`].
fn modules() -> BTreeMap<String, Files> {
    modules_in("src")
}

/// The modules of the harness: the directories and files in `e2e/src/`.
fn harness_modules() -> BTreeMap<String, Files> {
    modules_in("e2e/src")
}

/// The files below `top` for which `is_wanted` is true, as a crate.
fn crate_in(top: &str, is_wanted: impl Fn(&Path) -> bool) -> Crate {
    let top = root().join(top);
    let files = sources(&top);
    let files = files.iter().filter(|(path, _)| is_wanted(path));
    Crate::new(files.map(|(path, text)| (path.strip_prefix(&top).unwrap(), text.as_str())))
}

fn modules_in(top: &str) -> BTreeMap<String, Files> {
    let mut modules: BTreeMap<String, Files> = BTreeMap::new();
    for (path, text) in sources(&root().join(top)) {
        let inner = path.strip_prefix(root().join(top)).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        // `bin` has programs like `main.rs`: arguments in, exit code out.
        let is_program = ["lib", "main", "bin"].contains(&module);
        if is_program || COMMON.contains(&module) || is_test_file(&path) {
            continue;
        }
        modules.entry(module.to_owned()).or_default().push((path.clone(), text));
    }
    assert!(modules.len() > 5, "the modules were not found");
    modules
}

/// The modules in the line `May use:` of a module.
fn may_use(module: &str, files: &Files) -> BTreeSet<String> {
    let declared: Vec<_> = files
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.strip_prefix("//! May use: "))
        .collect();
    let [line] = declared[..] else {
        panic!("module {module} declares `May use:` {} times", declared.len())
    };
    line.split(", ").filter(|used| *used != "nothing").map(str::to_owned).collect()
}

fn sources(dir: &Path) -> Files {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found.sort();
    found
}

/// Whether a whole file is compiled only for tests, by its name.
fn is_test_file(path: &Path) -> bool {
    let named = |part: &str| {
        ["tests", "testing", "fake", "fuzzing"].contains(&part) || part.ends_with("_tests")
    };
    path.components().any(|c| named(c.as_os_str().to_str().unwrap().trim_end_matches(".rs")))
}

/// A file's text without its inline test modules.
fn code_of(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some((before, module)) = rest.split_once("#[cfg(test)]\nmod tests {\n") {
        code.push_str(before);
        // In the format of rustfmt, the closing brace of the module is the first at the start of a line.
        rest = module.split_once("\n}\n").map_or("", |(_, after)| after);
    }
    code + rest
}

/// The first names after `crate::`, in paths and in groups. Comments and docs do not count.
fn crate_imports(code: &str) -> BTreeSet<String> {
    let code: String =
        code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.extend(words(rest).next().map(str::to_owned)),
        }
    }
    names
}

/// The names at the top level of a `{…}` group whose opening brace is already read.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut head, mut heads) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut head)),
            _ if depth == 0 => head.push(c),
            _ => {}
        }
    }
    heads.push(head);
    heads.iter().filter_map(|h| words(h).next().map(str::to_owned)).collect()
}

/// Whether code names a crate: in a path that begins with it, or in an import of the crate itself (`use tar;`).
fn names_crate(code: &str, name: &str) -> bool {
    let code: String =
        code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let path = code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = &code[..at];
        match before.strip_suffix("::") {
            // `::tar::Archive` begins with the crate, `other::tar::Archive` and `<T>::tar::X` do not.
            Some(before) => !before.ends_with(|c: char| in_word(c) || c == '>'),
            None => !before.ends_with(in_word),
        }
    });
    path || imports(&code).any(|heads| heads.iter().any(|head| head == name))
}

/// The first names of each `use` and `extern crate`.
fn imports(code: &str) -> impl Iterator<Item = Vec<String>> {
    let mut next = 0;
    code.split_inclusive('\n').filter_map(move |line| {
        let start = next;
        next += line.len();
        let at = ["use ", "extern crate "].into_iter().find_map(|keyword| {
            let at = line.find(keyword)?;
            let before = line[..at].trim();
            (before.is_empty() || before.starts_with("pub")).then_some(at + keyword.len())
        })?;
        let tree = code[start + at..].split(';').next()?.trim_start_matches("::");
        Some(match tree.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => words(tree).next().map(str::to_owned).into_iter().collect(),
        })
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
