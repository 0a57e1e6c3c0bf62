//! `ovl` with a store of its own, and the time of a program.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::times::percentile;

/// The program with a store.
pub struct Ovl<'a> {
    program: &'a Path,
    store: PathBuf,
    log: &'a Path,
}

impl<'a> Ovl<'a> {
    /// A store in an empty directory.
    pub fn new(program: &'a Path, store: PathBuf, log: &'a Path) -> Self {
        Self { program, store, log }
    }

    /// Runs a command, and returns how long it took.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&self, args: &[&str]) -> Result<Duration> {
        let mut command = Command::new(self.program);
        command.args(args).env("OVL_ROOT", &self.store);
        // Programs of the workspace are found at once.
        command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        timed(&mut command, self.log)
    }

    /// The directory of the store.
    pub fn store(&self) -> &Path {
        &self.store
    }
}

/// Runs a program with a few arguments, and returns how long it took.
///
/// # Errors
/// It failed.
pub fn call<A: AsRef<OsStr>>(program: &str, args: &[A], log: &Path) -> Result<Duration> {
    timed(Command::new(program).args(args), log)
}

/// Runs a command without input and output. The harness's own way to run commands starts threads, which would count.
///
/// # Errors
/// It failed. The error names the log with what it printed.
pub fn timed(command: &mut Command, log: &Path) -> Result<Duration> {
    let errors = File::options().append(true).create(true).open(log).context("opening a log")?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    let since = Instant::now();
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    let time = since.elapsed();
    ensure!(status.success(), "{command:?}: {status}; see {}", log.display());
    Ok(time)
}

/// The median.
pub fn middle(times: &mut [Duration]) -> Duration {
    percentile(times, 50)
}
