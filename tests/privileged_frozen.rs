//! Snapshots of workspaces in use: their programs are frozen, or it is said why not. A kill thaws them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use ovl::sys::freezer::OwnGroups;
use tempfile::TempDir;

/// Counts in two files: the first is never behind the second, and at most one ahead. Each write is one system call.
const LOCKSTEP: &str =
    "i=10000000; while :; do i=$((i+1)); printf %s $i 1<>a/count; printf %s $i 1<>z/count; done";

/// The start of each note.
const NOTE: &str = "note: the changes were copied while programs could write, because ";

/// A directory with an original, a store, and programs in workspaces.
struct Place {
    dir: TempDir,
    programs: Vec<Child>,
}

impl Place {
    /// With copies of the original of these names.
    fn new(copies: &[&str]) -> Self {
        let place =
            Self { dir: TempDir::with_prefix("ovl-frozen-").unwrap(), programs: Vec::new() };
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in copies {
            for dir in ["a", "m", "z"] {
                let dir = place.original(name).join(dir);
                fs::create_dir_all(&dir).unwrap();
                fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
            }
            place.ok(&["create", name, "--over", name]);
        }
        place
    }

    fn original(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory of a workspace.
    fn part(&self, name: &str, part: &str) -> PathBuf {
        self.dir.path().join("store/workspaces").join(name).join(part)
    }

    fn ovl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovl"));
        command.args(words).env("OVL_ROOT", self.dir.path().join("store"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.ovl(words).output().unwrap()
    }

    /// What a command says. It must succeed.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts a program in a workspace, and waits until it counts.
    fn start(&mut self, name: &str, words: &[&str]) {
        let child = self.ovl(words).stderr(Stdio::null()).spawn().unwrap();
        self.programs.push(child);
        self.wait_for_count(name, Duration::from_secs(30));
    }

    fn count(&self, name: &str) -> String {
        fs::read_to_string(self.part(name, "upper").join("z/count")).unwrap_or_default()
    }

    fn wait_for_count(&self, name: &str, within: Duration) {
        let (before, start) = (self.count(name), Instant::now());
        while self.count(name) == before {
            assert!(start.elapsed() < within, "it counts no further than {before}");
            sleep(Duration::from_millis(1));
        }
    }

    /// A process in the mount namespace of a program that runs in a workspace: process 1 of the run, and its cgroup.
    fn process_1(&self, name: &str) -> (u32, PathBuf) {
        let groups = OwnGroups::mounted().unwrap();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let has_store = |pid: &u32| {
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            table.contains(self.part(name, "upper").to_str().unwrap())
        };
        let mut found = pids.filter(has_store).filter_map(|pid| {
            let group = groups.of(pid, name).unwrap()?;
            Some((pid, group.path().to_owned()))
        });
        found.next().unwrap()
    }

    /// Checks the two counts of a snapshot.
    fn check(&self, name: &str, snapshot: &str) {
        let to = self.dir.path().join("exported");
        self.ok(&["export", &format!("{name}@{snapshot}"), "--to", to.to_str().unwrap()]);
        let count = |part: &str| -> u64 {
            fs::read_to_string(to.join(part).join("count")).unwrap().parse().unwrap()
        };
        let (first, second) = (count("a"), count("z"));
        assert!(first == second || first == second + 1, "{snapshot}: {first} and {second}");
        assert!(Command::new("rm").arg("-r").arg(&to).status().unwrap().success());
    }

    /// Files between the two counts, so that a round takes time.
    fn fill(&self, name: &str, files: u32) {
        let script = format!("i=0; while [ $i -lt {files} ]; do i=$((i+1)); : > m/$i; done");
        self.ok(&["run", name, "--", "sh", "-c", &script]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also after a failure: a mount would keep the directory.
        for program in &mut self.programs {
            // It then removes its cgroup.
            signal(program.id(), Signal::SIGTERM);
            let start = Instant::now();
            while program.try_wait().is_ok_and(|ended| ended.is_none()) {
                if start.elapsed() > Duration::from_secs(10) {
                    let _ = program.kill();
                }
                sleep(Duration::from_millis(5));
            }
        }
        self.run(&["umount", "--all"]);
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Whether the cgroup of a record of a freeze is frozen.
fn is_frozen(record: &Path) -> bool {
    let text = fs::read(record).unwrap_or_default();
    let groups: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let Some(path) = groups[0]["path"].as_str().map(Path::new) else { return false };
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    read("cgroup.freeze").trim() == "1" || read("freezer.state").contains("FR")
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_files_in_lockstep_are_so_in_each_snapshot_of_a_running_workspace() {
    for options in [&[][..], &["--user", "65534"]] {
        let mut place = Place::new(&["box"]);
        place.fill("box", 200);
        let words = [&["run", "box"], options, &["--", "sh", "-c", LOCKSTEP]].concat();
        place.start("box", &words);
        for number in 0..20 {
            let snapshot = format!("s{number}");
            assert_eq!(place.ok(&["snapshot", "box", &snapshot]), "");
            place.check("box", &snapshot);
            place.wait_for_count("box", Duration::from_secs(1));
        }
        // The other commands that need a state.
        place.ok(&["fork", "box", "forked"]);
        place.ok(&["snapshot", "forked", "s"]);
        place.check("forked", "s");
        assert_eq!(place.ok(&["run", "box", "--transient", "--", "true"]), "");
    }
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_mounted_workspace_is_copied_live_and_each_command_says_so() {
    let mut place = Place::new(&["box"]);
    place.start("box", &["run", "box", "--", "sh", "-c", LOCKSTEP]);
    place.ok(&["mount", "box"]);
    let why = format!("the workspace is mounted at {}", place.part("box", "merged").display());
    let to = place.dir.path().join("exported");
    for words in [
        &["snapshot", "box", "s"][..],
        &["fork", "box", "forked"],
        &["create", "next", "--from", "box"],
        &["run", "box", "--transient", "--", "true"],
        &["export", "box", "--to", to.to_str().unwrap()],
        &["apply", "box", "--dry-run"],
    ] {
        let said = place.ok(words);
        assert_eq!(said.lines().next().unwrap(), format!("{NOTE}{why}"), "{words:?}");
    }
    place.wait_for_count("box", Duration::from_secs(1));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_snapshot_that_is_killed_leaves_no_program_frozen() {
    let mut place = Place::new(&["box"]);
    place.fill("box", 1500);
    place.start("box", &["run", "box", "--", "sh", "-c", LOCKSTEP]);
    let record = place.part("box", "frozen.json");
    let (mut seed, mut frozen) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    for number in 0..30_u32 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut command = place.ovl(&["snapshot", "box", &format!("s{number}")]);
        // A signal to the whole group, as Ctrl-C sends it, does not reach the process that thaws.
        let mut child = command.stderr(Stdio::null()).process_group(0).spawn().unwrap();
        if number % 3 == 0 {
            sleep(Duration::from_micros(seed % 60_000));
        } else {
            while !is_frozen(&record) && child.try_wait().unwrap().is_none() {}
            sleep(Duration::from_micros(seed % 3_000));
        }
        let was_frozen = is_frozen(&record);
        let kind = if number % 2 == 0 { Signal::SIGKILL } else { Signal::SIGINT };
        killpg(Pid::from_raw(child.id().cast_signed()), kind).unwrap();
        let ended = child.wait().unwrap();
        frozen += u32::from(was_frozen && ended.signal().is_some());
        place.wait_for_count("box", Duration::from_secs(1));
    }
    // Otherwise the moments of the kills say nothing.
    assert!(frozen >= 3, "{frozen} of 30 kills were during a freeze");
    assert_eq!(place.ok(&["snapshot", "box", "last"]), "");
    place.check("box", "last");
    assert!(!record.exists());
}

/// Waits until a command has frozen the programs, and stops it there.
fn stop_frozen(place: &Place, number: u32) -> Option<Child> {
    let record = place.part("box", "frozen.json");
    let mut command = place.ovl(&["snapshot", "box", &format!("t{number}")]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !is_frozen(&record) && child.try_wait().unwrap().is_none() {}
    if child.try_wait().unwrap().is_none() {
        signal(child.id(), Signal::SIGSTOP);
        // It may have thawed them before it was stopped.
        sleep(Duration::from_millis(20));
        if is_frozen(&record) {
            return Some(child);
        }
        signal(child.id(), Signal::SIGCONT);
    }
    child.wait().unwrap();
    None
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_the_next_command_thaws_programs_if_the_process_that_thaws_was_killed_too() {
    let mut place = Place::new(&["box"]);
    place.fill("box", 1500);
    place.start("box", &["run", "box", "--", "sh", "-c", LOCKSTEP]);
    let mut child = (0..200).find_map(|number| stop_frozen(&place, number)).unwrap();
    let thaws = children(child.id());
    assert_eq!(thaws.len(), 1);
    signal(thaws[0], Signal::SIGKILL);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = place.count("box");
    sleep(Duration::from_millis(300));
    assert_eq!(place.count("box"), before, "nothing was frozen");
    place.ok(&["changes", "box"]);
    place.wait_for_count("box", Duration::from_secs(1));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_snapshot_that_is_stopped_thaws_the_programs_at_the_deadline_and_is_live() {
    let mut place = Place::new(&["box"]);
    place.fill("box", 1500);
    place.start("box", &["run", "box", "--", "sh", "-c", LOCKSTEP]);
    let child = (0..200).find_map(|number| stop_frozen(&place, number)).unwrap();
    place.wait_for_count("box", Duration::from_secs(20));
    signal(child.id(), Signal::SIGCONT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let why = "the programs were not frozen, or the rest not copied, within 5s";
    assert_eq!(said.lines().next().unwrap(), format!("{NOTE}{why}"));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_process_outside_of_the_cgroup_makes_a_snapshot_live_and_is_named() {
    let mut place = Place::new(&["box"]);
    place.start("box", &["run", "box", "--", "sh", "-c", LOCKSTEP]);
    let (pid, group) = place.process_1("box");
    let snapshot = |name: &str, outside: u32| {
        let said = place.ok(&["snapshot", "box", name]);
        let start = format!("{NOTE}process {outside} (");
        let end = ") uses the workspace and is in no cgroup of `ovl run`";
        let said = said.lines().next().unwrap();
        assert!(said.starts_with(&start) && said.ends_with(end), "{said:?}");
        place.wait_for_count("box", Duration::from_secs(1));
    };
    // It has entered the namespace, has a directory of it, or an open file.
    let original = place.original("box");
    let inside = format!("/proc/{pid}/root{}", original.display());
    let target = pid.to_string();
    let nsenter = ["nsenter", "--mount", "--target", &target, "sleep", "100"];
    let in_dir = format!("cd {inside} && exec sleep 100");
    let with_file = format!("exec sleep 100 3>>{inside}/a/log");
    for (number, words) in
        [&nsenter[..], &["sh", "-c", &in_dir], &["sh", "-c", &with_file]].into_iter().enumerate()
    {
        let mut other = Command::new(words[0]).args(&words[1..]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", other.id());
        while fs::read_to_string(&comm).unwrap().trim_end() != "sleep" {
            sleep(Duration::from_millis(1));
        }
        snapshot(&format!("s{number}"), other.id());
        other.kill().unwrap();
        other.wait().unwrap();
    }
    assert_eq!(place.ok(&["snapshot", "box", "frozen"]), "");
    // The program itself has left the cgroup.
    fs::write(group.parent().unwrap().join("cgroup.procs"), pid.to_string()).unwrap();
    snapshot("left", pid);
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_a_run_in_a_run_is_frozen_with_it_and_a_snapshot_from_inside_is_live() {
    let mut place = Place::new(&["outer", "inner"]);
    let ovl = env!("CARGO_BIN_EXE_ovl");
    let outer = format!("{LOCKSTEP} & exec \"$0\" run inner -- sh -c '{LOCKSTEP}'");
    place.start("outer", &["run", "outer", "--", "sh", "-c", &outer, ovl]);
    place.wait_for_count("inner", Duration::from_secs(30));
    for number in 0..5 {
        for name in ["inner", "outer"] {
            let snapshot = format!("s{number}");
            assert_eq!(place.ok(&["snapshot", name, &snapshot]), "");
            place.check(name, &snapshot);
        }
    }
    let said = place.ok(&["run", "outer", "--", ovl, "snapshot", "outer", "inside"]);
    let why = "this command was started by `ovl run` itself";
    assert_eq!(said.lines().next().unwrap(), format!("{NOTE}{why}"));
    place.wait_for_count("outer", Duration::from_secs(1));
    place.wait_for_count("inner", Duration::from_secs(1));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_stopped_programs_and_a_cgroup_that_another_program_has_frozen_stay_as_they_were() {
    let mut place = Place::new(&["box"]);
    let script = format!("sleep 100 & kill -STOP $!; {LOCKSTEP}");
    place.start("box", &["run", "box", "--", "sh", "-c", &script]);
    assert_eq!(place.ok(&["snapshot", "box", "stopped"]), "");
    place.check("box", "stopped");
    let (pid, group) = place.process_1("box");
    let (file, on, off) = match group.join("cgroup.freeze").exists() {
        true => ("cgroup.freeze", "1", "0"),
        false => ("freezer.state", "FROZEN", "THAWED"),
    };
    let stopped = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        stat.contains(") T ") && groups.contains(group.file_name().unwrap().to_str().unwrap())
    });
    assert!(stopped, "the job of process {pid} is not stopped any more");
    fs::write(group.join(file), on).unwrap();
    assert_eq!(place.ok(&["snapshot", "box", "frozen"]), "");
    let before = place.count("box");
    sleep(Duration::from_millis(200));
    assert_eq!(place.count("box"), before);
    fs::write(group.join(file), off).unwrap();
    place.wait_for_count("box", Duration::from_secs(1));
}
