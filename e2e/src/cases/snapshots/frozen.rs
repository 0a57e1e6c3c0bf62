//! What is kept of a pod that writes all the time is a state that its volume was in.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::{Case, When};
use crate::cluster::wait_for;
use crate::pods::{PATIENCE, Pod, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-frozen",
    what: "a pod that never rests is kept in a state that was",
    when: When::Together,
    play,
};

/// Numbers into one file and then into another, as fast as it goes. Beside them lie files that make a copy take a
/// while, in folders whose names come before, between and after theirs.
const WRITES: &str = "cd /work && for d in aaa mmm zzz; do mkdir $d; \
     for i in $(seq 300); do echo $i > $d/$i; done; done; touch ready; i=0; \
     while :; do i=$((i+1)); echo $i >> first; echo $i >> second; done";

/// How many times it is tried: a cut that is torn is torn sometimes.
const TIMES: usize = 4;

fn play(scene: &Scene<'_>) -> Result<()> {
    let node = scene.stage.worker().name;
    scene
        .start(&Pod::new("source", json!({ "image": scene.stage.image })).runs(WRITES).on(&node))?;
    wait_for("the writer to write", PATIENCE, || {
        scene.shell("source", "test -e /work/ready && test -s /work/second").map(Some)
    })?;
    let mut last = 0;
    for time in 1..=TIMES {
        let (name, pod) = (format!("cut-{time}"), format!("of-{time}"));
        let taken = scene.snapshot(&name, "source", "local")?;
        let frozen = taken.said("frozen").context("it does not say how long it stood still")?;
        ensure!(frozen.contains(|c| ('1'..='9').contains(&c)), "it stood still for {frozen}");
        scene.start(&Pod::new(&pod, crate::snapshots::of(&name)).on(&node))?;
        let counts =
            scene.shell(&pod, "cd /work; wc -l < first; wc -l < second; tail -n 1 second")?;
        let counts: Vec<u64> = counts.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let [first, second, said] = counts[..] else { anyhow::bail!("{counts:?}") };
        ensure!(first == second || first == second + 1, "{first} numbers and then {second}");
        ensure!(said == second && second > last, "{second} numbers end with {said}, after {last}");
        last = second;
    }
    let lines = || -> Result<u64> { Ok(scene.shell("source", "wc -l < /work/second")?.parse()?) };
    ensure!(lines()? > last, "the writer stands still");
    Ok(())
}
