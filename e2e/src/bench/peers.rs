//! What others need for the same image: containerd as the harness builds it for nodes, podman as
//! Debian has it. Each with a store of its own on the same disk, and nothing in it.
//!
//! Deliberately absent: tuning.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::image::Source;
use super::timed;
use crate::background::Background;
use crate::cache::Recipe;
use crate::cluster::wait_for;
use crate::harness::Harness;
use crate::oci::any_signature;
use crate::process::Cmd;
use crate::progress::seconds;
use crate::tools::{self, apt};

/// Somebody else who pulls images.
pub trait Peer {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Pulls the large image into a store in this folder, and says how long that took.
    fn pull(&self, folder: &Path, source: &Source) -> Result<Duration>;
}

/// Those that can be had here; a note for each that cannot.
pub fn all(h: &Harness, place: &Path, notes: &mut Vec<String>) -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    match tools::containerd().ensure(h) {
        Ok(programs) => peers.push(Box::new(Containerd { programs })),
        Err(error) => notes.push(format!("containerd: {error:#}")),
    }
    match Podman::ensure(h, place) {
        Ok(podman) => peers.push(Box::new(podman)),
        Err(error) => notes.push(format!("podman: {error:#}")),
    }
    peers
}

/// The directory of containerd's programs: as the harness builds them, where it has; else as they are installed here; else as Debian
/// has them, unpacked aside, because an installed one would run as a service.
///
/// # Errors
/// None of these can be had.
pub fn containerd(h: &Harness) -> Result<PathBuf> {
    if let Some(built) = tools::containerd().have(h) {
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
            apt::extract("containerd", place, log).or_else(|_| {
                apt::update(h)?;
                apt::extract("containerd", place, log)
            })
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

    fn pull(&self, folder: &Path, source: &Source) -> Result<Duration> {
        let running = Running::start(&self.programs, folder)?;
        timed(|| running.pull(&source.image("bench:1")))
    }
}

/// A containerd that runs, asked by `ctr`.
pub struct Running {
    programs: PathBuf,
    folder: PathBuf,
    _process: Background,
}

impl Running {
    /// Starts it with everything that it has in this folder.
    ///
    /// # Errors
    /// It ended, or does not answer.
    pub fn start(programs: &Path, folder: &Path) -> Result<Self> {
        let config = folder.join("config.toml");
        let path = |part: &str| folder.join(part).display().to_string();
        let socket = path("containerd.sock");
        let said = Cmd::new(programs.join("containerd")).arg("--version").output()?;
        let version = if said.contains(" v2.") { 3 } else { 2 };
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
        let mut process = Background::start(&containerd, folder.join("containerd.log"))?;
        let ctr = Cmd::new(programs.join("ctr")).args(["--address", &socket]).arg("version");
        wait_for("containerd", seconds(30), || {
            if process.ended() {
                bail!("it ended: {}", crate::process::tail(&process.log, 20)?);
            }
            Ok(ctr.clone().succeeds().then_some(()))
        })?;
        Ok(Self { programs: programs.to_owned(), folder: folder.to_owned(), _process: process })
    }

    fn ctr(&self) -> Cmd {
        let ctr = Cmd::new(self.programs.join("ctr"));
        ctr.arg("--address").arg(self.folder.join("containerd.sock"))
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// It could not.
    pub fn pull(&self, image: &str) -> Result<()> {
        let pull =
            self.ctr().args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs"]);
        pull.arg(image).output().map(drop)
    }

    /// Prepares a snapshot of the topmost layer that was pulled, and mounts it.
    ///
    /// # Errors
    /// It could not, or nothing was pulled.
    pub fn mount(&self, name: &str) -> Result<()> {
        let list = self.ctr().args(["snapshots", "--snapshotter", "overlayfs", "list"]).output()?;
        let lines = || list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let is_parent = |key: &str| lines().any(|line| line.get(1) == Some(&key));
        let committed = |line: &Vec<&str>| line.last() == Some(&"Committed") && !is_parent(line[0]);
        let top = lines().find(committed).map(|line| line[0].to_owned());
        let top = top.context("containerd has no snapshot of the image")?;
        let at = self.folder.join("mounted").join(name);
        fs::create_dir_all(&at).context("making a folder")?;
        let prepare = self.ctr().args(["snapshots", "--snapshotter", "overlayfs", "prepare"]);
        let prepare = prepare.arg("--target").arg(&at).args([name, &top]).output()?;
        // What it prints is the command that mounts.
        let mut words = prepare.split_whitespace();
        let program = words.next().context("containerd says no mount")?;
        Cmd::new(program).args(words).output().map(drop)
    }

    /// Unmounts and removes a snapshot.
    ///
    /// # Errors
    /// It could not.
    pub fn unmount(&self, name: &str) -> Result<()> {
        Cmd::new("umount").arg(self.folder.join("mounted").join(name)).output()?;
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

    fn pull(&self, folder: &Path, source: &Source) -> Result<Duration> {
        let pull = Cmd::new("podman").arg("--root").arg(folder.join("root"));
        let pull = pull.arg("--runroot").arg(folder.join("run"));
        let pull = pull.args(["--storage-driver", "overlay", "pull", "--quiet"]);
        let pull = pull.args(["--tls-verify=false", "--signature-policy"]).arg(&self.policy);
        let pull = pull.arg(source.image("bench:1"));
        timed(|| pull.output().map(drop))
    }
}
