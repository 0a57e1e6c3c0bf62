//! What calls take while a neighbour writes to the same disk, beside the version that made them wait for it.
//!
//! ```text
//! a disk (ext4, xfs: a file) ─┬─ ovl node of this tree   ─┐ asked in turn, for the same image
//!                             ├─ ovl node of [`FORMER`]  ─┘
//!                             ├─ containerd: prepare, mount, umount, remove
//!                             └─ a neighbour: 1.5 GB, written and removed, again and again
//! ```
//!
//! Deliberately absent: what the neighbour gets. It is there to be in the way.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::image::Source;
use super::ours::Driver;
use super::peers::Running;
use super::table::{Limit, Row};
use super::{percentile, timed};
use crate::cache::Recipe;
use crate::driver;
use crate::harness::Harness;
use crate::oci::{Layer, push};
use crate::process::Cmd;
use crate::progress::{minutes, seconds};
use crate::tools::{self, apt};

/// The last version whose calls waited for the disk.
const FORMER: &str = "b3f2e73";

/// Calls of each kind on a quiet disk, and on a busy one.
const QUIET: usize = 60;
const BUSY: usize = 100;

/// What the neighbour writes, and what a pod does.
const BYTES: usize = 1_500 << 20;

/// How large the disk is; holes, but for what is written.
const DISK: u64 = 12 << 30;

/// Layers of the image.
const LAYERS: usize = 10;

/// Measures all of it in an empty folder; a note for each peer that cannot be had.
pub fn measure(
    h: &Harness,
    repo: &Path,
    place: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    apt::ensure(h, &["xfsprogs"])?;
    let former = former(h, repo)?;
    if former.is_none() {
        notes.push(format!(
            "the former version: the history of this clone does not have commit {FORMER}; get it with git fetch --unshallow"
        ));
    }
    let ours = driver::program(h, repo)?;
    let containerd = tools::containerd().ensure(h);
    let containerd = containerd.map_err(|error| notes.push(format!("containerd: {error:#}"))).ok();
    let images = place.join("images");
    fs::create_dir_all(&images).context("making a folder")?;
    let program = tools::registry().ensure(h)?.join("registry");
    let source = Source::serve(h, "busy-registry", &program, &images)?;
    let one = |number: usize| Layer::new().file(&format!("file-{number}"), number.to_string());
    push(source.address, "bench:1", (0..LAYERS).map(one).collect::<Result<_>>()?)?;
    let mut rows = Vec::new();
    for fs_type in ["ext4", "xfs"] {
        let what = format!("a busy disk, {fs_type}");
        rows.extend(h.progress.step(&what, minutes(4), |_| {
            let disk = Disk::make(place, fs_type)?;
            let start =
                |program: &PathBuf, name| Driver::start(program, &disk.folder(name)?, &source);
            let asked = Asked {
                ours: start(&ours, "ours")?,
                former: former.as_ref().map(|program| start(program, "former")).transpose()?,
                peer: match &containerd {
                    Some(programs) => Some(Running::start(programs, &disk.folder("peer")?)?),
                    None => None,
                },
                image: source.image("bench:1"),
            };
            if let Some(peer) = &asked.peer {
                peer.pull(&source)?;
            }
            asked.on(&disk)
        })?);
    }
    Ok(rows)
}

/// The former version's program, out of the history of this clone; `None` where that does not have it.
fn former(h: &Harness, repo: &Path) -> Result<Option<PathBuf>> {
    let recipe = Recipe { name: "bench-former", version: FORMER, inputs: &[] };
    let commit = format!("{FORMER}^{{commit}}");
    let known = Cmd::new("git").dir(repo).args(["cat-file", "-e", &commit]).succeeds();
    if h.cache.have(&recipe).is_none() && !known {
        return Ok(None);
    }
    let directory = h.cache.product(&recipe, |directory| {
        h.progress.step("compiling the former version", minutes(4), |log| {
            let sources = h.cache.scratch("former-sources")?;
            let archive = sources.join("archive.tar");
            let git = Cmd::new("git").dir(repo).args(["archive", "--output"]).arg(&archive);
            git.arg(FORMER).run()?;
            Cmd::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&sources).run()?;
            // In a target directory of its own: cargo knows a package of the same name and version by the age of its files.
            let (target, built) = (driver::target(h, &sources)?, sources.join("target"));
            let cargo = Cmd::new("cargo").dir(&sources).env("CARGO_TARGET_DIR", &built);
            let cargo = cargo.args(["build", "--release", "--locked", "--bin", "ovl"]);
            cargo.args(["--target", &target]).log(log).run()?;
            let program = built.join(target).join("release/ovl");
            fs::copy(program, directory.join("ovl")).context("keeping the former program")?;
            fs::remove_dir_all(&sources).context("removing the former sources")
        })
    })?;
    Ok(Some(directory.join("ovl")))
}

