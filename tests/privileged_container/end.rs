//! How a container ends: by signals, and with its caller.

use std::{fs, path::Path};

use serde_json::json;

use super::{
    Test,
    world::{World, until},
};

pub const TESTS: &[Test] = &[
    ("privileged_signals_are_passed_on_to_the_command", signals),
    ("privileged_a_signal_without_a_handler_ends_the_command", default_signals),
    ("privileged_nothing_stays_when_the_caller_is_killed", killed_caller),
    ("privileged_nothing_stays_when_the_caller_is_killed_at_any_moment", killed_at_any_moment),
    ("privileged_a_container_that_takes_too_long_is_killed_with_all_its_processes", timeout),
    ("privileged_the_processes_are_in_a_cgroup_of_their_own", own_cgroup),
];

fn signals() {
    let world = World::new();
    for name in ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"] {
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while true; do sleep 0.05; done"
        );
        let mut running = world.start(&script, json!({}));
        running.wait_for("ready");
        running.signal(name);
        assert_eq!(running.code(), 9, "{name}");
        assert_eq!(running.text(), format!("ready\ngot {name}\n"));
    }
}

fn default_signals() {
    let world = World::new();
    for (name, code) in [("TERM", 143), ("HUP", 129)] {
        let mut running = world.start("echo ready; exec sleep 1000", json!({}));
        running.wait_for("ready");
        running.signal(name);
        assert_eq!(running.code(), code, "{name}");
    }
}

/// Starts a daemon: it was forked twice, is in a session of its own, and its parent has ended. `marker` is an argument
/// of it.
fn daemon(marker: &str) -> String {
    format!("(setsid sh -c 'echo daemon; exec sleep {marker}' &) ; sleep 1000 & echo ready; wait")
}

fn killed_caller() {
    let world = World::new();
    for user in ["root", "ada"] {
        let mut running =
            world.start(&daemon("7654321"), json!({ "user": user, "cgroup": "killed" }));
        running.wait_for("daemon");
        running.wait_for("ready");
        until("the daemon runs", || !world.processes("7654321").is_empty());
        assert!(!world.mounts().is_empty());
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        until("no process stays", || world.processes("7654321").is_empty());
        until("no mount stays", || world.mounts().is_empty());
    }
    // The next one removes the cgroups that these left. The kernel may still be ending the last process.
    until("no cgroup stays", || {
        world.sh("true", json!({ "cgroup": "next" }));
        cgroups("killed").is_empty()
    });
    assert_eq!(cgroups("next"), Vec::<String>::new());
}

fn killed_at_any_moment() {
    let world = World::new();
    for millis in 0..40 {
        let mut running = world.start(&daemon("7654322"), json!({ "user": "ada" }));
        std::thread::sleep(std::time::Duration::from_micros(millis * 700));
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        until("no process stays", || world.processes("7654322").is_empty());
        until("no mount stays", || world.mounts().is_empty());
        let scratch = world.path("").to_str().unwrap().to_owned();
        until("no process 1 stays", || {
            let processes = fs::read_dir("/proc").unwrap();
            !processes.filter_map(Result::ok).any(|entry| {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.contains(super::CONTAINER) && line.contains(&scratch)
            })
        });
    }
}

fn timeout() {
    let world = World::new();
    let command = format!("trap '' TERM HUP INT; {}", daemon("7654323"));
    for terminal in [false, true] {
        let spec = json!({ "timeout_ms": 700, "terminal": terminal, "cgroup": "late" });
        let mut running = world.start(&command, spec);
        running.wait_for("daemon");
        until("the daemon runs", || !world.processes("7654323").is_empty());
        assert_eq!(running.code(), 124);
        assert_eq!((world.processes("7654323"), world.mounts()), (Vec::new(), Vec::new()));
    }
    assert_eq!(cgroups("late"), Vec::<String>::new());
    // One that ends before has its own exit code.
    let output = world.output(&["sh", "-c", "exit 7"], json!({ "timeout_ms": 60_000 }));
    assert_eq!(output.status.code(), Some(7));
}

fn own_cgroup() {
    let world = World::new();
    let mut running = world.start("sleep 1000 & echo ready; wait", json!({ "cgroup": "mine" }));
    running.wait_for("ready");
    let groups = cgroups("mine");
    let [group] = &groups[..] else { panic!("{groups:?}") };
    let members = fs::read_to_string(Path::new(group).join("cgroup.procs")).unwrap();
    // Process 1, the shell and its child, but not the caller.
    assert_eq!(members.lines().count(), 3, "{members}");
    assert!(!members.lines().any(|pid| pid == running.child.id().to_string()), "{members}");
    running.signal("TERM");
    assert_eq!(running.code(), 143);
    assert_eq!(cgroups("mine"), Vec::<String>::new());
}

/// The cgroups of containers with this name.
fn cgroups(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let file_name = entry.file_name().into_string().unwrap();
            if is_dir && file_name.starts_with(&format!("ovl-{name}-")) {
                found.push(entry.path().to_str().unwrap().to_owned());
            } else if is_dir {
                next.push(entry.path());
            }
        }
    }
    found
}
