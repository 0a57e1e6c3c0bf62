//! Two states are compared, also of two workspaces.

use std::fs;

use super::*;
use crate::{
    changeset::Change,
    workspaces::{
        CreateOptions,
        testing::{Machine, state, workspace},
    },
};

/// The changes of a state against another one, as a letter and a path.
fn compared(machine: &Machine, name: &str, against: &str) -> Result<Vec<String>, WorkspaceError> {
    let against = against.parse().unwrap();
    let compared = machine.all.compared(&name.parse().unwrap(), Some(&against), OnLocked::Fail)?;
    let changes = machine.all.changes(&compared.trees, ChangesOptions::default())?;
    let letter = |change| match change {
        Change::Added => 'A',
        Change::Changed => 'C',
        Change::Removed => 'D',
    };
    let line = |one: &crate::changeset::Difference| {
        format!("{} {}", letter(one.change), one.path.escape_ascii())
    };
    Ok(changes.list.iter().map(line).collect())
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_two_workspaces_on_one_base_are_compared() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("before", "1");
    one.snapshot(&state("s")).unwrap();
    drop(one);
    machine.all.fork(&workspace("one"), &[workspace("two")], OnLocked::Fail).unwrap();
    machine.lock("one").write("a", "changed in one");
    machine.lock("one").write("same", "both");
    let time = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    for name in ["one", "two"] {
        machine.lock(name).change(|at| {
            fs::write(at.join("same"), "both").unwrap();
            fs::File::options()
                .append(true)
                .open(at.join("same"))
                .unwrap()
                .set_times(time)
                .unwrap();
        });
    }
    machine.lock("two").change(|at| {
        fs::remove_file(at.join("before")).unwrap();
        fs::write(at.join("new"), "two").unwrap();
    });
    let against = |name, other| compared(&machine, name, other);
    assert_eq!(against("one", "two").unwrap(), ["C a", "A before", "D new"]);
    assert_eq!(against("two", "one").unwrap(), ["C a", "D before", "A new"]);
    // Snapshots of the other one, and the present state of a mounted one.
    assert_eq!(against("one", "two@s").unwrap(), ["C a", "A same"]);
    assert_eq!(against("one@s", "two").unwrap(), ["A before", "D new", "D same"]);
    machine.lock("two").mount(None).unwrap();
    assert_eq!(against("one", "two@current").unwrap(), ["C a", "A before", "D new"]);
    machine.lock("two").umount().unwrap();
    // The workspace itself.
    assert_eq!(against("one", "one@s").unwrap(), against("one", "s").unwrap());
    assert_eq!(against("one", "one@current").unwrap(), [""; 0]);
    // A snapshot comes before a workspace of its name.
    machine.lock("one").snapshot(&state("two")).unwrap();
    assert_eq!(against("one", "two").unwrap(), [""; 0]);
    assert_eq!(against("one", "two@current").unwrap().len(), 3);
    let unknown = against("one", "three").unwrap_err().to_string();
    assert!(unknown.starts_with("workspace one has no snapshot three"), "{unknown}");
    let unknown = against("one", "three@s").unwrap_err().to_string();
    assert!(unknown.starts_with("there is no workspace three"), "{unknown}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_workspaces_on_other_bases_are_not_compared() {
    let machine = Machine::new();
    drop(machine.copy("one"));
    let other = machine.scratch.dir("other");
    machine.all.create_copy(&workspace("two"), &other, &CreateOptions::default()).unwrap();
    let refused = compared(&machine, "one", "two").unwrap_err().to_string();
    let over = |name: &str| machine.scratch.path().join(name).display().to_string();
    let (original, other) = (over("original"), over("other"));
    let expected =
        format!("workspace one was made of {original}, and workspace two of {other}; compare ");
    assert!(refused.starts_with(&expected), "{refused}");
}
