//! `cargo xtask bench`: how fast a volume is there and what it costs, beside what others need for
//! the same image on the same machine in the same minutes.
//!
//! ```text
//! image (made once, kept as a registry's folder) ── registry on loopback ─┬─ ovl node, asked at its socket
//!                                                                         ├─ containerd, podman: a pull
//!                                                                         └─ the floor: what no one can do without
//! ```
//!
//! and what snapshots cost, in `snapshots`, and what a busy disk does, in `busy`.
//!
//! Not part of `test`: what it finds depends on what else the machine does.
//! Deliberately absent: judgement of the peers. Each does what it does by default.

mod busy;
mod floor;
mod image;
pub mod ours;
mod peers;
mod snapshots;
mod table;
mod warm;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::clean;
use crate::driver;
use crate::harness::Harness;
use crate::process::Cmd;
use crate::progress::{minutes, seconds};
use crate::provision;
use image::Source;
use ours::Driver;
use table::{Limit, Row};

/// How often everything that takes long is done; the middle one counts.
const ROUNDS: usize = 3;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Pulls of an image that is not here.
    Pulls,
    /// Volumes of one that is.
    Warm,
    /// Cuts, and pushes of what was cut.
    Snapshots,
    /// Volumes beside a neighbour that writes.
    Busy,
}

impl Part {
    const ALL: [(&str, Self); 4] = [
        ("pulls", Self::Pulls),
        ("warm", Self::Warm),
        ("snapshots", Self::Snapshots),
        ("busy", Self::Busy),
    ];

    /// Those named, or all.
    ///
    /// # Errors
    /// A name that is none.
    pub fn named(names: &[&str]) -> Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(Self::ALL.map(|(_, part)| part).to_vec());
        }
        let part = |name: &&str| match Self::ALL.iter().find(|(known, _)| known == name) {
            Some((_, part)) => Ok(*part),
            None => bail!("there is no part {name}; there are pulls, warm, snapshots and busy"),
        };
        names.iter().map(part).collect()
    }
}

