//! The list of changes: by name, by property, and against a comparison of all files.

use std::collections::BTreeSet;

use super::{
    super::changes::Stat,
    super::paths::{parents, split},
    *,
};

/// The changes between all files of two trees.
fn full(copy: &Copy) -> Vec<String> {
    let (first, second) = (tree(&copy.dir), tree(&copy.merged));
    let is_dir = |path: &[u8]| second.get(path).is_some_and(|shown| shown.starts_with('d'));
    let mut found = BTreeSet::new();
    for path in first.keys().filter(|path| !second.contains_key(*path)) {
        // What was in a directory that is no directory any more is not listed.
        if split(path).is_some_and(|(parent, _)| is_dir(parent)) {
            found.insert((path, 'D'));
        }
    }
    for (path, after) in &second {
        match first.get(path) {
            None => found.insert((path, 'A')),
            Some(before) => before != after && found.insert((path, 'C')),
        };
    }
    found.iter().map(|(path, letter)| format!("{letter} /{}", path.escape_ascii())).collect()
}

fn assert_complete(copy: &Copy) {
    assert_eq!(copy.lines(), full(copy));
}

#[test]
fn times_count_and_a_file_with_another_time_is_not_read() {
    use crate::changeset::Property::{Content, Mode, Mtime, Size};
    let copy = Copy::plain(|dir| {
        shell(
            dir,
            "for name in same touched altered longer mode; do echo $name > $name; done; mkdir d",
        );
    });
    shell(&copy.merged, "touch -d 2001-02-03 touched d; echo more >> longer; chmod 600 mode");
    alter(&copy.merged.join("altered")).unwrap();
    let found: Vec<_> =
        copy.changes().into_iter().map(|one| (line(&one), one.properties)).collect();
    let expected = [
        ("C /altered", vec![Content]),
        ("C /longer", vec![Size, Content, Mtime]),
        ("C /mode", vec![Mode]),
        ("C /touched", vec![Mtime]),
    ];
    assert_eq!(found, expected.map(|(line, properties)| (line.to_owned(), properties)));
}

#[test]
fn changes_are_sorted_counted_and_shown_with_their_parents() {
    let copy = Copy::plain(|dir| shell(dir, "mkdir -p a/b x/y; echo 1 > a/b/f; echo 1 > x/y/f"));
    shell(&copy.merged, "mkdir a/new; echo 12 > a/new/f; echo 34 > a-b; rm -r x/y; chmod 700 a/b");
    let lines_with = |parents| lines(&copy.list(ChangesOptions { parents }).list);
    let plain = ["A /a-b", "C /a/b", "A /a/new", "A /a/new/f", "D /x/y"];
    assert_eq!(lines_with(false), plain);
    let with_parents = ["C /a", "A /a-b", "C /a/b", "A /a/new", "A /a/new/f", "C /x", "D /x/y"];
    assert_eq!(lines_with(true), with_parents);
    let stat = Stat { added: 3, changed: 1, removed: 1, bytes: 6 };
    for parents in [false, true] {
        assert_eq!(copy.list(ChangesOptions { parents }).stat, stat);
    }
    assert_complete(&copy);
}

/// One case for each row of the table of what other programs list.
#[test]
#[ignore = "needs root"]
fn privileged_each_kind_of_work_is_listed() {
    for (work, expected) in [
        ("echo new > n && mv n d/f", &["C /d/f"][..]),
        ("chmod 600 d/f", &["C /d/f"]),
        ("touch d/f", &["C /d/f"]),
        ("cat d/f > x; cat x > d/f; rm x", &["C /d/f"]),
        ("mkdir d/new; echo > d/new/f", &["A /d/new", "A /d/new/f"]),
        ("rm -r d", &["D /d"]),
        ("mv d e", &["D /d", "A /e", "A /e/f", "A /e/sub", "A /e/sub/g"]),
        ("ln d/f d/g", &["A /d/g"]),
        (": >> d/f; chmod 644 d/f; chmod 755 d", &[]),
        ("touch d; chown 0:0 d/f", &[]),
        ("echo > d/x; rm d/x", &[]),
        ("rm d/f; mkdir d/f; echo > d/f/x", &["C /d/f", "A /d/f/x"]),
        ("rm -r d/sub; echo > d/sub", &["C /d/sub"]),
        ("rm -r d/sub; mkdir d/sub; echo > d/sub/new", &["D /d/sub/g", "A /d/sub/new"]),
        ("setfattr -n user.colour -v red d", &["C /d"]),
        ("ln -snf other link; mkfifo pipe", &["C /link", "A /pipe"]),
    ] {
        let copy = Copy::mounted(|dir| {
            shell(
                dir,
                "umask 022; mkdir -p d/sub; echo 1 > d/f; echo 2 > d/sub/g; ln -s d/f link; \
                 touch -hd '2020-01-01 01:02:03.123456789' d/f d/sub/g link",
            );
        });
        shell(&copy.merged, work);
        assert_eq!(copy.lines(), expected, "{work}");
        assert_complete(&copy);
    }
    let copy = Copy::mounted(fill);
    alter(&copy.merged.join("a/file")).unwrap();
    assert_eq!(copy.lines(), ["C /a/file"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "needs root"]
    fn privileged_the_changes_of_random_work_are_those_of_a_comparison_of_all_files(
        base in prop::collection::vec(work(), 0..15),
        works in prop::collection::vec(work(), 0..25),
    ) {
        let copy = worked_in(base, &works);
        prop_assert_eq!(copy.lines(), full(&copy));
        let with_parents = copy.list(ChangesOptions { parents: true }).list;
        let listed: BTreeSet<_> = with_parents.iter().map(|one| &one.path[..]).collect();
        prop_assert_eq!(listed.len(), with_parents.len());
        for one in &with_parents {
            prop_assert!(parents(&one.path).all(|path| listed.contains(path)));
        }
    }
}
