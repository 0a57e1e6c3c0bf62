//! `cargo xtask demo`: the main job, on this machine alone, in less than a minute.
//!
//! ```text
//! this process ── a registry with an image ──────────────┐
//!   │ the kubelet's calls                                │ pulls, pushes
//!   ├── ovl node (first/) ── volumes ── pods a, b, forks ┤
//!   └── ovl node (second/) ─ volume ─── pod c ───────────┘
//! ```
//!
//! Deliberately absent: claims. Every line is of what was just looked at, and what is not as it should be ends the demonstration.

mod build;
pub mod inside;
mod layers;
pub mod place;
mod pod;
pub mod registry;
mod story;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::geteuid;

use crate::cache::Cache;
use crate::process::{self, Cmd, tail};
use place::Place;

/// How much of a node's log is shown when something went wrong.
const LOGGED: usize = 15;

/// The line that ends a demonstration in which everything was as it should be; behind it is its time in seconds.
pub const DONE: &str = "All of it was as it should be, in";

/// Where the demonstration's files are while it runs.
///
/// # Errors
/// There is no place for a cache.
pub fn root() -> Result<PathBuf> {
    Ok(Cache::open()?.root().join("demo"))
}

/// Builds the program, shows it, and takes everything away again, however that went.
///
/// # Errors
/// It does not compile, or something was not as it should be; the error says what.
pub fn run(repo: &Path) -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the demonstration mounts, so it has to be root: sudo -E env \"PATH=$PATH\" cargo xtask demo"
    );
    let program = build::program(repo)?;
    let since = Instant::now();
    let place = Place::make()?;
    let root = place.root.clone();
    process::at_last(move || match place::clear(&root) {
        Ok(()) => "nothing is left of the demonstration".to_owned(),
        Err(error) => format!("something is left of the demonstration: {error:#}"),
    });
    in_memory_if_needed(&program, &place)?;
    let shown = story::tell(&program, &place);
    let logs = shown.is_err().then(|| logs(&place.root));
    let cleared = place.clear().context("clearing up");
    match (shown, logs) {
        (Err(error), Some(logs)) => return Err(anyhow!("{error:#}\n{logs}")),
        (shown, _) => shown.and(cleared)?,
    }
    let left = place::left(&place.root)?;
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

/// The ends of the nodes' logs.
fn logs(root: &Path) -> String {
    let of = |node: &str| {
        let log = root.join(node).join("driver.log");
        tail(&log, LOGGED).ok().map(|end| format!("the log of the {node} node ends with:\n{end}\n"))
    };
    ["first", "second"].into_iter().filter_map(of).collect()
}

/// A store needs a file system that can hold an overlay's upper. Where there is none, one in memory does for the demonstration.
fn in_memory_if_needed(program: &Path, place: &Place) -> Result<()> {
    let check = |root: &Path| Cmd::new(program).arg("check").arg("--root").arg(root).outcome();
    let said = check(&place.root)?;
    if said.status.success() {
        return Ok(());
    }
    place.in_memory()?;
    let again = check(&place.root)?;
    if !again.status.success() {
        bail!("this kernel cannot do it:\n{}{}", again.stdout.trim_end(), again.stderr.trim_end());
    }
    println!(
        "  The file system of {} cannot hold an overlay's upper, so this is shown in memory (OVL_CACHE moves it).",
        place.root.display()
    );
    Ok(())
}

/// A time as people read it: `3.2 ms`, `1.4 s`.
fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 1.0 => format!("{:.1} ms", short * 1000.0),
        long => format!("{long:.1} s"),
    }
}

/// Bytes as people read them, with decimal units.
#[allow(clippy::cast_precision_loss, reason = "one digit is shown")]
fn bytes(count: u64) -> String {
    match count {
        0..1000 => format!("{count} bytes"),
        1000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}
