//! Copies of directories that go on living, with the program `ovl`, real file systems, git, builds and podman.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod builds;
mod git;
mod living;
mod places;
mod podman;
mod programs;
#[path = "../support/unmount.rs"]
mod unmount;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use unmount::unmount_below;

/// A directory with a store and whatever a test mounts.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let root = std::env::temp_dir().canonicalize().unwrap();
        Self(TempDir::with_prefix_in("ovl-originals-", root).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// `ovl` with the store of the test.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovl"));
        command.args(words).env("OVL_ROOT", self.path("store")).env("HOME", self.0.path());
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// What `ovl` prints to its standard output. It must succeed.
    fn ovl(&self, words: &[&str]) -> String {
        let done = self.command(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// The error of `ovl`, which must fail with this exit code.
    fn refused(&self, code: i32, words: &[&str]) -> String {
        let done = self.command(words).output().unwrap();
        let text = String::from_utf8(done.stderr.clone()).unwrap();
        assert_eq!(done.status.code(), Some(code), "{words:?}: {done:?}");
        text
    }

    /// What a line of shell prints in a workspace.
    fn run(&self, name: &str, line: &str) -> String {
        self.ovl(&["run", name, "--", "sh", "-ec", line])
    }

    /// What lines of shell print, in a directory of the test.
    fn sh(&self, dir: &str, lines: &str) -> String {
        let done = self.shell(dir, lines);
        assert!(done.status.success(), "{lines}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn shell(&self, dir: &str, lines: &str) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-euc", lines]).current_dir(self.path(dir)).stdin(Stdio::null());
        shell.env("HOME", self.0.path()).output().unwrap()
    }

    /// A new file system, mounted at the directory `name`.
    fn disk(&self, name: &str, mkfs: &str) -> PathBuf {
        let at = self.dir(name);
        let make = format!(
            "truncate -s 400M {name}.img; {mkfs} {name}.img; mount -o loop {name}.img {name}"
        );
        self.sh("", &make);
        at
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount_below(self.0.path());
    }
}
