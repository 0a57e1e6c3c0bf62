//! A place for commands of workspaces as processes. For `tests/privileged_workspaces.rs` and `tests/privileged_cli.rs`.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// A directory with an original and a store.
pub struct Place(pub TempDir);

impl Place {
    /// A directory in which nothing was created yet.
    pub fn new() -> Self {
        let place = Self(TempDir::with_prefix("ovl-workspaces-").unwrap());
        fs::create_dir_all(place.0.path().join("original/sub")).unwrap();
        fs::write(place.0.path().join("original/sub/file"), "text").unwrap();
        place
    }

    /// A command of `ovl` in the directory.
    pub fn ovl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ovl"));
        command.args(words).env("OVL_ROOT", self.0.path().join("store"));
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command.
    pub fn run(&self, words: &[&str]) -> Output {
        self.ovl(words).output().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also after a failure: a mount would keep the directory.
        self.run(&["umount", "--all"]);
    }
}