/// Times of one kind of call, by who made it.
#[derive(Default)]
struct Times {
    publish: Vec<Duration>,
    unpublish: Vec<Duration>,
}

impl Times {
    fn add(&mut self, driver: &Driver, name: &str, image: &str) -> Result<()> {
        let volume = driver.volume(name, image);
        self.publish.extend(driver.publish_all(std::slice::from_ref(&volume), false)?);
        // A pod that wrote a little.
        fs::write(volume.target().join("written"), [1; 4096]).context("writing to a volume")?;
        self.unpublish.push(timed(|| driver.unpublish(&volume))?);
        Ok(())
    }
}

/// Whoever is asked, all on one disk.
struct Asked {
    ours: Driver,
    former: Option<Driver>,
    peer: Option<Running>,
    image: String,
}

/// How calls of this tree, of the former version and of containerd went.
#[derive(Default)]
struct Turns {
    ours: Times,
    former: Times,
    peer: Times,
}

impl Asked {
    fn on(&self, disk: &Disk) -> Result<Vec<Row>> {
        // The layers come once.
        self.in_turn(1, "first")?;
        Cmd::new("sync").output()?;
        let quiet = self.in_turn(QUIET, "quiet")?;
        let busy = beside_neighbour(&disk.at, || self.in_turn(BUSY, "busy"))?;
        let fs_type = &disk.fs_type;
        let mut rows = Vec::new();
        self.compare(&format!("{fs_type}, quiet"), &quiet, None, &mut rows);
        self.compare(&format!("{fs_type}, busy"), &busy, Some(Limit::AtMost(0.05)), &mut rows);
        let former = self.former.as_ref().map(|former| disk.unpublish_written(former, &self.image));
        let former = former.transpose()?;
        let (now, written) = disk.unpublish_written(&self.ours, &self.image)?;
        let row = Row::milliseconds(&format!("{fs_type}: unpublish, 1.5 GB written"), now);
        rows.push(match former {
            Some((before, _)) => row.beside("former", before, Limit::AtMost(0.1)),
            None => row,
        });
        let share = |written: u64| written as f64 / BYTES as f64;
        let name = format!("{fs_type}: share of it on the disk");
        rows.push(Row::count(&name, share(written)).within(0.05));
        if let Some((_, written)) = former {
            rows.push(Row::count(&format!("{name}, former"), share(written)));
        }
        Ok(rows)
    }

    fn in_turn(&self, count: usize, kind: &str) -> Result<Turns> {
        let mut turns = Turns::default();
        for number in 0..count {
            let name = format!("{kind}-{number}");
            if let Some(former) = &self.former {
                turns.former.add(former, &name, &self.image)?;
            }
            turns.ours.add(&self.ours, &name, &self.image)?;
            if let Some(peer) = &self.peer {
                turns.peer.publish.push(timed(|| peer.mount(&name))?);
                turns.peer.unpublish.push(timed(|| peer.unmount(&name))?);
            }
        }
        Ok(turns)
    }

