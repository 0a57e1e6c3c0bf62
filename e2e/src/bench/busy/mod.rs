//! The time of calls while a neighbour writes to the same disk, compared with the version whose
//! calls waited for the disk.
//!
//! ```text
//! a disk (ext4, xfs: a file) ─┬─ ovl node of this tree        ─┐ called in turn, for the same image,
//!                             ├─ ovl node of the former version ─┘ from a registry in this process
//!                             ├─ containerd: prepare, mount, umount, remove
//!                             ├─ captures, by both versions' test programs
//!                             └─ a neighbour: 1.5 GB, written and removed repeatedly
//! ```
//!
//! Deliberately absent: limits for absolute times, which depend on the disk. The limits are ratios.

mod captures;
pub mod disk;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::disk::{BYTES, Disk};
use super::peers::{self, ContainerdProcess};
use super::programs::{Build, Programs};
use super::table::{Limit, Row, not_slower};
use super::times::{percentile, timed};
use crate::driver::process::{NodeProcess, Volume};
use crate::machine::harness::Harness;
use crate::machine::mounts;
use crate::machine::progress::{minutes, seconds};
use crate::oci::image::{self, Layer, push};
use crate::oci::registry::MemoryRegistry;
use crate::toolchain::apt;

/// Rounds on a quiet disk. On a busy disk there are as many as time allows.
const QUIET: usize = 60;
const BUSY: usize = 100;
const LONGEST: Duration = seconds(75);

/// Volumes that need a request to the registry, and the delay of its responses.
const ALWAYS: usize = 20;
const AWAY: Duration = Duration::from_millis(50);

/// Layers of the image.
const LAYERS: usize = 10;

/// Cold publishes of each version, of an image of this many layers of 16 MiB each.
const COLD: usize = 5;
const COLD_LAYERS: usize = 8;

/// What is compared with the last version whose calls waited for the disk: `ovl`, and the test program
/// that captures. cargo builds the program of a package beside its test programs.
const BUILD: Build<'_> = Build {
    product: "bench-former",
    former: "b3f2e73",
    cargo: &["test", "--no-run", "--test", "bench_snapshots"],
    programs: ["ovl", "bench_snapshots"],
    added: Some((
        "tests/bench_snapshots.rs",
        include_str!("../../../../tests/bench_captures/beside.rs"),
    )),
};

/// Measures all of it in an empty directory. A note for each peer that is not available.
pub fn measure(
    h: &Harness,
    repo: &Path,
    place: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    apt::ensure(h, &["e2fsprogs", "xfsprogs"])?;
    fs::create_dir_all(place).context("making a directory")?;
    let former = BUILD.former(h, repo, notes)?;
    let compared = Compared {
        ours: BUILD.ours(h, repo)?,
        former,
        containerd: peers::containerd(h)
            .map_err(|error| notes.push(format!("containerd: {error:#}")))
            .ok(),
        registry: MemoryRegistry::start()?,
    };
    let one = |number: usize| Layer::new().file(&format!("file-{number}"), number.to_string());
    let registry = &compared.registry;
    push(registry.address, "bench:1", (0..LAYERS).map(one).collect::<Result<_>>()?)?;
    image::index(registry.address, "bench:index", "1")?;
    let large = |number: usize| {
        let name = format!("large-{number}");
        // An image without entries for directories is fetched twice: see docs/volumes.md.
        let layer = Layer::new().dir("small")?.dir(&format!("small/{number}"))?;
        (0..200).try_fold(layer.noise(&name, 16 << 20, &name)?, |layer, small| {
            layer.file(&format!("small/{number}/{small}"), small.to_string())
        })
    };
    push(registry.address, "bench:cold", (0..COLD_LAYERS).map(large).collect::<Result<_>>()?)?;
    let mut rows = Vec::new();
    for fs_type in ["ext4", "xfs"] {
        let disk = Disk::make(place, fs_type)?;
        let what = format!("a busy disk, {fs_type}");
        rows.extend(h.progress.step(&what, minutes(2), |_| compared.calls(&disk))?);
        let what = format!("captures on a busy disk, {fs_type}");
        rows.extend(h.progress.step(&what, minutes(2), |_| compared.captures(&disk))?);
    }
    Ok(rows)
}

/// What is compared.
struct Compared {
    ours: Programs,
    former: Option<Programs>,
    /// The directory of its programs.
    containerd: Option<std::path::PathBuf>,
    registry: MemoryRegistry,
}

impl Compared {
    fn image(&self, tag: &str) -> String {
        format!("{}/bench:{tag}", self.registry.address)
    }

