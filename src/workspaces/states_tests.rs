//! The states of a workspace, on real mounts. Most tests are a row of the table of states and commands of mock's overlayfs
//! plugin, whose users know these commands.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};

use super::*;
use crate::workspaces::{
    CreateOptions, Moment, NotFrozen, OnLocked,
    testing::{Files, Machine, state, workspace},
};

fn original() -> Files {
    [("a", "one"), ("sub/b", "two")].map(|(path, text)| (path.into(), text.into())).into()
}

fn with(path: &str, text: &str) -> Files {
    let mut files = original();
    files.insert(path.into(), text.into());
    files
}

/// The names of its snapshots that are the same state.
fn same(one: &Workspace<'_>, a: &str, b: &str) -> bool {
    one.layers_of(&state(a)).unwrap() == one.layers_of(&state(b)).unwrap()
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_new_workspace_has_one_state_postinit_and_it_is_current() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    assert_eq!((one.current(), one.files()), (vec!["postinit".to_owned()], original()));
    // A clean of a workspace without changes changes nothing.
    one.clean().unwrap();
    assert_eq!(one.current(), ["postinit"]);
    let options = CreateOptions { no_postinit: true, ..CreateOptions::default() };
    machine.all.create_copy(&workspace("two"), &machine.original(), &options).unwrap();
    assert!(machine.lock("two").current().is_empty());
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_the_next_mount_has_the_changes_of_the_last_one_and_a_clean_drops_them() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("c", "three");
    one.write("a", "changed");
    let mut files = with("c", "three");
    files.insert("a".into(), "changed".into());
    assert_eq!(one.files(), files);
    assert_eq!(one.current(), ["postinit"]);
    one.clean().unwrap();
    assert_eq!((one.files(), one.current()), (original(), vec!["postinit".to_owned()]));
    assert_eq!(crate::workspaces::testing::files(&machine.original()), original());
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_names_without_a_mount_between_them_are_one_state() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("c", "three");
    assert_eq!(one.snapshot(&state("s")).unwrap(), Taken::Unmounted);
    one.snapshot(&state("t")).unwrap();
    assert!(same(&one, "s", "t") && !same(&one, "s", "postinit"));
    assert_eq!(one.current(), ["s", "t"]);
    // Also after a clean and after a rollback.
    one.clean().unwrap();
    one.snapshot(&state("u")).unwrap();
    one.rollback(&state("postinit")).unwrap();
    one.snapshot(&state("v")).unwrap();
    assert!(same(&one, "u", "s") && same(&one, "v", "postinit"));
    assert_eq!((one.current(), one.files()), (vec!["postinit".into(), "v".into()], original()));
    // A name is never given twice.
    let taken = one.snapshot(&state("s")).unwrap_err().to_string();
    assert!(taken.contains("has a snapshot s already"), "{taken}");
    let reserved = one.snapshot(&state("failed")).unwrap_err().to_string();
    assert!(reserved.contains("has a meaning of its own"), "{reserved}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_rollback_goes_back_and_later_snapshots_stay() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("c", "1");
    one.snapshot(&state("s1")).unwrap();
    one.write("c", "2");
    one.snapshot(&state("s2")).unwrap();
    one.write("c", "lost");
    one.rollback(&state("s1")).unwrap();
    assert_eq!((one.files(), one.current()), (with("c", "1"), vec!["s1".to_owned()]));
    one.rollback(&state("s1")).unwrap();
    one.rollback(&state("s2")).unwrap();
    assert_eq!(one.files(), with("c", "2"));
    let unknown = one.rollback(&state("no")).unwrap_err().to_string();
    assert_eq!(unknown, "workspace one has no snapshot no; use one of postinit, s1, s2");
    assert_eq!(one.current(), ["s2"]);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_removed_name_leaves_the_state_and_the_last_reference_deletes_the_layer() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("c", "1");
    one.snapshot(&state("s")).unwrap();
    one.snapshot(&state("t")).unwrap();
    let layer = one.layers_of(&state("s")).unwrap()[0];
    let has = || machine.all.store.layers.has(&layer);
    // It has a second name.
    one.remove(&state("s")).unwrap();
    // The current state is a reference too, and so is a layer on it.
    one.remove(&state("t")).unwrap();
    assert!(has() && one.current().is_empty());
    one.write("d", "2");
    one.clean().unwrap();
    assert_eq!(one.files(), with("c", "1"));
    one.write("d", "3");
    one.snapshot(&state("u")).unwrap();
    // The last name of all.
    one.remove(&state("postinit")).unwrap();
    one.rollback(&state("u")).unwrap();
    assert!(has());
    machine.all.fork(&workspace("one"), &[workspace("two")], OnLocked::Fail).unwrap_err();
    drop(one);
    machine.all.fork(&workspace("one"), &[workspace("two")], OnLocked::Fail).unwrap();
    machine.lock("one").scrub().unwrap();
    // Another workspace stands on it.
    assert!(has());
    machine.lock("two").scrub().unwrap();
    assert!(!has());
    assert_eq!(fs::read_dir(machine.all.root().join("layers")).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_mounted_workspace_refuses_what_would_change_it_and_takes_a_snapshot_by_a_copy() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    let at = one.mount(None).unwrap();
    assert_eq!(one.mount(None).unwrap(), at);
    fs::write(at.join("c"), "1").unwrap();
    for (action, refused) in
        [("roll back", one.rollback(&state("postinit"))), ("clean", one.clean())]
    {
        let error = refused.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot {action} workspace one: it is mounted at")),
            "{error}"
        );
    }
    let taken = one.snapshot(&state("s")).unwrap();
    let moment = Moment::Live(NotFrozen::Mounted(at.clone()));
    assert_eq!(taken, Taken::Mounted(Copied { moment, torn: 0 }));
    fs::write(at.join("c"), "2").unwrap();
    one.remove(&state("postinit")).unwrap();
    assert_eq!(one.files(), with("c", "2"));
    one.umount().unwrap();
    let again = one.umount().unwrap_err().to_string();
    assert_eq!(again, "workspace one is not mounted");
    assert_eq!((one.files(), one.current()), (with("c", "2"), vec!["s".to_owned()]));
    one.clean().unwrap();
    assert_eq!(one.files(), with("c", "1"));
    one.mount(None).unwrap();
    let refused = one.rename(&workspace("x")).unwrap_err().to_string();
    assert!(refused.starts_with("cannot rename workspace one: it is mounted at"), "{refused}");
    let refused = machine.lock("one").scrub().unwrap_err().to_string();
    assert!(refused.starts_with("cannot remove workspace one: it is mounted at"), "{refused}");
    machine.lock("one").umount().unwrap();
    machine.lock("one").rename(&workspace("x")).unwrap();
    assert_eq!(machine.lock("x").current(), ["s"]);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_process_in_the_mount_stops_an_unmount_and_is_named() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    let at = one.mount(None).unwrap();
    let mut sleep = std::process::Command::new("sleep").arg("60").current_dir(&at).spawn().unwrap();
    let busy = one.umount().unwrap_err().to_string();
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(busy.contains(&format!("in use by process {} (sleep)", sleep.id())), "{busy}");
    one.umount().unwrap();
    assert!(!at.exists());
}

/// Services of a machine often have mount namespaces of their own, which get copies of the host's mounts.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_copy_of_the_mount_in_another_namespace_does_not_stop_an_unmount() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    // Not in the store: that directory is removed, and with it the kernel unmounts the copies.
    let at = machine.scratch.dir("at");
    one.mount(Some(&at)).unwrap();
    let mut other = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "60"])
        .spawn()
        .unwrap();
    // After the program is started, the namespace is what it was meant to be.
    let comm = format!("/proc/{}/comm", other.id());
    let in_other = || fs::read_to_string(&comm).is_ok_and(|name| name.trim_end() == "sleep");
    while !in_other() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    one.umount().unwrap();
    // It keeps the overlay, because it is private. So nothing may change below it.
    let refused = one.clean().unwrap_err().to_string();
    assert!(refused.contains(&format!("used by process {} (sleep)", other.id())), "{refused}");
    other.kill().unwrap();
    other.wait().unwrap();
    one.clean().unwrap();
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_forks_stand_on_the_present_state_and_change_nothing_of_each_other() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("c", "1");
    one.snapshot(&state("s")).unwrap();
    one.write("c", "2");
    drop(one);
    let names = machine.all.fork_numbered(&workspace("one"), 2, OnLocked::Fail).unwrap();
    assert_eq!(names, ["one-1", "one-2"].map(workspace));
    // All or none.
    let twice = ["new", "same", "same"].map(workspace);
    let error = machine.all.fork(&workspace("one"), &twice, OnLocked::Fail).unwrap_err();
    assert!(matches!(error, WorkspaceError::Taken(taken) if taken == twice[1]));
    for name in &twice {
        assert!(machine.all.store.workspaces.get(name).unwrap().is_none(), "{name}");
    }
    let mut fork = machine.lock("one-1");
    assert_eq!((fork.files(), fork.current()), (with("c", "2"), vec!["s".to_owned()]));
    fork.write("c", "fork");
    assert_eq!(machine.lock("one").files(), with("c", "2"));
    assert_eq!(machine.lock("one-2").files(), with("c", "2"));
    fork.clean().unwrap();
    assert_eq!(fork.files(), with("c", "1"));
    drop(fork);
    // All or none.
    let some = [workspace("new"), workspace("one-2")];
    let taken = machine.all.fork(&workspace("one"), &some, OnLocked::Fail).unwrap_err();
    assert!(taken.to_string().contains("a workspace one-2 exists already"), "{taken}");
    assert!(machine.all.lock(&workspace("new"), OnLocked::Fail).is_err());
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_workspace_starts_from_a_snapshot_of_another_one() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.write("c", "1");
    one.snapshot(&state("s")).unwrap();
    one.write("c", "2");
    drop(one);
    let options = CreateOptions::default();
    let from = |name: &str, from: &str| {
        machine.all.create_from(&workspace(name), &from.parse().unwrap(), &options, OnLocked::Fail)
    };
    from("two", "one@s").unwrap();
    from("three", "one").unwrap();
    let (two, three) = (machine.lock("two"), machine.lock("three"));
    assert_eq!((two.files(), two.current()), (with("c", "1"), vec!["postinit".to_owned()]));
    assert_eq!((three.files(), three.current()), (with("c", "2"), vec!["postinit".to_owned()]));
    // The source goes on as before: a clean goes back to its snapshot.
    let mut one = machine.lock("one");
    assert_eq!((one.files(), one.current()), (with("c", "2"), vec!["s".to_owned()]));
    one.clean().unwrap();
    assert_eq!(one.files(), with("c", "1"));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_another_command_is_waited_for_or_named() {
    let machine = Machine::new();
    let _one = machine.copy("one");
    let busy = machine.all.lock(&workspace("one"), OnLocked::Fail).unwrap_err().to_string();
    assert!(busy.contains(&format!("(process {}", std::process::id())), "{busy}");
    let unknown = machine.all.lock(&workspace("no"), OnLocked::Fail).unwrap_err().to_string();
    assert!(
        unknown.starts_with("there is no workspace no; `ovl list` shows those of"),
        "{unknown}"
    );
}

