//! `cargo xtask bench`: how long a volume takes and what it costs, compared with other programs for
//! the same image on the same machine at the same time.
//!
//! ```text
//! image (built once, kept) ── registry on loopback ─┬─ ovl node, called at its socket
//!                                                   ├─ containerd, podman: a pull
//!                                                   └─ the baseline: the least work of a pull
//! ```
//!
//! and the cost of snapshots, in `snapshots`, of a busy disk, in `busy`, of the commands of workspaces, in
//! `shell`, and of thousands of snapshots in a cluster, in `controller`.
//!
//! Not part of `test`: the results depend on other work of the machine. Deliberately absent: tuning
//! of the peers. Each runs with its defaults.
//!
//! May use: machine, toolchain, oci, driver, cluster

mod baseline;
mod busy;
mod controller;
mod images;
mod peers;
mod programs;
mod shell;
mod snapshots;
mod table;
mod times;
mod warm;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::prerequisites;
use crate::cluster::purpose::Purpose;
use crate::driver;
use crate::driver::process::NodeProcess;
use crate::machine::cache::Cache;
use crate::machine::harness::Harness;
use crate::machine::mounts;
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};
use images::BenchRegistry;
use table::{Limit, Row};
use times::{ROUNDS, median, timed};

/// A part that can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Pulls of an image that is not on the node.
    Pulls,
    /// Volumes of an image that is on the node.
    Warm,
    /// Captures, and pushes of snapshots.
    Snapshots,
    /// Volumes beside a neighbour that writes.
    Busy,
    /// Commands on workspaces.
    Shell,
    /// Thousands of VolumeSnapshots.
    Controller,
}

impl Part {
    const ALL: [(&str, Self); 6] = [
        ("pulls", Self::Pulls),
        ("warm", Self::Warm),
        ("snapshots", Self::Snapshots),
        ("busy", Self::Busy),
        ("shell", Self::Shell),
        ("controller", Self::Controller),
    ];

    fn named(name: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, part)) => Ok(*part),
            None => bail!(
                "there is no part {name}; there are pulls, warm, snapshots, busy, shell and controller"
            ),
        }
    }

    /// Whether it needs an image from the container engine.
    fn needs_image(self) -> bool {
        !matches!(self, Self::Busy | Self::Shell | Self::Controller)
    }
}

/// What is measured.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    parts: Vec<Part>,
    /// VolumeSnapshots for the controller.
    count: usize,
}

impl Plan {
    /// The named parts, or all parts, and `--count N`.
    ///
    /// # Errors
    /// A name that no part has, or no number.
    pub fn parse(args: &[&str]) -> Result<Self> {
        let (mut parts, mut count) = (Vec::new(), controller::COUNT);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match *arg {
                "--count" => {
                    let number = args.next().and_then(|number| number.parse().ok());
                    count = number.filter(|n| *n > 0).context("--count needs a number above 0")?;
                }
                name => parts.push(Part::named(name)?),
            }
        }
        if parts.is_empty() {
            parts.extend(Part::ALL.map(|(_, part)| part));
        }
        Ok(Self { parts, count })
    }
}

/// Becomes the same command compiled with optimization, unless only a busy disk or only workspaces are measured: the
/// baseline of the other parts is our own code.
///
/// # Errors
/// cargo cannot be started.
pub fn in_release(parts: &[&str]) -> Result<()> {
    if !cfg!(debug_assertions) || matches!(parts, ["busy" | "shell"]) {
        return Ok(());
    }
    let repo = driver::sources()?;
    let args = ["run", "--release", "--quiet", "--locked", "--package", "ovl-e2e", "--"];
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(repo)
        .args(args)
        .args(std::env::args().skip(1))
        .env("CARGO_TARGET_DIR", Cache::open()?.cargo_target());
    Err(cargo.exec()).context("starting cargo")
}

/// Measures the parts, prints the table and writes it as JSON.
///
/// # Errors
/// Something of ours failed. A missing peer is a line in the table.
pub fn run(h: &Harness, repo: &Path, plan: &Plan) -> Result<()> {
    let place = h.cache.scratch("bench")?;
    let measured = all(h, repo, &place, plan);
    mounts::unmount_below(&[&place])?;
    mounts::remove(&place)?;
    let (rows, registry, notes) = measured?;
    let table = table::text(&rows, registry.as_ref(), &notes);
    h.progress.say(&format!("\n{table}"));
    let json = h.cache.root().join("bench.json");
    fs::write(&json, table::json(&rows, registry.as_ref(), &notes).to_string())
        .with_context(|| format!("writing {}", json.display()))?;
    h.progress.say(&format!("The same as JSON: {}", json.display()));
    Ok(())
}

/// The rows, the registry with the image of the first rows, and what could not be measured.
type Measured = (Vec<Row>, Option<BenchRegistry>, Vec<String>);

