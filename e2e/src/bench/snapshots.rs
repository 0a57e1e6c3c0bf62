//! Snapshots: how long a pod is frozen compared with a bare loop of clones, how that depends on the
//! layers below, and the cost of a push compared with docker and buildah for the same change.
//!
//! ```text
//! a disk with reflinks (a file) ┐
//! a registry of its own ───────┼── tests/bench_snapshots.rs, compiled with optimization
//! a change of 1 GB ────────────┴── docker commit and push, buildah commit and push
//! ```
//!
//! Deliberately absent: a cluster. It would only add the delays of sidecars.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::images::BenchRegistry;
use super::table::{Limit, Row};
use super::times::timed;
use crate::cluster::engine::LABEL;
use crate::cluster::prerequisites::Prerequisites;
use crate::driver;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};
use crate::oci::image::{Layer, any_signature, push};
use crate::toolchain::{apt, programs};

/// Files of the small base and of the large one.
const SMALL: usize = 10_000;
const LARGE: usize = 500_000;

/// Layers of the deep base.
const DEEP: usize = 250;

/// The change to push: this many files of this many bytes, half of which compress away.
const FILES: usize = 10_000;
const BYTES: usize = 100_000;

/// Measures all of it in an empty directory. A note for each peer that is not available.
pub fn measure(
    h: &Harness,
    repo: &Path,
    prerequisites: &Prerequisites,
    place: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    apt::ensure(h, &["xfsprogs"])?;
    let (disk, change, images) = (place.join("disk"), place.join("change"), place.join("images"));
    for dir in [&disk, &change, &images] {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let program = programs::registry().ensure(h)?.join("registry");
    let registry = BenchRegistry::serve(h, "snapshots-registry", &program, &images)?;
    h.progress.step("preparing the disk and images for snapshots", minutes(2), |_| {
        write_change(&change)?;
        push_bases(&registry)?;
        make_disk(&place.join("disk.img"), &disk)
    })?;
    let output = h.progress.step("measuring snapshots", minutes(8), |log| {
        let test =
            driver::cargo(h, repo).args(["test", "--release", "--locked", "--package", "ovl-csi"]);
        let test = test.args(["--test", "bench_snapshots", "--", "--ignored", "--nocapture"]);
        let test = test.env("OVL_BENCH_DIR", &disk).env("OVL_BENCH_CHANGE", &change);
        let test = test.env("OVL_BENCH_REGISTRY", registry.address.to_string());
        let done = test.limit(minutes(40)).outcome()?;
        fs::write(log, format!("{}\n{}", done.stderr, done.stdout)).context("writing the log")?;
        let line = done.stdout.lines().find_map(|line| line.trim().strip_prefix("BENCH "));
        let line = line.with_context(|| format!("it stopped early; see {}", log.display()))?;
        serde_json::from_str::<Value>(line).context("what it printed")
    })?;
    let mut peers = Vec::new();
    for (name, peer) in [("docker", docker as Peer), ("buildah", buildah)] {
        let what = format!("the same change by {name}");
        let time = h.progress.step(&what, minutes(1), |log| {
            let dir = place.join(name);
            fs::create_dir_all(&dir).context("making a directory")?;
            peer(h, prerequisites, &Change { dir: &change, place: &dir, registry: &registry, log })
        });
        match time {
            Ok(time) => peers.push((name, time)),
            Err(error) => notes.push(format!("{name}: {error:#}")),
        }
    }
    rows(&output, &peers)
}

/// Commits and pushes the change. Returns how long both took.
type Peer = fn(&Harness, &Prerequisites, &Change<'_>) -> Result<Duration>;

/// The input of a peer.
struct Change<'a> {
    dir: &'a Path,
    place: &'a Path,
    registry: &'a BenchRegistry,
    log: &'a Path,
}

fn rows(output: &Value, peers: &[(&str, Duration)]) -> Result<Vec<Row>> {
    let seconds = |pointer: &str| {
        let number = output.pointer(pointer).and_then(Value::as_f64);
        number.map(Duration::from_secs_f64).with_context(|| format!("no {pointer} in {output}"))
    };
    let (pause, push) = (seconds("/pause/pause")?, seconds("/push/push")?);
    let mut rows = vec![
        Row::seconds("pod frozen: 1 GB, dirty", pause).beside(
            "clones alone",
            seconds("/pause/loop")?,
            Limit::AtMost(2.0),
        ),
        Row::milliseconds("the same", pause).within(100.0),
        Row::seconds("capture on top of 500,000 files", seconds("/captures/large")?).beside(
            "10,000 files",
            seconds("/captures/small")?,
            Limit::AtMost(1.2),
        ),
        Row::seconds("capture on top of 250 layers", seconds("/captures/deep")?).beside(
            "1 layer",
            seconds("/captures/flat")?,
            Limit::AtMost(1.2),
        ),
    ];
    for (name, time) in peers {
        rows.push(Row::seconds("pack and push 1 GB", push).beside(name, *time, Limit::AtMost(0.7)));
    }
    let pull = seconds("/push/pull")?;
    let restore = Row::seconds("restore of 1 GB elsewhere", seconds("/push/restore")?);
    rows.push(restore.beside("a pull", pull, Limit::AtMost(1.3)));
    let memory = output.pointer("/push/memory").and_then(Value::as_u64).context("no memory")?;
    rows.push(Row::mebibytes("memory, peak of a push", memory).within(150.0));
    Ok(rows)
}

/// A file system with reflinks, in a file. An unmount removes its loop device.
fn make_disk(image: &Path, at: &Path) -> Result<()> {
    let truncate = Cmd::new("truncate").args(["--size", "40G"]).arg(image);
    truncate.output()?;
    Cmd::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(image).output()?;
    Cmd::new("mount").args(["-o", "loop"]).arg(image).arg(at).output().map(drop)
}

fn write_change(dir: &Path) -> Result<()> {
    for number in 0..FILES {
        let inner = dir.join((number / 100).to_string());
        if number % 100 == 0 {
            fs::create_dir(&inner).with_context(|| format!("making {}", inner.display()))?;
        }
        let mut text = String::with_capacity(BYTES + 64);
        let mut hash = Sha256::digest(number.to_le_bytes());
        // In hexadecimal, each byte takes two.
        while text.len() < BYTES {
            text.push_str(&hex::encode(hash));
            hash = Sha256::digest(hash);
        }
        text.truncate(BYTES);
        fs::write(inner.join(number.to_string()), text).context("writing the change")?;
    }
    Ok(())
}

fn push_bases(registry: &BenchRegistry) -> Result<()> {
    for (name, files) in [("small:1", SMALL), ("large:1", LARGE)] {
        let mut layer = Layer::new();
        for number in 0..files {
            if number % 1000 == 0 {
                layer = layer.dir(&format!("base/{}", number / 1000))?;
            }
            layer = layer.file(&format!("base/{}/{number}", number / 1000), number.to_string())?;
        }
        push(registry.address, name, vec![layer])?;
    }
    let one = |number: usize| Layer::new().file(&format!("file-{number}"), number.to_string());
    push(registry.address, "deep:1", (0..DEEP).map(one).collect::<Result<_>>()?)?;
    push(registry.address, "flat:1", vec![one(0)?]).map(drop)
}

/// A container with the change, committed and pushed.
fn docker(_: &Harness, prerequisites: &Prerequisites, change: &Change<'_>) -> Result<Duration> {
    let engine = &prerequisites.engine;
    let create = engine.docker(["create", "--label", LABEL, "--network", "none"]);
    let container = create.args([&prerequisites.base_image, "true"]).output()?;
    let image = change.registry.image("docker:1");
    let time = (|| {
        let to = format!("{container}:/change");
        engine.docker(["cp"]).arg(change.dir).arg(&to).log(change.log).run()?;
        Cmd::new("sync").output()?;
        timed(|| {
            engine.docker(["commit", &container, &image]).log(change.log).run()?;
            engine.docker(["push", &image]).log(change.log).run()
        })
    })();
    engine.docker(["rm", &container]).output()?;
    engine.docker(["rmi", &image]).outcome()?;
    time
}

/// The same without a daemon, and with zstd.
fn buildah(h: &Harness, _: &Prerequisites, change: &Change<'_>) -> Result<Duration> {
    apt::ensure(h, &["buildah"])?;
    let policy = any_signature(change.place)?;
    let buildah = || {
        let buildah = Cmd::new("buildah").arg("--root").arg(change.place.join("root"));
        let buildah = buildah.arg("--runroot").arg(change.place.join("run"));
        buildah.args(["--storage-driver", "overlay"]).limit(seconds(600))
    };
    let container = buildah().args(["from", "scratch"]).output()?;
    let root = PathBuf::from(buildah().args(["mount", &container]).output()?);
    Cmd::new("cp").arg("-r").arg(change.dir).arg(root.join("change")).output()?;
    Cmd::new("sync").output()?;
    let image = change.registry.image("buildah:1");
    let time = timed(|| {
        let commit = buildah().args(["commit", "--quiet", "--format", "oci", "--signature-policy"]);
        commit.arg(&policy).args([&container, "change"]).log(change.log).run()?;
        let push = buildah().args(["push", "--quiet", "--tls-verify=false"]);
        let push = push.args(["--compression-format", "zstd", "--signature-policy"]).arg(&policy);
        push.args(["change", &format!("docker://{image}")]).log(change.log).run()
    });
    buildah().args(["umount", &container]).output()?;
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_become_rows() -> Result<()> {
        let output = json!({
            "captures": { "small": 1.0, "large": 1.1, "flat": 0.5, "deep": 0.5 },
            "pause": { "pause": 0.05, "loop": 0.03, "total": 2.0 },
            "push": { "push": 3.0, "restore": 2.0, "pull": 2.0, "memory": 1 << 20, "sent": 1 },
        });
        let peers = [("docker", Duration::from_secs(30))];
        assert_eq!(rows(&output, &peers)?.len(), 7);
        assert!(rows(&json!({}), &peers).is_err());
        Ok(())
    }
}
