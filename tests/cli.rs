//! The program as it is started: what it says and how it exits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::process::Command;

/// The exit code of `ovl` with `args`, and what it wrote to stdout and stderr.
fn ovl(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ovl"))
        .args(args)
        .env_remove("NODE_NAME")
        .env_remove("OVL_LOG")
        .output()
        .unwrap();
    let written = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(written).unwrap())
}

#[test]
fn says_its_version() {
    let (code, said) = ovl(&["--version"]);
    assert_eq!((code, said.trim()), (Some(0), concat!("ovl ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn what_cannot_be_used_is_named_and_nothing_is_begun() {
    for (args, sentence) in [
        (&[][..], "Usage: ovl"),
        (&["nod"], "unrecognized subcommand"),
        (&["node"], "--node-name <NAME>"),
        (&["node", "--node-name", "N_1"], "\"N_1\" is not a node name"),
        (&["node", "--node-name", "n", "--driver-name", "a/b"], "\"a/b\" is not a driver name"),
        (
            &["node", "--node-name", "n", "--endpoint", "/csi.sock"],
            "is not an endpoint: expected unix://",
        ),
        (&["node", "--node-name", "n", "--root", "var"], "expected an absolute path"),
        (&["node", "--node-name", "n", "--log", "ovl=loud"], "is not a log filter"),
        (&["node", "--node-name", "n", "--health-address", "9808"], "invalid socket address"),
        (
            &["node", "--node-name", "n", "--kubelet-dir", "/proc/self/no"],
            "ovl node mounts|--kubelet-dir /proc/self/no is not a folder",
        ),
    ] {
        let (code, said) = ovl(args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(sentence.split('|').any(|s| said.contains(s)), "{sentence:?} is not in {said:?}");
    }
}
