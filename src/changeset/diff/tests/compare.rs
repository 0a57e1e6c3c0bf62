//! Stacks are compared: plain directories, and real overlays against a comparison of all their files.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink},
    },
    path::Path,
    process::Command,
    slice::from_ref,
    sync::Arc,
};

use super::overlays::{image, work};
use super::volumes::{Layer, Volumes, shell};
use super::*;
use crate::{
    budget::Budget,
    sys::{
        test_dir::TestDir,
        tree_reader::{Entry, EntryType},
    },
};

/// A difference as one line.
fn line(difference: Difference) -> String {
    let Difference { path, change, properties, .. } = difference;
    let letter = match change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Removed => 'D',
    };
    let properties = properties.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>();
    let path = path.escape_ascii();
    format!("{letter} /{path} {}", properties.join("+")).trim_end().to_owned()
}

fn compared(first: &Detached, second: &Detached, layers: &[&Detached]) -> Vec<String> {
    let layers = layers.iter().map(|layer| Entry::root(layer).unwrap()).collect();
    let comparison = Comparison { first, second, layers, hides_all: false, times: false };
    let mut found = Vec::new();
    compare(comparison, &Limits::default(), &|| false, &mut |one| found.push(line(one))).unwrap();
    found
}

/// The differences between two stacks, by the names of their differing layers.
pub(super) fn lines(volumes: &Volumes, first: &[Layer], second: &[Layer]) -> Vec<String> {
    let pairs = first.iter().zip(second);
    let common = pairs.take_while(|(one, other)| Arc::ptr_eq(one, other)).count();
    let layers: Vec<&Detached> =
        first[common..].iter().chain(&second[common..]).map(|layer| &**layer).collect();
    compared(&volumes.view(first), &volumes.view(second), &layers)
}

/// What a full walk sees at a path.
#[derive(Debug, PartialEq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
}

fn seen(tree: &Detached) -> BTreeMap<String, Seen> {
    let mut all = BTreeMap::new();
    walk(&tree.path().join("."), &Entry::root(tree).unwrap(), "/", &mut all);
    all
}

fn walk(path: &Path, entry: &Entry, name: &str, all: &mut BTreeMap<String, Seen>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let content = if kind.is_file() {
        fs::read(path).unwrap()
    } else if kind.is_symlink() {
        fs::read_link(path).unwrap().into_os_string().as_bytes().to_vec()
    } else if kind.is_char_device() || kind.is_block_device() {
        metadata.rdev().to_string().into_bytes()
    } else {
        Vec::new()
    };
    let mut xattrs = entry.xattrs().unwrap();
    xattrs.sort_unstable();
    let found = Seen {
        kind: format!("{kind:?}"),
        mode: if kind.is_symlink() { 0 } else { metadata.mode() & 0o7777 },
        owner: (metadata.uid(), metadata.gid()),
        xattrs,
        content,
    };
    all.insert(name.to_owned(), found);
    if kind.is_dir() {
        for child in fs::read_dir(path).unwrap() {
            let child = child.unwrap().file_name();
            let inside = entry.entry(child.as_bytes()).unwrap().unwrap();
            let name =
                format!("{}/{}", name.trim_end_matches('/'), child.as_bytes().escape_ascii());
            walk(&path.join(&child), &inside, &name, all);
        }
    }
}

