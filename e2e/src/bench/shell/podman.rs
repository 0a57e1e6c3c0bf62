//! podman as root, with a store of its own on the same disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ovl::timed;
use crate::bench::busy::disk::Disk;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// A store of podman.
pub struct Podman<'a> {
    root: PathBuf,
    run: PathBuf,
    log: &'a Path,
}

/// The state of its mounts. podman refuses a path that is longer than 50 characters.
const RUN: &str = "/run/ovl-csi-bench-podman";

/// The options of every command: those that choose the store, and for machines whose cgroups have both versions.
const OPTIONS: [&str; 4] = ["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"];

impl<'a> Podman<'a> {
    /// A store on the disk.
    pub fn new(disk: &Disk, log: &'a Path) -> Self {
        Self { root: disk.at.join("podman"), run: PathBuf::from(RUN), log }
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let store = [("--root", &self.root), ("--runroot", &self.run)];
        let store =
            store.iter().flat_map(|(key, path)| [(*key).to_owned(), path.display().to_string()]);
        store.chain(OPTIONS.iter().chain(args).map(|arg| (*arg).to_owned())).collect()
    }

    /// Runs a command, and returns how long it took.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&self, args: &[&str]) -> Result<Duration> {
        timed(Command::new("podman").args(self.args(args)), self.log)
    }

    /// Makes an image of the files in a directory.
    ///
    /// # Errors
    /// tar or podman failed.
    pub fn import(&self, dir: &Path, image: &str) -> Result<()> {
        let tar = dir.with_extension("tar");
        Cmd::new("tar").arg("-cf").arg(&tar).arg("-C").arg(dir).arg(".").run()?;
        let tar_name = tar.display().to_string();
        let import = Cmd::new("podman").args(self.args(&["import", "--quiet", &tar_name, image]));
        import.limit(seconds(600)).output()?;
        std::fs::remove_file(&tar).context("removing an archive")
    }

    /// Creates a container, which is not started. Returns how long it took.
    ///
    /// # Errors
    /// podman failed.
    pub fn create(&self, name: &str, image: &str) -> Result<Duration> {
        self.run(&[
            "create",
            "--cgroups=disabled",
            "--network",
            "none",
            "--name",
            name,
            image,
            "true",
        ])
    }

    /// Mounts a container, and returns where.
    ///
    /// # Errors
    /// podman failed.
    pub fn mount(&self, name: &str) -> Result<PathBuf> {
        Ok(Cmd::new("podman").args(self.args(&["mount", name])).output()?.into())
    }

    /// Removes all containers and images, with what podman has mounted.
    ///
    /// # Errors
    /// podman failed.
    pub fn remove(&self) -> Result<()> {
        Cmd::new("podman").args(self.args(&["rm", "--all", "--force"])).output()?;
        Cmd::new("podman").args(self.args(&["rmi", "--all", "--force"])).output()?;
        std::fs::remove_dir_all(&self.run).context("removing the state of podman")
    }
}
