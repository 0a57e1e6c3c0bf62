//! The law of the house, held by a test: who may import whom, who owns which crate, how long a file may be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Files of the ground that know no room, so every room may use them.
const GROUND: [&str; 7] = ["budget", "digest", "error", "format", "metrics", "telemetry", "turns"];

/// Crates with one owner: nobody else names them.
const OWNED: [(&str, &str); 16] = [
    ("clap", "cli"),
    ("tonic", "csi"),
    ("prost", "csi"),
    ("tar", "changeset"),
    ("flate2", "changeset"),
    ("zstd", "changeset"),
    ("redb", "spill"),
    ("reqwest", "image"),
    ("nix", "sys"),
    ("rustix", "sys"),
    ("kube", "cluster"),
    ("k8s_openapi", "cluster"),
    ("kube_lease_manager", "cluster"),
    ("indicatif", "cli"),
    ("rcgen", "cli"),
    ("bcrypt", "cli"),
];

/// Lines of code a file may have, tests apart.
const LONGEST: usize = 400;

/// Lines a test module may have beside the code it tests.
const LONGEST_INLINE_TESTS: usize = 100;

#[test]
fn rooms_import_only_what_they_declare() {
    let mut wrong = Vec::new();
    for (room, files) in rooms().iter().chain(&harness()) {
        let allowed = may_use(room, files);
        for (path, text) in files {
            for used in crate_imports(&code_of(text)) {
                let known =
                    used == *room || allowed.contains(&used) || GROUND.contains(&used.as_str());
                if !known {
                    wrong
                        .push(format!("{}: room {room} may not use crate::{used}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn rooms_declare_only_what_they_import() {
    for (room, files) in rooms().iter().chain(&harness()) {
        let used: BTreeSet<_> =
            files.iter().flat_map(|(_, text)| crate_imports(&code_of(text))).collect();
        let unused: Vec<_> = may_use(room, files).difference(&used).cloned().collect();
        assert!(unused.is_empty(), "room {room} declares and does not use {unused:?}");
    }
}

#[test]
fn no_file_is_empty() {
    for (path, text) in sources(&root().join("src")) {
        assert!(words(&text).next().is_some(), "{} says nothing", path.display());
    }
}

#[test]
fn no_room_reaches_itself() {
    for rooms in [rooms(), harness()] {
        let uses = rooms.iter().map(|(room, files)| (room.clone(), may_use(room, files)));
        no_cycle(&uses.collect());
    }
}

/// The harness has no import cycles between files, either.
#[test]
fn no_file_of_the_harness_imports_itself() {
    let root = root().join("e2e/src");
    let files: BTreeMap<_, _> = sources(&root)
        .into_iter()
        .map(|(path, text)| (module_of(path.strip_prefix(&root).unwrap()), code_of(&text)))
        .collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in &files {
        // A module can use everything below it.
        let mut used: BTreeSet<_> = files.keys().filter(|other| is_child(other, module)).collect();
        for path in paths(code, module) {
            let known = prefixes(&path).find_map(|prefix| files.get_key_value(prefix));
            used.extend(known.map(|(known, _)| known));
        }
        used.remove(module);
        uses.insert(module.clone(), used.into_iter().cloned().collect());
    }
    assert!(uses.len() > 50 && uses["env::environment"].contains("env::node"));
    no_cycle(&uses);
}

/// Panics if a name reaches itself.
fn no_cycle(uses: &BTreeMap<String, BTreeSet<String>>) {
    for start in uses.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = uses[start].iter().map(|used| (used, used.clone())).collect();
        while let Some((name, way)) = next.pop() {
            assert_ne!(name, start, "a cycle: {start} -> {way}");
            if seen.insert(name) {
                let used = uses.get(name).unwrap_or_else(|| panic!("there is no {name}"));
                next.extend(used.iter().map(|used| (used, format!("{way} -> {used}"))));
            }
        }
    }
}

#[test]
fn each_crate_has_its_owner() {
    let mut wrong = Vec::new();
    for (room, files) in &rooms() {
        for (path, text) in files {
            let code = code_of(text);
            for (name, owner) in OWNED {
                if room != owner && names_crate(&code, name) {
                    wrong.push(format!("{}: {name} belongs to {owner}", path.display()));
                }
            }
            if room != "sys" && words(&code).any(|word| word == "unsafe") {
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
        if code > LONGEST && !is_test_file(&path) {
            wrong.push(format!("{}: {code} lines of code, at most {LONGEST}", path.display()));
        }
        if total - code > LONGEST_INLINE_TESTS {
            let long = total - code;
            wrong.push(format!("{}: {long} lines of tests; move them to a file", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What is long by nature is asked for by its name: `cargo xtask soak`.
#[test]
fn no_long_test_is_among_the_others() {
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
fn the_map_names_every_room() {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for room in rooms().keys() {
        let named = |text: &str| words(text).any(|word| word == room);
        assert!(
            map.lines().any(|l| l.starts_with("//!") && named(l)),
            "lib.rs does not map {room}"
        );
        assert!(named(&architecture), "ARCHITECTURE.md does not name {room}");
    }
}

#[test]
fn the_test_of_imports_sees_them() {
    let code = "use crate::{a::B, c, d::{e, f}};\nuse crate::g::H;\nfn x() { crate::i::j() }";
    let seen = crate_imports(code);
    assert_eq!(seen, ["a", "c", "d", "g", "i"].map(str::to_owned).into());
    let seen = paths(&format!("{code}\nuse super::{{self, k::{{self, l}}}};"), "m::n");
    assert_eq!(seen, ["a::B", "c", "d::e", "d::f", "g::H", "i::j", "m", "m::k", "m::k::l"]);
    assert_eq!(prefixes("a::b").collect::<Vec<_>>(), ["a::b", "a", ""]);
    assert_eq!(module_of(Path::new("a/b/mod.rs")), module_of(Path::new("a/b.rs")));
    assert!(is_child("a", "") && is_child("a::b", "a") && !is_child("a::b", ""));
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

#[test]
fn the_cut_of_tests_leaves_what_follows_them() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\nuse crate::b;\n";
    assert_eq!(code_of(code), "fn a() {}\nuse crate::b;\n");
    let last = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
    assert_eq!(code_of(last), "fn a() {}\n");
}

type Files = Vec<(PathBuf, String)>;

/// Every room of `src/`: a directory, or a file of its own that is not ground.
fn rooms() -> BTreeMap<String, Files> {
    rooms_in("src")
}

/// The same of the harness: the directories of `e2e/src/`, and the files beside them.
fn harness() -> BTreeMap<String, Files> {
    rooms_in("e2e/src")
}

fn rooms_in(top: &str) -> BTreeMap<String, Files> {
    let mut rooms: BTreeMap<String, Files> = BTreeMap::new();
    for (path, text) in sources(&root().join(top)) {
        let inner = path.strip_prefix(root().join(top)).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        // `bin` holds programs as `main.rs` is one: arguments in, exit code out.
        if ["lib", "main", "bin"].contains(&room) || GROUND.contains(&room) || is_test_file(&path) {
            continue;
        }
        rooms.entry(room.to_owned()).or_default().push((path.clone(), text));
    }
    assert!(rooms.len() > 5, "the rooms were not found");
    rooms
}

fn may_use(room: &str, files: &Files) -> BTreeSet<String> {
    let declared: Vec<_> = files
        .iter()
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.strip_prefix("//! May use: "))
        .collect();
    let [line] = declared[..] else {
        panic!("room {room} declares `May use:` {} times", declared.len())
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

/// Whether a whole file is compiled for tests alone, by its name.
fn is_test_file(path: &Path) -> bool {
    let named =
        |part: &str| ["tests", "testing", "fake"].contains(&part) || part.ends_with("_tests");
    path.components().any(|c| named(c.as_os_str().to_str().unwrap().trim_end_matches(".rs")))
}

/// A file's text without its inline test modules, wherever they stand.
fn code_of(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some((before, module)) = rest.split_once("#[cfg(test)]\nmod tests {\n") {
        code.push_str(before);
        // As rustfmt leaves it: the module's own brace is the first at the line's start.
        rest = module.split_once("\n}\n").map_or("", |(_, after)| after);
    }
    code + rest
}

/// The first names behind `crate::`, in paths and in groups; comments and docs do not count.
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

/// A file's module, as in paths: `a::b` of `a/b.rs` and of `a/b/mod.rs`; nothing of `main.rs`.
fn module_of(file: &Path) -> String {
    let names = file.with_extension("");
    let names = names.iter().map(|name| name.to_str().unwrap());
    names.filter(|name| !["mod", "main"].contains(name)).collect::<Vec<_>>().join("::")
}

fn is_child(module: &str, parent: &str) -> bool {
    let name = match parent {
        "" => Some(module),
        parent => module.strip_prefix(parent).and_then(|rest| rest.strip_prefix("::")),
    };
    name.is_some_and(|name| !name.is_empty() && !name.contains("::"))
}

/// A path and all its beginnings, the longest first; the last is the crate's own root.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices("::").map(|(at, _)| at).collect::<Vec<_>>();
    std::iter::once(path).chain(ends.into_iter().rev().map(|end| &path[..end])).chain([""])
}

/// All paths from `crate::` and `super::` in the code of a module, groups expanded.
fn paths(code: &str, module: &str) -> Vec<String> {
    let code: String =
        code.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = Vec::new();
    for (start, from) in [("crate::", ""), ("super::", parent)] {
        for (at, _) in code.match_indices(start) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                expand_use(&code[at + start.len()..], from, &mut found);
            }
        }
    }
    found
}

/// Adds each path of the tree that the code begins with, below this one.
fn expand_use(code: &str, below: &str, found: &mut Vec<String>) {
    if let Some(group) = code.strip_prefix('{') {
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                ',' if depth == 0 => {
                    expand_use(group[start..at].trim_start(), below, found);
                    start = at + 1;
                }
                '}' if depth == 0 => {
                    return expand_use(group[start..at].trim_start(), below, found);
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let (name, rest) = code.split_at(end);
    let path = match (below, name) {
        (below, "" | "self") => below.to_owned(),
        ("", name) => name.to_owned(),
        (below, name) => format!("{below}::{name}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) => expand_use(rest, &path, found),
        None => found.push(path),
    }
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

/// Whether code names a crate: in a path that begins with it, or imported whole (`use tar;`).
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