    fn calls(&self, disk: &Disk) -> Result<Vec<Row>> {
        let start = |[node, _]: &Programs, name| {
            let (place, registry) = (disk.directory(name)?, self.registry.address);
            NodeProcess::start_as("bench", node, &place, registry, &[])
        };
        let subjects = Subjects {
            ours: start(&self.ours, "ours")?,
            former: self.former.as_ref().map(|former| start(former, "former")).transpose()?,
            peer: match &self.containerd {
                Some(programs) => {
                    Some(ContainerdProcess::start(programs, &disk.directory("peer")?)?)
                }
                None => None,
            },
            image: self.image("1"),
            disk,
        };
        if let Some(peer) = &subjects.peer {
            peer.pull(&subjects.image)?;
        }
        let mut rows = subjects.calls()?;
        rows.extend(subjects.written()?);
        if disk.fs_type == "ext4" {
            rows.extend(self.cold(disk)?);
            self.registry.delay(AWAY);
            let always = subjects.always(&self.image("index"));
            self.registry.delay(Duration::ZERO);
            rows.push(always?);
        }
        Ok(rows)
    }

    /// Publishes of an image of which a node has nothing, by both versions in turn.
    fn cold(&self, disk: &Disk) -> Result<Option<Row>> {
        let Some(former) = &self.former else { return Ok(None) };
        let (mut now, mut before) = (Vec::new(), Vec::new());
        for _ in 0..COLD {
            for ([program, _], times) in [(former, &mut before), (&self.ours, &mut now)] {
                let dir = disk.directory("cold")?;
                let node =
                    NodeProcess::start_as("bench", program, &dir, self.registry.address, &[])?;
                let volume = node.volume("cold", &self.image("cold"));
                disk.sync()?;
                times.push(timed(|| node.publish(&volume))?);
                node.unpublish(&volume)?;
                drop(node);
                mounts::unmount_below(&[&dir])?;
                mounts::remove(&dir)?;
            }
        }
        let what = format!("{}, quiet: cold publish", disk.fs_type);
        Ok(Some(not_slower(&what, &mut now, &mut before)))
    }

    fn captures(&self, disk: &Disk) -> Result<Vec<Row>> {
        let ([_, ours], former) = (&self.ours, self.former.as_ref());
        let former = former.map(|[_, former]| former.as_path());
        captures::measure(disk, self.registry.address, ours, former)
    }
}

/// Times of each kind of call.
#[derive(Default)]
struct Times {
    publish: Vec<Duration>,
    unpublish: Vec<Duration>,
}

impl Times {
    fn add(&mut self, driver: &NodeProcess, volume: &Volume) -> Result<()> {
        self.publish.extend(driver.publish_all(std::slice::from_ref(volume), false)?);
        // As a pod that wrote a little.
        fs::write(volume.target().join("written"), [1; 4096]).context("writing to a volume")?;
        self.unpublish.push(timed(|| driver.unpublish(volume))?);
        Ok(())
    }
}

/// The programs under test, all on one disk.
struct Subjects<'a> {
    ours: NodeProcess,
    former: Option<NodeProcess>,
    peer: Option<ContainerdProcess>,
    image: String,
    disk: &'a Disk,
}

/// The times of this tree, of the former version and of containerd, and of one sync in between.
#[derive(Default)]
struct Turns {
    ours: Times,
    former: Times,
    peer: Times,
    sync: Vec<Duration>,
}