/// The differences between all files of two trees.
fn full(first: &Detached, second: &Detached) -> Vec<String> {
    let (first, second) = (seen(first), seen(second));
    let is_dir = |of: &BTreeMap<String, Seen>, path: &str| {
        of.get(path).is_some_and(|found| found.kind.contains("is_dir: true"))
    };
    let mut lines = Vec::new();
    for path in first.keys().filter(|path| !second.contains_key(*path)) {
        // What was in a directory that is no directory any more is not listed.
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = if parent.is_empty() { "/" } else { parent };
        if is_dir(&second, parent) {
            lines.push(format!("D {path}"));
        }
    }
    for (path, after) in &second {
        let Some(before) = first.get(path) else {
            lines.push(format!("A {path}"));
            continue;
        };
        let same_kind = before.kind == after.kind;
        let is_file = same_kind && after.kind.contains("is_file: true");
        let is_link = |one: &Seen| one.kind.contains("is_symlink: true");
        let differs = before.content != after.content;
        let content = if is_link(after) { "Target" } else { "Content" };
        let found = [
            ("Type", !same_kind),
            ("Size", is_file && before.content.len() != after.content.len()),
            (if is_file || is_link(after) { content } else { "Device" }, same_kind && differs),
            ("Mode", before.mode != after.mode && !is_link(before) && !is_link(after)),
            ("Owner", before.owner != after.owner),
            ("Xattrs", before.xattrs != after.xattrs),
        ];
        let found: Vec<_> = found.into_iter().filter_map(|(word, is)| is.then_some(word)).collect();
        if !found.is_empty() {
            lines.push(format!("C {path} {}", found.join("+")));
        }
    }
    lines.sort();
    lines
}

/// Asserts that the names of the differing layers lead to every difference, and to no other.
pub(super) fn assert_complete(volumes: &Volumes, first: &[Layer], second: &[Layer]) {
    let mut found = lines(volumes, first, second);
    found.sort();
    assert_eq!(found, full(&volumes.view(first), &volumes.view(second)));
}