fn all(h: &Harness, repo: &Path, place: &Path, plan: &Plan) -> Result<Measured> {
    let Plan { parts, count } = plan;
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let mut registry = None;
    if parts.iter().any(|part| part.needs_image()) {
        let prerequisites = prerequisites::provision(h, Purpose::Test)?;
        let program = driver::program(h, repo)?;
        let image = registry.insert(BenchRegistry::ensure(h, &prerequisites)?);
        (rows, notes) = measure(h, &program, image, place, parts)?;
        if parts.contains(&Part::Snapshots) {
            let place = place.join("snapshots");
            rows.extend(snapshots::measure(h, repo, &prerequisites, &place, &mut notes)?);
        }
    }
    if parts.contains(&Part::Busy) {
        rows.extend(busy::measure(h, repo, &place.join("busy"), &mut notes)?);
    }
    if parts.contains(&Part::Shell) {
        rows.extend(shell::measure(h, repo, &place.join("shell"))?);
    }
    if parts.contains(&Part::Controller) {
        let place = place.join("controller");
        rows.extend(controller::measure(h, repo, &place, *count, &mut notes)?);
    }
    Ok((rows, registry, notes))
}

fn measure(
    h: &Harness,
    program: &Path,
    registry: &BenchRegistry,
    place: &Path,
    parts: &[Part],
) -> Result<(Vec<Row>, Vec<String>)> {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    if parts.contains(&Part::Pulls) {
        let peers = peers::all(h, place, &mut notes);
        rows.extend(cold(h, program, registry, place, &peers, &mut notes)?);
    }
    if !parts.contains(&Part::Warm) {
        return Ok((rows, notes));
    }
    let warm = h.progress.step("warm volumes", seconds(30), |_| {
        fresh(place, "warm", |dir| {
            let driver = NodeProcess::start(program, dir, registry.address)?;
            let warm = warm::measure(&driver, registry);
            warm.with_context(|| format!("see {}", driver.log().display()))
        })
    })?;
    rows.extend(warm);
    Ok((rows, notes))
}

/// Cold pulls, in turn, so other work of the machine affects all of them.
fn cold(
    h: &Harness,
    program: &Path,
    registry: &BenchRegistry,
    place: &Path,
    peers: &[Box<dyn peers::Peer>],
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let (mut ours, mut baselines) = (Vec::new(), Vec::new());
    let mut others: Vec<Vec<Duration>> = peers.iter().map(|_| Vec::new()).collect();
    let mut memory = Vec::new();
    let layers = registry.layers()?;
    // From here on the files of the registry are in memory for all programs.
    h.progress.step("reading the image once", seconds(5), |_| baseline::read(registry, &layers))?;
    for round in 1..=ROUNDS {
        h.progress.step(&format!("cold pulls, round {round} of {ROUNDS}"), minutes(2), |_| {
            fresh(place, "ours", |dir| {
                let driver = NodeProcess::start(program, dir, registry.address)?;
                let idle = driver.memory("VmRSS")?;
                let volume = driver.volume("cold", &registry.image("bench:1"));
                let pulled = timed(|| driver.publish(&volume));
                ours.push(pulled.with_context(|| format!("see {}", driver.log().display()))?);
                memory.push((idle, driver.memory("VmHWM")?));
                driver.unpublish(&volume)
            })?;
            for (peer, times) in peers.iter().zip(&mut others) {
                let pulled = fresh(place, peer.name(), |dir| peer.pull(dir, registry));
                match pulled {
                    Ok(time) => times.push(time),
                    Err(error) => notes.push(format!("{}: {error:#}", peer.name())),
                }
            }
            fresh(place, "baseline", |dir| {
                baselines.push(timed(|| baseline::run(registry, &layers, dir))?);
                Ok(())
            })
        })?;
    }
    let ours = median(&mut ours).context("no round")?;
    let mut rows = Vec::new();
    let against = [("containerd", Limit::AtMost(0.5)), ("podman", Limit::None)];
    for (peer, times) in peers.iter().zip(&mut others) {
        let Some(theirs) = median(times) else { continue };
        let limit = against.iter().find(|(name, _)| *name == peer.name());
        let limit = limit.map_or(Limit::None, |(_, limit)| *limit);
        rows.push(Row::seconds("cold publish", ours).beside(peer.name(), theirs, limit));
    }
    let baseline = median(&mut baselines).context("no round")?;
    rows.push(Row::seconds("cold publish", ours).beside("baseline", baseline, Limit::AtMost(1.3)));
    let most = |of: fn(&(u64, u64)) -> u64| memory.iter().map(of).max().unwrap_or_default();
    rows.push(Row::mebibytes("memory, idle", most(|m| m.0)).within(32.0));
    rows.push(Row::mebibytes("memory, peak of a pull", most(|m| m.1)).within(150.0));
    Ok(rows)
}

/// Runs work in an empty directory, and removes the directory with every mount in it. Neither is
/// measured.
fn fresh<T>(place: &Path, name: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir: PathBuf = place.join(name);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    // Data of earlier work must not slow this one.
    Cmd::new("sync").output()?;
    let result = work(&dir).with_context(|| name.to_owned());
    mounts::unmount_below(&[&dir])?;
    mounts::remove(&dir)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_or_those_named() -> Result<()> {
        assert_eq!(Plan::parse(&[])?.parts.len(), Part::ALL.len());
        let short = Plan { parts: vec![Part::Warm, Part::Controller], count: 500 };
        assert_eq!(Plan::parse(&["warm", "--count", "500", "controller"])?, short);
        for wrong in [&["cold"][..], &["controller", "--count"], &["--count", "0"]] {
            assert!(Plan::parse(wrong).is_err(), "{wrong:?}");
        }
        Ok(())
    }
}