/// A kill between the record and the renames: the next command completes the snapshot.
#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_snapshot_that_was_killed_is_completed() {
    for renamed in [false, true] {
        let machine = Machine::new();
        let mut one = machine.copy("one");
        one.write("c", "1");
        let key = Layers::new_key().unwrap();
        one.record.below.push(key);
        one.record.sealing = Some(key);
        one.record.current.clone_from(&one.record.below);
        one.record.name_state(state("s"), one.record.below.clone());
        one.save().unwrap();
        if renamed {
            let upper = one.upper_and_work().upper().to_owned();
            let sealing = upper.with_file_name("sealing");
            fs::create_dir(&sealing).unwrap();
            fs::rename(upper, sealing.join("diff")).unwrap();
        }
        drop(one);
        let one = machine.lock("one");
        assert_eq!((one.files(), one.current()), (with("c", "1"), vec!["s".to_owned()]));
        assert!(one.record.sealing.is_none());
        assert_eq!(machine.all.store.verify().unwrap(), []);
    }
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_rollback_from_a_state_that_lost_its_name_is_a_loss() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    let start = state("postinit");
    one.write("c", "1");
    one.snapshot(&state("s")).unwrap();
    assert!(!one.check_rollback(&start).unwrap());
    one.remove(&state("s")).unwrap();
    assert!(one.check_rollback(&start).unwrap());
    one.snapshot(&state("t")).unwrap();
    assert!(!one.check_rollback(&start).unwrap());
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_mount_without_a_write_makes_no_state() {
    let machine = Machine::new();
    let mut one = machine.copy("one");
    one.change(|_| ());
    one.snapshot(&state("s")).unwrap();
    assert_eq!(one.record().states[0].layers, one.record().states[1].layers);
    assert_eq!(one.current(), ["postinit", "s"]);
    // The mode of the root is a change.
    let private = Permissions::from_mode(0o700);
    one.change(|at| fs::set_permissions(at, private).unwrap());
    one.snapshot(&state("t")).unwrap();
    assert_eq!((one.record().below.len(), one.current()), (1, vec!["t".to_owned()]));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_two_forks_at_a_time_choose_different_names() {
    let machine = Machine::new();
    drop(machine.copy("one"));
    let fork = || machine.all.fork_numbered(&workspace("one"), 3, OnLocked::Wait).unwrap();
    let mut names: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(fork)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 12);
}