#[test]
fn each_property_that_differs_is_named() {
    let scratch = TestDir::new();
    let [one, other] = ["one", "other"].map(|name| scratch.dir(name));
    for dir in [&one, &other] {
        for name in ["same", "content", "size", "mode", "xattr", "type", "gone"] {
            fs::write(dir.join(name), name).unwrap();
        }
        for name in ["d", "d/deep", "e"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        fs::write(dir.join("d/deep/file"), "").unwrap();
        symlink("a", dir.join("link")).unwrap();
    }
    fs::write(other.join("content"), "CONTENT").unwrap();
    fs::write(other.join("size"), "longer").unwrap();
    fs::set_permissions(other.join("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    give(&other.join("xattr"), 0o644, (0, 0), &[("user.colour", b"red")]);
    fs::set_permissions(one.join("xattr"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(other.join("type")).unwrap();
    assert!(
        Command::new("mkfifo").args(["-m644"]).arg(other.join("type")).status().unwrap().success()
    );
    fs::set_permissions(one.join("type"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(other.join("gone")).unwrap();
    fs::remove_file(other.join("link")).unwrap();
    symlink("b", other.join("link")).unwrap();
    fs::remove_dir_all(other.join("d")).unwrap();
    fs::create_dir(other.join("new")).unwrap();
    fs::write(other.join("new/file"), "").unwrap();
    let [one, other] = [one, other].map(|dir| LinuxMounts.open_dir(&dir).unwrap());
    let expected = [
        "C /content Content",
        "D /d",
        "D /gone",
        "C /link Target",
        "C /mode Mode",
        "A /new",
        "A /new/file",
        "C /size Size+Content",
        "C /type Type",
        "C /xattr Xattrs",
    ];
    assert_eq!(compared(&one, &other, &[&one, &other]), expected);
    let mut sorted = expected.map(str::to_owned);
    sorted.sort();
    assert_eq!(full(&one, &other), sorted);
    assert_eq!(compared(&one, &one, &[&one]), Vec::<String>::new());
    // Only the names of the layers are compared.
    let layer = scratch.dir("layer");
    fs::write(layer.join("mode"), "").unwrap();
    let layer = LinuxMounts.open_dir(&layer).unwrap();
    assert_eq!(compared(&one, &other, &[&layer]), ["C /mode Mode"]);
}

#[test]
fn the_type_and_the_size_of_each_difference_are_known() {
    let scratch = TestDir::new();
    let [one, other] = ["one", "other"].map(|name| scratch.dir(name));
    fs::write(one.join("gone"), "four").unwrap();
    fs::create_dir(other.join("dir")).unwrap();
    symlink("x", other.join("link")).unwrap();
    let [one, other] = [one, other].map(|dir| LinuxMounts.open_dir(&dir).unwrap());
    let comparison = Comparison {
        first: &one,
        second: &other,
        layers: Vec::new(),
        hides_all: true,
        times: false,
    };
    let mut found = Vec::new();
    compare(comparison, &Limits::default(), &|| false, &mut |one| {
        found.push((String::from_utf8(one.path).unwrap(), one.kind, one.size));
    })
    .unwrap();
    let expected = [
        ("dir", EntryType::Dir, None),
        ("gone", EntryType::File, Some(4)),
        ("link", EntryType::Symlink, None),
    ];
    assert_eq!(found, expected.map(|(path, kind, size)| (path.to_owned(), kind, size)));
}

#[test]
fn a_comparison_stops_and_keeps_to_its_bounds() {
    let scratch = TestDir::new();
    let (empty, tree) = (scratch.dir("empty"), scratch.dir("tree"));
    scratch.dir("tree/a/b/c/d");
    fs::write(tree.join("z"), "").unwrap();
    let [empty, tree] = [empty, tree].map(|dir| LinuxMounts.open_dir(&dir).unwrap());
    let run = |limits: &Limits, most: usize| {
        let found = std::cell::Cell::new(0);
        let stop = || found.get() >= most;
        let layers = vec![Entry::root(&tree).unwrap()];
        let comparison =
            Comparison { first: &empty, second: &tree, layers, hides_all: false, times: false };
        compare(comparison, limits, &stop, &mut |_| found.set(found.get() + 1))
            .map(|()| found.get())
    };
    assert_eq!(run(&Limits::default(), 100).unwrap(), 5);
    assert!(matches!(run(&Limits::default(), 3), Err(CompareError::Stopped)));
    let shallow = Limits { depth: 3, ..Limits::default() };
    let error = run(&shallow, 100).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"a/b/c/d\" is too deep: at most 3 parts of a path are compared; move or remove it"
    );
    let budget = Arc::new(Budget::new(0, 1 << 20, 4 << 20));
    let limits = Limits { budget: budget.clone(), ..Limits::default() };
    assert_eq!(run(&limits, 100).unwrap(), 5);
    assert_eq!(budget.used(), 0);
    let poor = Limits { budget: Arc::new(Budget::new(0, 10, 10)), ..Limits::default() };
    assert!(matches!(run(&poor, 100), Err(CompareError::Memory(_))));
}

#[test]
#[ignore = "needs root"]
fn privileged_a_volume_is_compared_with_its_start() {
    let volumes = Volumes::new();
    let base = image(&volumes);
    let upper = volumes.write(from_ref(&base), |root| {
        work(root);
        chown(root.join("etc"), Some(5), Some(6)).unwrap();
        // Copied up, but not changed.
        shell(root, "touch bin/su");
    });
    let stack = [base.clone(), upper];
    let found = lines(&volumes, from_ref(&base), &stack);
    for expected in [
        "A /bin/tool2",
        "D /bin/tool",
        "C /etc Owner",
        "D /etc/conf/b",
        "D /old",
        "A /new",
        "D /moved/sub",
        "A /renamed",
        "A /renamed/deep/file",
        "D /data/one",
        "A /data/eins/file",
        "C /plain Mode",
        "C /data/two/file Owner",
        "C /kept/file Type+Mode",
        "A /kept/file/in",
        "D /emptied/e",
        "A /emptied/n",
        "A /fresh/a/b/f",
    ] {
        assert!(found.iter().any(|line| line == expected), "{expected} is not in {found:#?}");
    }
    for unchanged in ["/bin/su", "/etc/conf/a", "/renamed/file1", "/closed", "/moved ", "/bin "] {
        let differs =
            found.iter().any(|line| format!("{line} ").contains(&format!("{unchanged} ")));
        assert!(!differs, "{unchanged} is in {found:#?}");
    }
    assert_complete(&volumes, from_ref(&base), &stack);
    assert_complete(&volumes, &stack, from_ref(&base));
    for packing in [PORTABLE, NATIVE] {
        let again = volumes.round_trip(&stack, 1, &packing);
        assert_complete(&volumes, from_ref(&base), &again);
        assert_eq!(lines(&volumes, &stack, &again), Vec::<String>::new());
    }
}
