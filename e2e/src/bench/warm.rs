//! The cost of volumes whose layers are on the node: time at the socket, entries in the mount
//! table, and page cache.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::images::{BenchRegistry, DEEP};
use super::table::{Limit, Row};
use super::times::percentile;
use crate::driver::process::{NodeProcess, Volume};
use crate::machine::process::Cmd;

/// Volumes that are published one after the other, for the percentiles.
const MANY: usize = 300;

/// Volumes that are published at once.
const AT_ONCE: usize = 100;

/// Bytes that are read from a volume to measure the page cache.
const READ: u64 = 256 << 20;

/// Measures everything that needs a driver with its layers.
pub fn measure(driver: &NodeProcess, registry: &BenchRegistry) -> Result<Vec<Row>> {
    let [large, flat, deep] = ["bench:1", "flat:1", "deep:1"].map(|name| registry.image(name));
    for (at, image) in [&large, &flat, &deep].into_iter().enumerate() {
        let volume = driver.volume(&format!("first-{at}"), image);
        driver.publish(&volume)?;
        driver.unpublish(&volume)?;
    }
    let mut rows = Vec::new();
    let (mut warm, _) = times(driver, "warm", &large, MANY, false)?;
    rows.push(Row::milliseconds("warm publish, p50", percentile(&mut warm, 50)).within(3.0));
    rows.push(Row::milliseconds("warm publish, p99", percentile(&mut warm, 99)).within(15.0));

    let (mut one, _) = times(driver, "flat", &flat, AT_ONCE, false)?;
    let (mut hundred, _) = times(driver, "deep", &deep, AT_ONCE, false)?;
    let more = percentile(&mut hundred, 50).saturating_sub(percentile(&mut one, 50));
    rows.push(Row::milliseconds(&format!("{DEEP} lowers, more than 1"), more).within(2.0));

    let (_, in_turn) = times(driver, "turn", &large, AT_ONCE, false)?;
    let (_, at_once) = times(driver, "once", &large, AT_ONCE, true)?;
    let row = Row::seconds(&format!("{AT_ONCE} publishes at once"), at_once);
    rows.push(row.beside("in turn", in_turn, Limit::AtMost(1.2)));
    // It includes the pull before.
    let most = driver.memory("VmHWM")?;
    rows.push(Row::mebibytes("memory, peak of these", most).within(150.0));

    let before = mounts()?;
    let volume = driver.volume("read", &large);
    driver.publish(&volume)?;
    let entries = mounts()?.saturating_sub(before);
    rows.push(Row::count("mount table entries a volume", entries as f64).within(1.0));
    let cached = page_cache(&volume, driver);
    driver.unpublish(&volume)?;
    rows.push(Row::count("page cache per byte read", cached?).within(1.1));
    Ok(rows)
}

/// Publishes and unpublishes this many volumes. Returns the time of each publish, and of all.
fn times(
    driver: &NodeProcess,
    name: &str,
    image: &str,
    count: usize,
    at_once: bool,
) -> Result<(Vec<Duration>, Duration)> {
    let volume = |number| driver.volume(&format!("{name}-{number}"), image);
    let volumes: Vec<Volume> = (0..count).map(volume).collect();
    let since = Instant::now();
    let times = driver.publish_all(&volumes, at_once)?;
    let all = since.elapsed();
    volumes.iter().try_for_each(|volume| driver.unpublish(volume))?;
    Ok((times, all))
}

fn mounts() -> Result<usize> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    Ok(table.lines().count())
}

/// Reads files of a volume with a cold cache. Returns the cached bytes for each byte read: of the
/// files and of the layers below.
fn page_cache(volume: &Volume, driver: &NodeProcess) -> Result<f64> {
    let mut files = Vec::new();
    walk(&volume.target().join("usr/lib"), READ, &mut files)?;
    ensure!(!files.is_empty(), "the image has no files to read");
    let store = driver.log().parent().context("a log in no directory")?.join("store/layers");
    let mut layers = Vec::new();
    walk(&store, u64::MAX, &mut layers)?;
    Cmd::new("sync").output()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache")?;
    let mut bytes = 0;
    for file in &files {
        let mut open = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        bytes += io::copy(&mut open, &mut io::sink()).context("reading a volume")?;
    }
    let cached = cached(&files)? + cached(&layers)?;
    Ok(cached as f64 / bytes as f64)
}

/// Collects regular files of some size below a directory, up to this many bytes.
fn walk(dir: &Path, mut budget: u64, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir);
        for entry in entries.with_context(|| format!("listing {}", dir.display()))? {
            let entry = entry.context("listing a volume")?;
            let about = entry.metadata().context("looking at a file")?;
            if about.is_dir() {
                dirs.push(entry.path());
            } else if about.is_file() && about.len() >= 4096 && budget >= about.len() {
                budget -= about.len();
                found.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Bytes of these files that are in the page cache.
fn cached(files: &[PathBuf]) -> Result<u64> {
    let mut bytes = 0;
    for some in files.chunks(500) {
        let fincore = Cmd::new("fincore").args(["--json", "--bytes", "--output", "RES"]);
        let output = fincore.args(some).output()?;
        let output: Value = serde_json::from_str(&output).context("parsing fincore's output")?;
        let list = output.get("fincore").and_then(Value::as_array).into_iter().flatten();
        bytes += list.filter_map(|file| number(&file["res"])).sum::<u64>();
    }
    Ok(bytes)
}

/// A number. Older releases of util-linux write it as text.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