    /// A row for each call, percentile and whom it is compared with. `limit` is what the slowest of ours may be of the former's.
    fn compare(&self, what: &str, turns: &Turns, limit: Option<Limit>, rows: &mut Vec<Row>) {
        type Of = fn(&Times) -> &Vec<Duration>;
        let calls: [(&str, Of); 2] =
            [("publish", |times| &times.publish), ("unpublish", |times| &times.unpublish)];
        for (call, of) in calls {
            for at in [50, 99] {
                let of = |times| percentile(&mut of(times).clone(), at);
                let row = || Row::milliseconds(&format!("{what}: {call}, p{at}"), of(&turns.ours));
                let limit = limit.filter(|_| at == 99).unwrap_or(Limit::None);
                let former = self.former.is_some();
                let former = former.then(|| row().beside("former", of(&turns.former), limit));
                let peer = self.peer.is_some();
                let peer = peer.then(|| row().beside("containerd", of(&turns.peer), Limit::None));
                if former.is_none() && peer.is_none() {
                    rows.push(row());
                }
                rows.extend([former, peer].into_iter().flatten());
            }
        }
    }
}

/// Does something while a neighbour writes, from when it has begun to be in the way.
fn beside_neighbour<T>(at: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (go_on, begun) = (AtomicBool::new(true), AtomicBool::new(false));
    let (go_on, begun) = (&go_on, &begun);
    let path = at.join("neighbour");
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| -> Result<()> {
            let chunk = vec![7_u8; 1 << 20];
            while go_on.load(Ordering::Relaxed) {
                let mut file = File::create(&path).context("the neighbour's file")?;
                for _ in 0..BYTES >> 20 {
                    if !go_on.load(Ordering::Relaxed) {
                        break;
                    }
                    file.write_all(&chunk).context("the neighbour's bytes")?;
                    begun.store(true, Ordering::Relaxed);
                }
                // By turns memory has much to write, and the disk is writing it.
                file.sync_data().context("the neighbour's sync")?;
            }
            fs::remove_file(&path).context("removing the neighbour's file")
        });
        while !begun.load(Ordering::Relaxed) && !neighbour.is_finished() {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_secs(1));
        let done = work();
        go_on.store(false, Ordering::Relaxed);
        let ended = neighbour.join();
        let done = done?;
        ensure!(matches!(ended, Ok(Ok(()))), "the neighbour broke down");
        Ok(done)
    })
}

/// A file system of its own, in a file.
struct Disk {
    at: PathBuf,
    fs_type: String,
}

impl Disk {
    fn make(place: &Path, fs_type: &str) -> Result<Self> {
        let (image, at) = (place.join(format!("{fs_type}.img")), place.join(fs_type));
        fs::create_dir_all(&at).context("making a folder")?;
        let file = File::create(&image).with_context(|| format!("making {}", image.display()))?;
        file.set_len(DISK).context("making a disk")?;
        Cmd::new(format!("mkfs.{fs_type}")).arg("-q").arg(&image).output()?;
        Cmd::new("mount").args(["-o", "loop"]).arg(&image).arg(&at).output()?;
        Ok(Self { at, fs_type: fs_type.to_owned() })
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.at.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Bytes that were written to its device so far (Documentation/block/stat.rst: the seventh number, in sectors).
    fn written(&self) -> Result<u64> {
        let device = fs::metadata(&self.at).context("looking at the disk")?.dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))
            .context("reading what was written")?;
        let sectors = stat.split_whitespace().nth(6).and_then(|number| number.parse::<u64>().ok());
        Ok(sectors.context("no seventh number")? * 512)
    }

    /// How long it takes to take a volume away that has just been filled, and how many bytes reach the disk for it.
    fn unpublish_written(&self, driver: &Driver, image: &str) -> Result<(Duration, u64)> {
        let volume = driver.volume("written", image);
        driver.publish(&volume)?;
        Cmd::new("sync").arg("-f").arg(&self.at).output()?;
        let mut file = File::create(volume.target().join("large")).context("writing a volume")?;
        let chunk = vec![7_u8; 1 << 20];
        (0..BYTES >> 20).try_for_each(|_| file.write_all(&chunk)).context("writing a volume")?;
        drop(file);
        let before = self.written()?;
        let time = timed(|| driver.unpublish(&volume))?;
        let since = Instant::now();
        while since.elapsed() < seconds(5) {
            thread::sleep(Duration::from_millis(100));
        }
        Ok((time, self.written()?.saturating_sub(before)))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever made the place unmounts, and removes, what this does not.
        let _ = Cmd::new("umount").arg(&self.at).output();
        let _ = fs::remove_file(self.at.with_extension("img"));
    }
}
