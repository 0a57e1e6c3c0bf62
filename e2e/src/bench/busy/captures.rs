//! Captures beside a neighbour with dirty data, by both versions in turn.
//!
//! Deliberately absent: the procedure. It is in the test program, which is compiled with both
//! versions.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::disk::Disk;
use crate::bench::table::{Limit, Row, not_slower};
use crate::bench::times::percentile;
use crate::machine::mounts;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// Runs of each version. In one turn the slowest of the neighbour's syncs differ by a factor of ten.
const TURNS: usize = 4;

/// The output of a version's test program.
#[derive(Default)]
struct Times {
    captures: Vec<Duration>,
    /// The neighbour's syncs, without a capture and beside one.
    alone: Vec<Duration>,
    beside: Vec<Duration>,
    /// Captures of the same change on a quiet disk, and pushes of it.
    quiet: Vec<Duration>,
    pushes: Vec<Duration>,
}

impl Times {
    fn add(&mut self, output: &Value) -> Result<()> {
        let into = [
            ("captures", &mut self.captures),
            ("alone", &mut self.alone),
            ("beside", &mut self.beside),
            ("quiet", &mut self.quiet),
            ("pushes", &mut self.pushes),
        ];
        for (name, times) in into {
            let numbers =
                output[name].as_array().with_context(|| format!("no {name} in {output}"))?;
            times.extend(numbers.iter().filter_map(Value::as_f64).map(Duration::from_secs_f64));
        }
        Ok(())
    }
}

/// The rows: how long a capture takes, and how long the neighbour's syncs take meanwhile.
pub fn measure(
    disk: &Disk,
    registry: SocketAddr,
    ours: &Path,
    former: Option<&Path>,
) -> Result<Vec<Row>> {
    let (mut now, mut before) = (Times::default(), Times::default());
    for _ in 0..TURNS {
        if let Some(former) = former {
            before.add(&run_test(disk, registry, "former-captures", former)?)?;
        }
        now.add(&run_test(disk, registry, "captures", ours)?)?;
    }
    Ok(rows(&disk.fs_type, &mut now, former.is_some().then_some(&mut before)))
}

fn run_test(disk: &Disk, registry: SocketAddr, name: &str, program: &Path) -> Result<Value> {
    let directory = disk.directory(name)?;
    let test = Cmd::new(program).args(["--ignored", "--exact", "--nocapture"]);
    let test = test.arg("bench_captures_beside_a_neighbour").env("OVL_BENCH_DIR", &directory);
    let test = test.env("OVL_BENCH_CHANGE", &directory);
    let test = test.env("OVL_BENCH_REGISTRY", registry.to_string());
    let done = test.limit(seconds(300)).outcome()?;
    let line = done.stdout.lines().find_map(|line| line.trim().split_once("BENCH "));
    let output =
        line.with_context(|| format!("{name} stopped early: {}{}", done.stdout, done.stderr))?;
    let output = serde_json::from_str(output.1).context("what it printed")?;
    mounts::unmount_below(&[&directory])?;
    mounts::remove(&directory)?;
    Ok(output)
}

fn rows(fs_type: &str, now: &mut Times, before: Option<&mut Times>) -> Vec<Row> {
    let middle = |times: &mut Vec<Duration>| percentile(times, 50);
    let mut rows = Vec::new();
    let capture =
        Row::milliseconds(&format!("{fs_type}: capture of 100 MB"), middle(&mut now.captures));
    let name = format!("{fs_type}: neighbour's sync, p99");
    let (beside, alone) = (percentile(&mut now.beside, 99), percentile(&mut now.alone, 99));
    let sync = Row::milliseconds(&name, beside).beside("no capture", alone, Limit::AtMost(1.3));
    match before {
        Some(before) => {
            let theirs = middle(&mut before.captures);
            rows.push(capture.beside("former", theirs, Limit::AtMost(0.3)));
            rows.push(sync);
            let theirs = percentile(&mut before.beside, 99);
            rows.push(Row::milliseconds(&name, beside).beside("former", theirs, Limit::None));
            let quiet = format!("{fs_type}, quiet: capture of 100 MB");
            rows.push(not_slower(&quiet, &mut now.quiet, &mut before.quiet));
            let push = format!("{fs_type}, quiet: push of 100 MB");
            rows.push(not_slower(&push, &mut now.pushes, &mut before.pushes));
        }
        None => rows.extend([capture, sync]),
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_become_rows() -> Result<()> {
        let (mut now, mut before) = (Times::default(), Times::default());
        now.add(&json!({ "captures": [0.1, 0.2], "alone": [0.01], "beside": [0.012],
            "quiet": [0.1], "pushes": [0.5] }))?;
        before.add(&json!({ "captures": [4.0], "alone": [0.01], "beside": [2.0],
            "quiet": [0.1], "pushes": [0.5] }))?;
        assert_eq!(rows("xfs", &mut now, Some(&mut before)).len(), 5);
        assert_eq!(rows("xfs", &mut now, None).len(), 2);
        assert!(Times::default().add(&json!({})).is_err());
        Ok(())
    }
}
