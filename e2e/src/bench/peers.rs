//! Other programs with the same image: containerd as the harness builds it for nodes, and podman
//! from Debian. Each has an empty store of its own on the same disk.
//!
//! Deliberately absent: tuning.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::images::BenchRegistry;
use super::times::timed;
use crate::machine::background::Background;
use crate::machine::cache::Recipe;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::oci::image::any_signature;
use crate::toolchain::apt::{self, Packages};
use crate::toolchain::programs;

/// Another program that pulls images.
pub trait Peer {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Pulls the large image into a store in this directory. Returns how long that took.
    fn pull(&self, dir: &Path, registry: &BenchRegistry) -> Result<Duration>;
}

/// The peers that are available. A note for each that is not.
pub fn all(h: &Harness, place: &Path, notes: &mut Vec<String>) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    match programs::containerd().ensure(h) {
        Ok(programs) => peers.push(Box::new(Containerd { programs })),
        Err(error) => notes.push(format!("containerd: {error:#}")),
    }
    match Podman::ensure(h, place) {
        Ok(podman) => peers.push(Box::new(podman)),
        Err(error) => notes.push(format!("podman: {error:#}")),
    }
    peers
}

/// The directory of containerd's programs: those built by the harness, else the installed ones,
/// else those of Debian. The latter are extracted, because an installed one would run as a service.
///
/// # Errors
/// There is none of these.
pub fn containerd(h: &Harness) -> Result<PathBuf> {
    if let Some(built) = programs::containerd().find(h) {
        return Ok(built);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_both = |at: &PathBuf| ["containerd", "ctr"].iter().all(|name| at.join(name).is_file());
    if let Some(installed) = std::env::split_paths(&path).find(has_both) {
        return Ok(installed);
    }
    let recipe = Recipe { name: "containerd-debian", version: "1", inputs: &[] };
    let place = h.cache.product(&recipe, |place| {
        h.progress.step("fetching containerd", seconds(10), |log| {
            Packages::own().fetch(h, "containerd", place, log)
        })
    })?;
    Ok(place.join("usr/bin"))
}

/// containerd's overlayfs snapshotter.
struct Containerd {
    programs: PathBuf,
}

impl Peer for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn pull(&self, dir: &Path, registry: &BenchRegistry) -> Result<Duration> {
        let running = ContainerdProcess::start(&self.programs, dir)?;
        timed(|| running.pull(&registry.image("bench:1")))
    }
}

/// A running containerd, controlled by `ctr`.
pub struct ContainerdProcess {
    programs: PathBuf,
    dir: PathBuf,
    _process: Background,
}

impl ContainerdProcess {
    /// Starts it with all its files in this directory.
    ///
    /// # Errors
    /// It ended, or does not respond.
    pub fn start(programs: &Path, dir: &Path) -> Result<Self> {
        let config = dir.join("config.toml");
        let path = |part: &str| dir.join(part).display().to_string();
        let socket = path("containerd.sock");
        let output = Cmd::new(programs.join("containerd")).arg("--version").output()?;
        let version = if output.contains(" v2.") { 3 } else { 2 };
        let text = format!(
            "version = {version}\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\"]\n[grpc]\naddress = \"{socket}\"\n\
             [ttrpc]\naddress = \"{socket}.ttrpc\"\n",
            path("root"),
            path("state"),
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let containerd = Cmd::new(programs.join("containerd")).arg("--config").arg(&config);
        let mut process = Background::start(&containerd, dir.join("containerd.log"))?;
        let ctr = Cmd::new(programs.join("ctr")).args(["--address", &socket]).arg("version");
        wait_for("containerd", seconds(30), || {
            if process.ended() {
                bail!("it ended: {}", crate::machine::process::tail(&process.log, 20)?);
            }
            Ok(ctr.clone().succeeds().then_some(()))
        })?;
        Ok(Self { programs: programs.to_owned(), dir: dir.to_owned(), _process: process })
    }

    fn ctr(&self) -> Cmd {
        let ctr = Cmd::new(self.programs.join("ctr"));
        ctr.arg("--address").arg(self.dir.join("containerd.sock"))
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// containerd failed.
    pub fn pull(&self, image: &str) -> Result<()> {
        let pull =
            self.ctr().args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs"]);
        pull.arg(image).output().map(drop)
    }

    /// Prepares a snapshot of the topmost pulled layer, and mounts it.
    ///
    /// # Errors
    /// containerd failed, or nothing was pulled.
    pub fn mount(&self, name: &str) -> Result<()> {
        let list = self.ctr().args(["snapshots", "--snapshotter", "overlayfs", "list"]).output()?;
        let lines = || list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_parent = |key: &str| lines().any(|line| line.get(1) == Some(&key));
        let committed = |line: &Vec<&str>| line.last() == Some(&"Committed") && !is_parent(line[0]);
        let top = lines().find(committed).map(|line| line[0].to_owned());
        let top = top.context("containerd has no snapshot of the image")?;
        let at = self.dir.join("mounted").join(name);
        fs::create_dir_all(&at).context("making a directory")?;
        let prepare = self.ctr().args(["snapshots", "--snapshotter", "overlayfs", "prepare"]);
        let prepare = prepare.arg("--target").arg(&at).args([name, &top]).output()?;
        // It prints the mount command.
        let mut words = prepare.split_whitespace();
        let program = words.next().context("containerd prints no mount command")?;
        Cmd::new(program).args(words).output().map(drop)
    }

    /// Unmounts and removes a snapshot.
    ///
    /// # Errors
    /// containerd failed.
    pub fn unmount(&self, name: &str) -> Result<()> {
        Cmd::new("umount").arg(self.dir.join("mounted").join(name)).output()?;
        self.ctr().args(["snapshots", "--snapshotter", "overlayfs", "rm", name]).output().map(drop)
    }
}

/// podman's overlay driver.
struct Podman {
    policy: PathBuf,
}

impl Podman {
    fn ensure(h: &Harness, place: &Path) -> Result<Self> {
        apt::ensure(h, &["podman"])?;
        Ok(Self { policy: any_signature(place)? })
    }
}

impl Peer for Podman {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn pull(&self, dir: &Path, registry: &BenchRegistry) -> Result<Duration> {
        let pull = Cmd::new("podman").arg("--root").arg(dir.join("root"));
        let pull = pull.arg("--runroot").arg(dir.join("run"));
        let pull = pull.args(["--storage-driver", "overlay", "pull", "--quiet"]);
        let pull = pull.args(["--tls-verify=false", "--signature-policy"]).arg(&self.policy);
        let pull = pull.arg(registry.image("bench:1"));
        timed(|| pull.output().map(drop))
    }
}