/// Becomes the same command compiled with optimization, where more is measured than a busy disk: the floor is our own code.
///
/// # Errors
/// cargo cannot be started.
pub fn in_release(parts: &[&str]) -> Result<()> {
    if !cfg!(debug_assertions) || parts == ["busy"] {
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

/// Measures these parts, prints the table and writes it as JSON.
///
/// # Errors
/// Something of ours did not work. A peer that cannot be had is a line in the table.
pub fn run(h: &Harness, repo: &Path, parts: &[Part]) -> Result<()> {
    let place = h.cache.scratch("bench")?;
    let measured = all(h, repo, &place, parts);
    clean::unmount_below(&[&place])?;
    clean::remove(&place)?;
    let (rows, source, notes) = measured?;
    let table = table::text(&rows, source.as_ref(), &notes);
    h.progress.say(&format!("\n{table}"));
    let json = h.cache.root().join("bench.json");
    fs::write(&json, table::json(&rows, source.as_ref(), &notes).to_string())
        .with_context(|| format!("writing {}", json.display()))?;
    h.progress.say(&format!("The same as JSON: {}", json.display()));
    Ok(())
}

/// The rows, the image that the first of them are about, and what could not be measured.
type Measured = (Vec<Row>, Option<Source>, Vec<String>);

fn all(h: &Harness, repo: &Path, place: &Path, parts: &[Part]) -> Result<Measured> {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let mut source = None;
    // A busy disk takes no container engine.
    if parts.iter().any(|part| *part != Part::Busy) {
        let ground = provision::provision(h)?;
        let program = driver::program(h, repo)?;
        let image = source.insert(Source::ensure(h, &ground)?);
        (rows, notes) = measure(h, &program, image, place, parts)?;
        if parts.contains(&Part::Snapshots) {
            let place = place.join("snapshots");
            rows.extend(snapshots::measure(h, repo, &ground, &place, &mut notes)?);
        }
    }
    if parts.contains(&Part::Busy) {
        rows.extend(busy::measure(h, repo, &place.join("busy"), &mut notes)?);
    }
    Ok((rows, source, notes))
}

fn measure(
    h: &Harness,
    program: &Path,
    source: &Source,
    place: &Path,
    parts: &[Part],
) -> Result<(Vec<Row>, Vec<String>)> {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    if parts.contains(&Part::Pulls) {
        let peers = peers::all(h, place, &mut notes);
        rows.extend(cold(h, program, source, place, &peers, &mut notes)?);
    }
    if !parts.contains(&Part::Warm) {
        return Ok((rows, notes));
    }
    let warm = h.progress.step("warm volumes", seconds(30), |_| {
        fresh(place, "warm", |folder| {
            let driver = Driver::start(program, folder, source)?;
            let warm = warm::measure(&driver, source);
            warm.with_context(|| format!("see {}", driver.log().display()))
        })
    })?;
    rows.extend(warm);
    Ok((rows, notes))
}

/// Cold pulls, in turn, so that whatever else the machine does falls on all of them.
fn cold(
    h: &Harness,
    program: &Path,
    source: &Source,
    place: &Path,
    peers: &[Box<dyn peers::Peer>],
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    let mut others: Vec<Vec<Duration>> = peers.iter().map(|_| Vec::new()).collect();
    let mut memory = Vec::new();
    let layers = source.layers()?;
    // The registry's files are in memory from here on, for everybody.
    h.progress.step("reading the image once", seconds(5), |_| floor::read(source, &layers))?;
    for round in 1..=ROUNDS {
        h.progress.step(&format!("cold pulls, round {round} of {ROUNDS}"), minutes(2), |_| {
            fresh(place, "ours", |folder| {
                let driver = Driver::start(program, folder, source)?;
                let idle = driver.memory("VmRSS")?;
                let volume = driver.volume("cold", &source.image("bench:1"));
                let pulled = timed(|| driver.publish(&volume));
                ours.push(pulled.with_context(|| format!("see {}", driver.log().display()))?);
                memory.push((idle, driver.memory("VmHWM")?));
                driver.unpublish(&volume)
            })?;
            for (peer, times) in peers.iter().zip(&mut others) {
                let pulled = fresh(place, peer.name(), |folder| peer.pull(folder, source));
                match pulled {
                    Ok(time) => times.push(time),
                    Err(error) => notes.push(format!("{}: {error:#}", peer.name())),
                }
            }
            fresh(place, "floor", |folder| {
                floors.push(timed(|| floor::run(source, &layers, folder))?);
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
    let floor = median(&mut floors).context("no round")?;
    rows.push(Row::seconds("cold publish", ours).beside("floor", floor, Limit::AtMost(1.3)));
    let most = |of: fn(&(u64, u64)) -> u64| memory.iter().map(of).max().unwrap_or_default();
    rows.push(Row::mebibytes("memory, idle", most(|m| m.0)).within(32.0));
    rows.push(Row::mebibytes("memory, peak of a pull", most(|m| m.1)).within(150.0));
    Ok(rows)
}

/// Gives work an empty folder, and takes it away with every mount in it, outside of any time.
fn fresh<T>(place: &Path, name: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let folder: PathBuf = place.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // What others have still to write is not this one's to wait for.
    Cmd::new("sync").output()?;
    let result = work(&folder).with_context(|| name.to_owned());
    clean::unmount_below(&[&folder])?;
    clean::remove(&folder)?;
    result
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let since = Instant::now();
    work()?;
    Ok(since.elapsed())
}

fn median(times: &mut [Duration]) -> Option<Duration> {
    times.sort();
    times.get(times.len() / 2).copied()
}

/// The value below which so many of a hundred lie.
fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort();
    let at = (times.len() * of_hundred).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_or_those_named() -> Result<()> {
        assert_eq!(Part::named(&[])?.len(), 4);
        assert_eq!(Part::named(&["warm"])?, [Part::Warm]);
        assert!(Part::named(&["cold"]).is_err());
        Ok(())
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let mut times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 50), Duration::from_millis(50));
        assert_eq!(percentile(&mut times, 99), Duration::from_millis(99));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
        assert_eq!(median(&mut times[..3]), Some(Duration::from_millis(2)));
    }
}
