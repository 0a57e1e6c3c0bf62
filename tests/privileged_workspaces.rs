//! The commands of workspaces as processes: killed at random moments, and several at a time on one store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ovl::workspaces::Workspaces;
use tempfile::TempDir;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A directory with an original and a store.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::with_prefix("ovl-workspaces-").unwrap());
        fs::create_dir_all(place.0.path().join("original/sub")).unwrap();
        fs::write(place.0.path().join("original/sub/file"), "text").unwrap();
        place
    }

    fn ovl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovl"));
        command.args(words).env("OVL_ROOT", self.0.path().join("store"));
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.ovl(words).output().unwrap()
    }

    /// The JSON that a command prints, and its exit code.
    fn json(&self, words: &[&str]) -> (serde_json::Value, i32) {
        let output = self.run(words);
        let value = serde_json::from_slice(&output.stdout);
        (value.unwrap_or_else(|e| panic!("{e}: {output:?}")), output.status.code().unwrap())
    }

    /// Runs a command that must succeed. Returns what it prints.
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A random command on random workspaces. Most of them can fail, because there is no such workspace or snapshot.
    fn random(&self, seed: &mut u64) -> Vec<String> {
        let mut pick = |count: usize| {
            // xorshift64, so that a failure can be repeated with its seed.
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            usize::try_from(*seed % count as u64).unwrap()
        };
        let (one, other) = (NAMES[pick(3)], NAMES[pick(3)]);
        let state = ["s", "t"][pick(2)];
        let text = format!("echo {} > file-{}; mkdir -p d; rm -f sub/file", pick(100), pick(3));
        let words: Vec<&str> = match pick(13) {
            0 => vec!["create", one, "--over", "original"],
            1 => vec!["create", one, "--from", other],
            2 => vec!["fork", one, other],
            3 | 4 => vec!["snapshot", one, state],
            5 => vec!["rollback", one, state, "--yes"],
            6 => vec!["clean", one],
            7 => vec!["remove", one, state],
            8 => vec!["scrub", one],
            9 => vec!["mount", one],
            10 => vec!["umount", one],
            11 => vec!["gc"],
            _ => vec!["run", one, "--", "sh", "-c", &text],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// Nothing is mounted in any namespace, nothing is staged, and every layer is there and whole.
    fn check(&self) {
        self.run(&["umount", "--all"]);
        let store = self.0.path().join("store");
        let start = Instant::now();
        loop {
            let left = mounts_of(&store);
            if left.is_empty() {
                break;
            }
            // The processes of a killed command may still be ending.
            assert!(start.elapsed() < Duration::from_secs(10), "{left:?}");
            sleep(Duration::from_millis(10));
        }
        let listed = self.run(&["list", "-o", "json"]);
        assert!(listed.status.success(), "{listed:?}");
        let all: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        for one in all.as_array().unwrap() {
            let name = one["name"].as_str().unwrap();
            let changes = self.run(&["changes", name]);
            assert!(changes.status.success(), "{changes:?}");
        }
        let workspaces = Workspaces::open(&store, &[]).unwrap();
        assert_eq!(workspaces.store().verify().unwrap(), []);
        drop(workspaces);
        for part in ["staging", "reservations"] {
            assert_eq!(fs::read_dir(store.join(part)).unwrap().count(), 0, "{part}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also after a failure: a mount would keep the directory.
        self.run(&["umount", "--all"]);
    }
}

/// The lines of all mount tables that name the store.
fn mounts_of(store: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let tables = processes.filter_map(|one| fs::read_to_string(one.path().join("mountinfo")).ok());
    let store = store.to_str().unwrap();
    let lines = tables.flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| line.contains(store)).collect()
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_commands_that_are_killed_leave_a_whole_store_and_no_mount() {
    let (place, mut seed) = (Place::new(), 0x9e37_79b9_7f4a_7c15_u64);
    assert!(place.run(&["create", "a", "--over", "original"]).status.success());
    let mut ended = 0;
    for round in 0..200_u64 {
        let words = place.random(&mut seed);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = place.ovl(&words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_micros(seed % 25_000));
        ended += u32::from(child.try_wait().unwrap().is_some());
        let _ = child.kill();
        child.wait().unwrap();
        if round % 20 == 19 {
            place.check();
        }
    }
    // Otherwise the moments of the kills say nothing.
    assert!((20..180).contains(&ended), "{ended} of 200 commands ended before the kill");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_several_commands_at_a_time_leave_a_whole_store() {
    let place = Place::new();
    assert!(place.run(&["create", "a", "--over", "original"]).status.success());
    std::thread::scope(|scope| {
        for thread in 1..=3_u64 {
            let place = &place;
            scope.spawn(move || {
                let mut seed = 0x2545_f491_4f6c_dd1d_u64 * thread;
                for _ in 0..60 {
                    let words = place.random(&mut seed);
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let done = place.run(&words);
                    let text = String::from_utf8_lossy(&done.stderr);
                    // A refusal has a sentence. Nothing else goes wrong because of the others.
                    let code = done.status.code();
                    assert!(matches!(code, Some(0..=3)), "{words:?}: {done:?}");
                    assert!(!text.contains("panicked"), "{words:?}: {text}");
                    let is_refusal = text.contains("workspace") || text.contains("snapshot");
                    assert!(code == Some(0) || is_refusal, "{words:?}: {text}");
                }
            });
        }
    });
    place.check();
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_an_apply_for_programs_has_what_was_written_and_each_conflict() {
    let place = Place::new();
    let original = place.0.path().join("original");
    place.ok(&["create", "a", "--over", "original"]);
    place.ok(&[
        "run",
        "a",
        "--",
        "sh",
        "-c",
        "echo copy > sub/file; echo 12 > new; mkdir .git; touch .git/HEAD",
    ]);
    fs::write(original.join("sub/file"), "both").unwrap();
    let (value, code) = place.json(&["apply", "a", "-o", "json"]);
    assert_eq!(code, 1, "{value}");
    let why = "it was changed there";
    let conflict = serde_json::json!([{ "path": "/sub/file", "reason": "changed", "why": why }]);
    assert_eq!((&value["conflicts"], &value["applied"]), (&conflict, &serde_json::json!([])));
    assert!(!original.join("new").exists());
    let (value, code) = place.json(&["apply", "a", "--theirs", "-o", "json"]);
    let new = serde_json::json!([{ "change": "A", "path": "/new", "size": 3, "differs": [] }]);
    assert_eq!((code, &value["applied"], &value["kept"]), (0, &new, &conflict));
    assert_eq!(value["leftOut"], serde_json::json!(["/.git", "/.git/HEAD"]));
    assert_eq!((&value["name"], &value["dryRun"]), (&"a".into(), &false.into()));
    assert_eq!(value["directory"], original.canonicalize().unwrap().to_str().unwrap());
    place.ok(&["run", "a", "--", "chmod", "4755", "new"]);
    let (value, code) = place.json(&["apply", "a", "--theirs", "-o", "json"]);
    assert_eq!((code, &value["special"][0]["reason"]), (1, &"setuid".into()));
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_forks_and_steps_for_programs() {
    let place = Place::new();
    let tree = place.0.path().join("tree/bin");
    fs::create_dir_all(&tree).unwrap();
    fs::copy("/bin/busybox", tree.join("sh")).unwrap();
    place.ok(&["create", "a", "rootfs:tree"]);
    let step = ["step", "a", "-o", "json", "--", "sh", "-c", "echo out; echo one > /one"];
    let (first, code) = place.json(&step);
    assert_eq!((code, &first["reused"], &first["exitCode"]), (0, &false.into(), &0.into()));
    let (forks, _) = place.json(&["fork", "a", "2", "-o", "json"]);
    assert_eq!(forks, serde_json::json!([{ "name": "a-1" }, { "name": "a-2" }]));
    place.ok(&["create", "b", "--from", "a@postinit"]);
    let again: Vec<_> = step.iter().map(|word| if *word == "a" { "b" } else { word }).collect();
    let (again, _) = place.json(&again);
    assert_eq!((&again["reused"], &again["key"]), (&true.into(), &first["key"]));
    assert_eq!(again["layer"], first["layer"]);
    let output = place.run(&["step", "b", "-o", "json", "--", "sh", "-c", "echo out; exit 7"]);
    let failed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &failed["exitCode"]), (Some(7), &7.into()));
    assert_eq!(failed["layer"], serde_json::Value::Null);
    assert!(output.stderr.starts_with(b"out\n"), "{output:?}");
    // What they are made of is listed.
    let (listed, _) = place.json(&["list", "b", "-o", "json"]);
    let present = &listed["unnamed"][0];
    let step = serde_json::json!(["sh", "-c", "echo out; echo one > /one"]);
    assert_eq!((&present["present"], &present["current"]), (&true.into(), &true.into()));
    assert_eq!(
        (&present["layers"][0]["key"], &present["layers"][0]["step"]),
        (&first["layer"], &step)
    );
    let text = place.ok(&["list", "b"]);
    assert!(text.contains("    └── (present) *  "), "{text}");
    assert!(text.contains("  1 step\n"), "{text}");
    assert!(text.contains("  sh -c 'echo out; echo one > /one'\n"), "{text}");
    assert!(text.contains("        └── failed  "), "{text}");
}

#[test]
#[ignore = "needs root: mounts overlays"]
fn privileged_names_are_completed_in_bash() {
    let place = Place::new();
    place.ok(&["create", "box", "--over", "original"]);
    place.ok(&["fork", "box", "bat"]);
    place.ok(&["snapshot", "box", "one"]);
    let script = place.0.path().join("script");
    fs::write(&script, place.ok(&["completion", "bash"])).unwrap();
    let complete = |line: &str, store: &str| {
        let text = r#"source "$1"; COMP_LINE="$2" COMP_POINT=${#2} COMP_WORDS=($2 "") COMP_CWORD=1
            _ovl_names "$3" "" ""; printf '%s ' "${COMPREPLY[@]}""#;
        let ovl = env!("CARGO_BIN_EXE_ovl");
        let script = script.to_str().unwrap();
        let output = Command::new("bash")
            .args(["-c", text, "bash", script, line, ovl])
            .env("OVL_ROOT", place.0.path().join(store))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("ovl run b", "store"), "bat box ");
    assert_eq!(complete("ovl scrub bat bo", "store"), "box ");
    assert_eq!(complete("ovl rollback box ", "store"), "postinit one ");
    // A word of bash begins after the @.
    assert_eq!(complete("ovl changes box@o", "store"), "one ");
    assert_eq!(complete("ovl changes box --against ", "store"), "postinit one current bat ");
    // Without a store that can be read there are only the commands and options of clap's script.
    for store in ["nothing", "script"] {
        assert!(!complete("ovl run b", store).contains("box"));
    }
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 3);
}