impl Subjects<'_> {
    fn calls(&self) -> Result<Vec<Row>> {
        // The layers are pulled once.
        self.in_turn(1, "first")?;
        self.disk.sync()?;
        let quiet = self.in_turn(QUIET, "quiet")?;
        let busy = self.disk.beside_neighbour(|| self.in_turn(BUSY, "busy"))?;
        let fs_type = &self.disk.fs_type;
        let mut rows = Vec::new();
        self.compare(&format!("{fs_type}, quiet"), &quiet, &mut rows);
        self.compare(&format!("{fs_type}, busy"), &busy, &mut rows);
        Ok(rows)
    }

    fn in_turn(&self, count: usize, kind: &str) -> Result<Turns> {
        let mut turns = Turns::default();
        let begun = Instant::now();
        for number in (0..count).take_while(|_| begun.elapsed() < LONGEST) {
            let name = format!("{kind}-{number}");
            // Each of them removes volumes in the background, beside the call of the next one.
            let mut both =
                [(self.former.as_ref(), &mut turns.former), (Some(&self.ours), &mut turns.ours)];
            if number % 2 == 1 {
                both.reverse();
            }
            for (driver, times) in both {
                if let Some(driver) = driver {
                    times.add(driver, &driver.volume(&name, &self.image))?;
                }
            }
            turns.sync.push(self.disk.one_sync()?);
            if let Some(peer) = &self.peer {
                turns.peer.publish.push(timed(|| peer.mount(&name))?);
                turns.peer.unpublish.push(timed(|| peer.unmount(&name))?);
            }
        }
        Ok(turns)
    }

    /// A row for each call, percentile and comparison.
    fn compare(&self, what: &str, turns: &Turns, rows: &mut Vec<Row>) {
        type Of = fn(&Times) -> &Vec<Duration>;
        let calls: [(&str, Of); 2] =
            [("publish", |times| &times.publish), ("unpublish", |times| &times.unpublish)];
        for (call, of) in calls {
            for at in [50, 99] {
                let of = |times| percentile(&mut of(times).clone(), at);
                let name = format!("{what}: {call}, p{at}");
                let row = || Row::milliseconds(&name, of(&turns.ours));
                let sync = percentile(&mut turns.sync.clone(), at);
                if self.former.is_some() {
                    rows.push(row().beside("former", of(&turns.former), limit(&name)));
                }
                if self.peer.is_some() {
                    rows.push(row().beside("containerd", of(&turns.peer), Limit::None));
                }
                rows.push(row().beside("one sync", sync, limit_beside_sync(&name)));
            }
        }
    }

    /// How long the unpublish of a just filled volume takes, and how much of the data reaches the
    /// disk.
    fn written(&self) -> Result<Vec<Row>> {
        let Self { disk, former, ours, image, .. } = self;
        let before = former.as_ref().map(|former| disk.unpublish_written(former, image));
        let before = before.transpose()?;
        let (now, written) = disk.unpublish_written(ours, image)?;
        let share = |written: u64| written as f64 / BYTES as f64;
        let row = Row::milliseconds(&format!("{}: unpublish of 1.5 GB", disk.fs_type), now);
        let name = format!("{}: share that is written", disk.fs_type);
        let mut rows = vec![Row::count(&name, share(written)).within(0.05)];
        match before {
            Some((time, written)) => {
                rows.insert(0, row.beside("former", time, Limit::AtMost(0.1)));
                rows.push(Row::count(&format!("{name}, former"), share(written)));
            }
            None => rows.insert(0, row),
        }
        Ok(rows)
    }

    /// Volumes of an unchanged image with `pullPolicy: Always`.
    fn always(&self, image: &str) -> Result<Row> {
        let (mut before, mut now) = (Times::default(), Times::default());
        for number in 0..ALWAYS {
            let (pod, name) = (format!("pod-always-{number}"), format!("always-{number}"));
            let attributes = [("image", image), ("pullPolicy", "Always")];
            for (driver, times) in
                [(self.former.as_ref(), &mut before), (Some(&self.ours), &mut now)]
            {
                let Some(driver) = driver else { continue };
                times.add(driver, &driver.volume_of(&pod, &name, &attributes))?;
            }
        }
        let name = format!("Always, {} ms away, p50", AWAY.as_millis());
        let row = Row::milliseconds(&name, percentile(&mut now.publish, 50));
        let theirs = percentile(&mut before.publish, 50);
        Ok(match self.former {
            Some(_) => row.beside("former", theirs, Limit::AtMost(0.5)),
            None => row,
        })
    }
}

/// The limit for a call of ours, as a ratio to the former version.
fn limit(name: &str) -> Limit {
    match name {
        "ext4, quiet: publish, p50" => Limit::AtMost(0.5),
        busy if busy.contains("busy") && busy.ends_with("p99") => Limit::AtMost(0.05),
        _ => Limit::None,
    }
}

/// The limit for a call of ours, as a ratio to one sync of the same disk.
fn limit_beside_sync(name: &str) -> Limit {
    match name.ends_with("busy: publish, p99") {
        true => Limit::AtMost(1.2),
        false => Limit::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_for_p99_on_a_busy_disk_and_p50_on_a_quiet_one() {
        assert_eq!(limit("xfs, busy: unpublish, p99"), Limit::AtMost(0.05));
        assert_eq!(limit("ext4, quiet: publish, p50"), Limit::AtMost(0.5));
        for other in ["xfs, busy: publish, p50", "xfs, quiet: publish, p50"] {
            assert_eq!(limit(other), Limit::None, "{other}");
            assert_eq!(limit_beside_sync(other), Limit::None, "{other}");
        }
        assert_eq!(limit_beside_sync("xfs, busy: publish, p99"), Limit::AtMost(1.2));
    }
}
