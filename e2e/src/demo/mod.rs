//! `cargo xtask demo`: the main function of the driver, on this machine alone, in less than a
//! minute.
//!
//! ```text
//! this process ── a registry with an image ──────────────┐
//!   │ the kubelet's calls                                │ pulls, pushes
//!   ├── ovl node (first/) ── volumes ── pods a, b, forks ┤
//!   ├── ovl node (second/) ─ volume ─── pod c ───────────┘
//!   └── ovl create, run, fork … (alone/) ── copies of a directory
//! ```
//!
//! Deliberately absent: claims. Every line is printed after a check. An unexpected result ends the
//! demonstration with an error.
//!
//! May use: machine, oci, driver

pub mod build;
mod format;
mod layers;
mod one_machine;
mod pod;
pub mod pod_process;
mod walkthrough;
pub mod workspace;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::geteuid;

use crate::machine::cache::Cache;
use crate::machine::process::{self, Cmd, tail};
use workspace::Workspace;

/// Lines of a node's log that are shown after an error.
const LOGGED: usize = 15;

/// The start of the last line of a successful demonstration. Its time in seconds follows.
pub const DONE: &str = "All of it was as it should be, in";

/// The directory of the demonstration while it runs.
///
/// # Errors
/// There is no directory for a cache.
pub fn root() -> Result<PathBuf> {
    Ok(Cache::open()?.root().join("demo"))
}

/// Builds the program, runs the demonstration, and always cleans up.
///
/// # Errors
/// The program does not compile, or a check failed. The error says what.
pub fn run(repo: &Path) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the demonstration mounts, so it has to be root: sudo -E env \"PATH=$PATH\" cargo xtask demo"
    );
    run_program(&build::program(repo, &build::target()?)?)
}

/// The hidden command for the demonstration of a program that is built already.
pub const WITH: &str = "demo-with";

/// As [`run`], with this program.
///
/// # Errors
/// A check failed.
pub fn run_program(program: &Path) -> Result<()> {
    let since = Instant::now();
    let place = Workspace::create()?;
    let root = place.root.clone();
    process::on_signal(move || match workspace::clear(&root) {
        Ok(()) => "the demonstration left nothing".to_owned(),
        Err(error) => format!("the demonstration left something: {error:#}"),
    });
    in_memory_if_needed(program, &place)?;
    let shown = walkthrough::run(program, &place);
    let logs = shown.is_err().then(|| logs(&place.root));
    let cleared = place.clear().context("cleaning up");
    match (shown, logs) {
        (Err(error), Some(logs)) => return Err(anyhow!("{error:#}\n{logs}")),
        (shown, _) => shown.and(cleared)?,
    }
    let left = workspace::remaining(&place.root)?;
    ensure!(left.is_empty(), "the demonstration has left {}", left.join(", "));
    println!(
        "    Nothing is left on this machine: no process, no mount, no cgroup, no file.\n\n\
         {DONE} {:.1} s. Next:\n\
         \x20   cargo xtask test --quick   the tests that need no cluster\n\
         \x20   cargo xtask try            the same in a Kubernetes cluster of two nodes",
        since.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The last lines of the nodes' logs.
fn logs(root: &Path) -> String {
    let of = |node: &str| {
        let log = root.join(node).join("driver.log");
        tail(&log, LOGGED).ok().map(|end| format!("the log of the {node} node ends with:\n{end}\n"))
    };
    ["first", "second"].into_iter().filter_map(of).collect()
}

/// A store needs a file system that can hold an overlay's upper. Without one, the demonstration
/// uses a file system in memory.
fn in_memory_if_needed(program: &Path, place: &Workspace) -> Result<()> {
    let check = |root: &Path| Cmd::new(program).arg("check").arg("--root").arg(root).outcome();
    let output = check(&place.root)?;
    if output.status.success() {
        return Ok(());
    }
    place.in_memory()?;
    let again = check(&place.root)?;
    if !again.status.success() {
        bail!(
            "this kernel lacks what the driver needs:\n{}{}",
            again.stdout.trim_end(),
            again.stderr.trim_end()
        );
    }
    println!(
        "  The file system of {} cannot hold an overlay's upper, so the demonstration runs in memory (OVL_CACHE moves it).",
        place.root.display()
    );
    Ok(())
}
