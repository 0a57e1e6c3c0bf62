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

/// containerd's overlayfs snapshotter.
struct Containerd {
    programs: PathBuf,
}

impl Peer for Containerd {
    fn name(&self) -> &'static str {
        "containerd"
    }

    fn pull(&self, folder: &Path, source: &Source) -> Result<Duration> {
        let (config, socket) = (folder.join("config.toml"), folder.join("containerd.sock"));
        let path = |part: &str| folder.join(part).display().to_string();
        let text = format!(
            "version = 3\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
             \"io.containerd.cri.v1.runtime\"]\n[grpc]\naddress = \"{}\"\n\
             [ttrpc]\naddress = \"{}.ttrpc\"\n",
            path("root"),
            path("state"),
            socket.display(),
            socket.display(),
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let containerd = Cmd::new(self.programs.join("containerd")).arg("--config").arg(&config);
        let mut running = Background::start(&containerd, folder.join("containerd.log"))?;
        let ctr = || Cmd::new(self.programs.join("ctr")).arg("--address").arg(&socket);
        wait_for("containerd", seconds(30), || {
            if running.ended() {
                bail!("it ended: {}", crate::process::tail(&running.log, 20)?);
            }
            Ok(ctr().arg("version").succeeds().then_some(()))
        })?;
        let pull = ctr().args(["images", "pull", "--plain-http", "--snapshotter", "overlayfs"]);
        let pull = pull.arg(source.image("bench:1"));
        timed(|| pull.output().map(drop))
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
