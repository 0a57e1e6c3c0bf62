//! Random work in volumes on volumes is the same after packing and unpacking.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use proptest::prelude::*;

use super::compare::{assert_complete, lines};
use super::volumes::{Volumes, assert_same};
use super::*;

/// One operation on a path. An operation that fails changes nothing.
#[derive(Debug, Clone)]
enum Work {
    Write(String, usize),
    Append(String),
    Dir(String),
    Remove(String),
    Rename(String, String),
    Mode(String, u32),
    Link(String, String),
    Symlink(String),
}

fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "d"]);
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        3 => (path(), 0..9000_usize).prop_map(|(path, len)| Work::Write(path, len)),
        1 => path().prop_map(Work::Append),
        4 => path().prop_map(Work::Dir),
        3 => path().prop_map(Work::Remove),
        4 => (path(), path()).prop_map(|(from, to)| Work::Rename(from, to)),
        2 => (path(), 0..0o10000_u32).prop_map(|(path, mode)| Work::Mode(path, mode)),
        1 => (path(), path()).prop_map(|(from, to)| Work::Link(from, to)),
        1 => path().prop_map(Work::Symlink),
    ]
}

/// Nested directories with files, so that most operations find something.
fn fill_base(root: &Path) {
    for (i, path) in ["a", "a/a", "a/b", "b", "b/a", "b/a/c"].into_iter().enumerate() {
        fs::create_dir(root.join(path)).unwrap();
        fs::write(root.join(path).join("file"), vec![2; i]).unwrap();
        fs::write(root.join(path).join("d"), "d").unwrap();
    }
}

fn do_all(root: &Path, all: &[Work]) {
    for work in all {
        let at = |path: &String| root.join(path);
        let _ = match work {
            Work::Write(path, len) => fs::write(at(path), vec![1; *len]),
            Work::Append(path) => fs::File::options()
                .append(true)
                .open(at(path))
                .and_then(|mut file| std::io::Write::write_all(&mut file, b"more")),
            Work::Dir(path) => fs::create_dir(at(path)),
            Work::Remove(path) => {
                fs::remove_file(at(path)).or_else(|_| fs::remove_dir_all(at(path)))
            }
            Work::Rename(from, to) => fs::rename(at(from), at(to)),
            Work::Mode(path, mode) => {
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Work::Link(from, to) => fs::hard_link(at(from), at(to)),
            Work::Symlink(path) => std::os::unix::fs::symlink("a/b", at(path)),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[ignore = "needs root"]
    fn privileged_random_volumes_are_the_same_after_packing_and_unpacking(
        base in prop::collection::vec(work(), 0..15),
        uppers in prop::collection::vec(prop::collection::vec(work(), 0..15), 1..4),
    ) {
        let volumes = Volumes::new();
        // Hard links of a base's files break where one of them is written to. That is how overlay works.
        let base: Vec<_> = base.into_iter().filter(|work| !matches!(work, Work::Link(..))).collect();
        let mut stack = vec![volumes.base(|root| {
            fill_base(root);
            do_all(root, &base);
        })];
        let mut rebuilt = stack.clone();
        let mut native = stack.clone();
        for upper in &uppers {
            let layer = volumes.write(&stack, |root| do_all(root, upper));
            stack.push(layer.clone());
            for (stack, packing) in [(&mut rebuilt, PORTABLE), (&mut native, NATIVE)] {
                stack.push(layer.clone());
                *stack = volumes.round_trip(stack, 1, &packing);
            }
        }
        let expected = volumes.tree(&stack);
        assert_same(&volumes.tree(&rebuilt), &expected, "portable");
        assert_same(&volumes.tree(&native), &expected, "native");
        let squashed = volumes.round_trip(&stack, uppers.len(), &PORTABLE);
        assert_same(&volumes.tree(&squashed), &expected, "squashed");
        // Other forms of the layers show the same files.
        for other in [&rebuilt, &native, &squashed] {
            prop_assert_eq!(lines(&volumes, &stack, other), Vec::<String>::new());
        }
    }

    #[test]
    #[ignore = "needs root"]
    fn privileged_a_comparison_by_the_names_of_layers_finds_what_a_comparison_of_all_files_finds(
        base in prop::collection::vec(work(), 0..15),
        one in prop::collection::vec(prop::collection::vec(work(), 0..15), 0..3),
        other in prop::collection::vec(prop::collection::vec(work(), 0..15), 0..3),
    ) {
        let volumes = Volumes::new();
        let base: Vec<_> = base.into_iter().filter(|work| !matches!(work, Work::Link(..))).collect();
        let below = volumes.base(|root| {
            fill_base(root);
            do_all(root, &base);
        });
        let stack = |uppers: &[Vec<Work>]| {
            let mut stack = vec![below.clone()];
            for upper in uppers {
                stack.push(volumes.write(&stack, |root| do_all(root, upper)));
            }
            stack
        };
        let (one, other) = (stack(&one), stack(&other));
        assert_complete(&volumes, &one, &other);
        assert_complete(&volumes, &other, &one);
        // A snapshot against its start, and against what its squashed layer shows.
        let start = &other[..other.len().saturating_sub(1).max(1)];
        assert_complete(&volumes, start, &other);
        if other.len() > 2 {
            let squashed = volumes.round_trip(&other, other.len() - 1, &PORTABLE);
            assert_complete(&volumes, &one, &squashed);
        }
    }
}
