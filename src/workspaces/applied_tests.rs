//! Changes are carried into the directory of a copy, one apply after the other.

use std::{fs, path::PathBuf, thread, time::Duration};

use super::*;
use crate::workspaces::{
    Conflict, ConflictReason, CreateOptions, OnConflict,
    testing::{Machine, PLAIN, workspace},
};

fn carry(
    one: &mut Workspace<'_>,
    paths: &[&str],
    options: ApplyOptions,
) -> Result<Vec<String>, ApplyFailure> {
    let paths: Vec<_> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let applied = one.apply(None, &paths, options)?;
    Ok(applied.carried.iter().map(|one| one.path.escape_ascii().to_string()).collect())
}

/// The paths that conflict, of an apply that is refused.
fn conflicts(done: Result<Vec<String>, ApplyFailure>) -> Vec<String> {
    let Err(ApplyFailure::Apply(ApplyError::Refused(refusals))) = done else {
        panic!("{done:?}");
    };
    let path = |one: &Conflict| {
        assert_eq!(one.reason, ConflictReason::Changed);
        one.path.escape_ascii().to_string()
    };
    refusals.conflicts.iter().map(path).collect()
}

fn changes(one: &mut Workspace<'_>) -> Vec<String> {
    let (trees, _lease) = one.since_base().unwrap();
    let changes = one.all.changes(&trees, ChangesOptions::default()).unwrap();
    changes.list.iter().map(|one| one.path.escape_ascii().to_string()).collect()
}

/// Times of files are those of the last tick of the clock.
fn tick() {
    thread::sleep(Duration::from_millis(30));
}

/// A copy, and its original. Nothing of it is as new as the copy.
fn copy(machine: &Machine) -> (Workspace<'_>, PathBuf) {
    let original = machine.original();
    tick();
    machine.all.create_copy(&workspace("one"), &original, &CreateOptions::default()).unwrap();
    tick();
    (machine.lock("one"), original)
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_only_chosen_paths_are_checked_and_carried() {
    let machine = Machine::new();
    let (mut one, original) = copy(&machine);
    one.change(|at| {
        fs::create_dir_all(at.join("new/deep")).unwrap();
        for path in ["new/deep/f", "new/other", "a", "sub/b", "sub/c"] {
            fs::write(at.join(path), "copy").unwrap();
        }
    });
    fs::write(original.join("a"), "original").unwrap();
    let dry = ApplyOptions { dry_run: true, ..PLAIN };
    let new = ["new", "new/deep", "new/deep/f"];
    // The conflict is elsewhere.
    assert_eq!(carry(&mut one, &["new/deep"], dry).unwrap(), new);
    assert_eq!(conflicts(carry(&mut one, &[], dry)), ["a"]);
    assert_eq!(conflicts(carry(&mut one, &["new/deep", "a"], PLAIN)), ["a"]);
    assert!(!original.join("new").exists());
    assert_eq!(
        carry(&mut one, &["new/deep", "sub/b"], PLAIN).unwrap(),
        [&new[..], &["sub/b"]].concat()
    );
    assert_eq!(fs::read_to_string(original.join("new/deep/f")).unwrap(), "copy");
    assert_eq!(changes(&mut one), ["a", "new/other", "sub/c"]);
    // It is as it should be already.
    assert_eq!(carry(&mut one, &["sub/b"], PLAIN).unwrap(), [""; 0]);
    // A conflict that was there before is one after it, too. What was carried is none.
    assert_eq!(conflicts(carry(&mut one, &[], PLAIN)), ["a"]);
    one.write("sub/b", "copy again");
    assert_eq!(carry(&mut one, &["sub"], PLAIN).unwrap(), ["sub/b", "sub/c"]);
    fs::write(original.join("sub/b"), "original").unwrap();
    one.write("sub/b", "copy a third time");
    assert_eq!(conflicts(carry(&mut one, &["sub"], PLAIN)), ["sub/b"]);
    // A whole apply with a decision counts for all paths.
    let ours = ApplyOptions { on_conflict: OnConflict::Ours, ..PLAIN };
    assert_eq!(carry(&mut one, &[], ours).unwrap(), ["a", "new/other", "sub/b"]);
    assert_eq!(changes(&mut one), [""; 0]);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_path_that_cannot_be_carried_alone_is_refused() {
    let machine = Machine::new();
    let (mut one, original) = copy(&machine);
    one.change(|at| {
        fs::remove_file(at.join("sub/b")).unwrap();
        fs::remove_dir(at.join("sub")).unwrap();
    });
    let refused = |done: Result<_, ApplyFailure>| done.unwrap_err().to_string();
    let nowhere = refused(carry(&mut one, &["a", "nothing"], PLAIN));
    assert!(nowhere.starts_with("neither the workspace nor the directory has"), "{nowhere}");
    let within = refused(carry(&mut one, &["sub/b"], PLAIN));
    assert!(within.ends_with("in the workspace any more; choose /sub"), "{within}");
    assert!(original.join("sub/b").exists());
    assert_eq!(carry(&mut one, &["sub"], PLAIN).unwrap(), ["sub"]);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_an_apply_that_leaves_git_out_does_not_hide_its_conflicts() {
    let machine = Machine::new();
    machine.scratch.dir("original/.git");
    machine.scratch.file("original/.git/index", "one");
    let (mut one, original) = copy(&machine);
    one.write(".git/index", "copy");
    one.write("a", "copy");
    fs::write(original.join(".git/index"), "original").unwrap();
    tick();
    assert_eq!(carry(&mut one, &[], PLAIN).unwrap(), ["a"]);
    let git = ApplyOptions { git: true, ..PLAIN };
    assert_eq!(conflicts(carry(&mut one, &[], git)), [".git/index"]);
    let git_ours = ApplyOptions { on_conflict: OnConflict::Ours, ..git };
    assert_eq!(carry(&mut one, &[], git_ours).unwrap(), [".git/index"]);
    // What apply wrote itself is no conflict, also after one that leaves it out.
    one.write(".git/index", "copy again");
    one.write("a", "copy again");
    assert_eq!(carry(&mut one, &[], PLAIN).unwrap(), ["a"]);
    assert_eq!(carry(&mut one, &[], git).unwrap(), [".git/index"]);
}
