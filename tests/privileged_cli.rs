//! What the commands of workspaces print for programs and for shells.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::{fs, process::Command};

#[path = "support/place.rs"]
mod place;

use place::Place;

impl Place {
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
