//! A snapshot of a pod that writes all the time has a state in which its volume really was.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-frozen",
    what: "a snapshot of a busy pod is consistent",
    concurrency: Concurrency::Parallel,
    run,
};

/// Writes numbers to one file and then to another, as fast as possible. Other files make a copy
/// take a while. Their directories come before, between and after these files in the order of
/// names.
const WRITES: &str = "cd /work && for d in aaa mmm zzz; do mkdir $d; \
     for i in $(seq 300); do echo $i > $d/$i; done; done; touch ready; i=0; \
     while :; do i=$((i+1)); echo $i >> first; echo $i >> second; done";

/// Number of attempts: a capture that is not consistent fails only sometimes.
const TIMES: usize = 4;

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let node = ns.env.worker().name;
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).runs(WRITES).on(&node))?;
    wait_for("the writer to write", POD_TIMEOUT, || {
        ns.shell("source", "test -e /work/ready && test -s /work/second").map(Some)
    })?;
    let mut last = 0;
    for time in 1..=TIMES {
        let (name, pod) = (format!("snapshot-{time}"), format!("of-{time}"));
        let taken = ns.snapshot(&name, "source", "local")?;
        let frozen =
            taken.annotation("frozen").context("no annotation says how long it was frozen")?;
        ensure!(frozen.contains(|c| ('1'..='9').contains(&c)), "it was frozen for {frozen}");
        ns.start(&Pod::new(&pod, crate::env::snapshots::volume_attributes(&name)).on(&node))?;
        let counts = ns.shell(&pod, "cd /work; wc -l < first; wc -l < second; tail -n 1 second")?;
        let counts: Vec<u64> = counts.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let [first, second, last_line] = counts[..] else { anyhow::bail!("{counts:?}") };
        ensure!(first == second || first == second + 1, "{first} numbers and then {second}");
        ensure!(
            last_line == second && second > last,
            "{second} numbers end with {last_line}, after {last}"
        );
        last = second;
    }
    let lines = || -> Result<u64> { Ok(ns.shell("source", "wc -l < /work/second")?.parse()?) };
    ensure!(lines()? > last, "the writer is still frozen");
    Ok(())
}
