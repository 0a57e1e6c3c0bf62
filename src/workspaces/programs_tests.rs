//! Frozen programs, on real mounts. The tests of the program `ovl` have more.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    sys::freezer::{Frozen, OwnGroup},
    workspaces::{
        Copied, Moment, Taken,
        freeze::RECORD,
        testing::{Machine, state},
    },
};

/// A program with the overlay in a mount namespace of its own, in a cgroup of its own, as `ovl run` starts it. It counts in a
/// file of the workspace, but not while there is a file `pause`. It makes a file `paused` then.
struct Program {
    child: Child,
    _group: OwnGroup,
}

impl Program {
    /// Starts it where the workspace is mounted.
    fn start(at: &Path, group: OwnGroup) -> Self {
        let count = "i=10000000; while :; do i=$((i+1)); printf %s $i 1<> count; \
                     if test -e pause; then : > paused; while test -e pause; do :; done; fi; done";
        let program =
            format!("read go; exec unshare --mount --propagation private sh -c '{count}'");
        let mut child = Command::new("sh")
            .args(["-c", &program])
            .current_dir(at)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        group.add(child.id().cast_signed()).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        Self { child, _group: group }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits until the program writes no more. A file that is written all the time cannot be copied at one moment without a freeze.
fn pause(one: &Workspace<'_>, at: &Path) {
    fs::write(at.join("pause"), "").unwrap();
    let (paused, start) = (one.upper_and_work().upper().join("paused"), Instant::now());
    while !paused.exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not pause");
        sleep(Duration::from_millis(1));
    }
}

/// Waits until the count in the upper moves on.
fn wait_for_count(one: &Workspace<'_>) {
    let path = one.upper_and_work().upper().join("count");
    let (read, start) = (|| fs::read_to_string(&path).unwrap_or_default(), Instant::now());
    let before = read();
    while read() == before {
        assert!(start.elapsed() < Duration::from_secs(10), "it counts no further than {before}");
        sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_programs_with_a_cgroup_of_their_own_are_frozen_and_thawed_in_each_hierarchy() {
    for (number, group) in OwnGroup::make_each("hierarchies").into_iter().enumerate() {
        let machine = Machine::new();
        let mut one = machine.copy("hierarchies");
        let at = machine.scratch.dir("at");
        one.mount(Some(&at)).unwrap();
        let _program = Program::start(&at, group);
        wait_for_count(&one);
        pause(&one, &at);
        let taken = one.snapshot(&state("mounted")).unwrap();
        let Taken::Mounted(Copied { moment: Moment::Live(NotFrozen::Mounted(path)), torn: 0 }) =
            taken
        else {
            panic!("{taken:?}");
        };
        assert_eq!(path, at);
        fs::remove_file(at.join("pause")).unwrap();
        one.umount().unwrap();
        for name in ["s", "t"] {
            let taken = one.snapshot(&state(name)).unwrap();
            let is_frozen =
                matches!(taken, Taken::Mounted(Copied { moment: Moment::Frozen(_), torn: 0 }));
            assert!(is_frozen, "hierarchy {number}: {taken:?}");
            assert!(!one.dir().join(RECORD).exists());
            wait_for_count(&one);
        }
    }
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_the_next_command_thaws_what_two_killed_processes_have_left_frozen() {
    for group in OwnGroup::make_each("abandoned") {
        let machine = Machine::new();
        let mut one = machine.copy("abandoned");
        let at = machine.scratch.dir("at");
        one.mount(Some(&at)).unwrap();
        let frozen = group.group().clone();
        let _program = Program::start(&at, group);
        wait_for_count(&one);
        let record = one.dir().join(RECORD);
        // A part of a record: nothing was frozen.
        fs::write(&record, "[{").unwrap();
        drop(one);
        let one = machine.lock("abandoned");
        assert!(!record.exists());
        let freeze = Frozen::new(std::slice::from_ref(&frozen), Duration::from_secs(60)).unwrap();
        freeze.freeze().unwrap();
        // Neither its drop nor its watchdog thaws them.
        std::mem::forget(freeze);
        fs::write(&record, serde_json::to_vec(&[frozen]).unwrap()).unwrap();
        drop(one);
        let one = machine.lock("abandoned");
        wait_for_count(&one);
        assert!(!record.exists());
    }
}
