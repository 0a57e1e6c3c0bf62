//! The CSI specification's own tests, on the driver's node half as a process of this machine.
//!
//! Deliberately absent: the controller's specs. The controller needs an API server, and is a case of
//! the cluster's.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Bench, ginkgo};
use crate::background::Background;
use crate::cluster::wait_for;
use crate::process::{Cmd, tail};
use crate::progress::seconds;
use crate::tally::Tally;
use crate::{driver, tools};

/// The services that the driver has.
const FOCUS: &str = "Identity Service|Node Service";

/// The specs of these services that make their volume by CreateVolume without asking whether there
/// is a controller. What they are about is the driver's own tests' and the cluster cases' as well.
const NEED_CONTROLLER: &str = "NodeUnpublishVolume should remove target path\
    |with single node multi writer capability\
    |NodeGetVolumeStats should fail when volume does not exist on the specified path";

/// Starts the driver in a folder of its own and runs the specs on it.
pub fn run(bench: &Bench<'_>, log: &Path) -> Result<Tally> {
    let sanity = tools::csi_sanity().ensure(bench.h)?.join("csi-sanity");
    let program = driver::program(bench.h, bench.repo)?;
    let place = Place::make(bench.h.cache.scratch("sanity")?)?;
    let mut driver = Background::start(&place.driver(&program)?, place.root.join("driver.log"))?;
    let socket = place.socket();
    wait_for("the driver's socket", seconds(30), || {
        if driver.ended() {
            bail!("the driver ended: {}", tail(&driver.log, 20)?);
        }
        Ok(socket.exists().then_some(()))
    })?;
    let done = place.specs(&sanity).outcome()?;
    fs::write(log, &done.stdout).with_context(|| format!("writing {}", log.display()))?;
    let quote = || Ok::<_, anyhow::Error>((tail(log, 60)?, tail(&driver.log, 20)?));
    let Some(mut tally) = ginkgo::tally(&done.stdout) else {
        bail!("it broke off: {}\n{}\nthe driver:\n{}", done.stderr, quote()?.0, quote()?.1);
    };
    // A clean-up that failed, or the time that ran out, is no spec and counts nowhere else.
    if tally.failures.is_empty() && !done.status.success() {
        tally.failures.push("csi-sanity did not end well".to_owned());
    }
    if let Some(last) = tally.failures.last_mut() {
        let (specs, driver) = quote()?;
        last.push_str(&format!("\n{specs}\nthe driver:\n{driver}"));
    }
    Ok(tally)
}

/// The folders of one run.
struct Place {
    root: PathBuf,
}

impl Place {
    fn make(root: PathBuf) -> Result<Self> {
        for folder in ["kubelet/plugins_registry", "kubelet/plugins/ovl.csi.dev", "kubelet/pods"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(Self { root })
    }

    fn socket(&self) -> PathBuf {
        self.root.join("kubelet/plugins/ovl.csi.dev/csi.sock")
    }

    /// `ovl node` as the DaemonSet runs it, on these folders.
    fn driver(&self, program: &Path) -> Result<Cmd> {
        let health = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let health = health.context("finding a free port")?;
        let path = |part: &str| self.root.join(part).display().to_string();
        Ok(driver::node(program)
            .args(["--node-name", "sanity", "--driver-name", "ovl.csi.dev"])
            .args(["--endpoint", &format!("unix://{}", self.socket().display())])
            .args(["--root", &path("store"), "--kubelet-dir", &path("kubelet")])
            .args(["--health-address", &health.to_string()]))
    }

    fn specs(&self, sanity: &Path) -> Cmd {
        let path = |part: &str| self.root.join("kubelet/pods").join(part).display().to_string();
        Cmd::new(sanity)
            .args(["--csi.endpoint", &format!("unix://{}", self.socket().display())])
            .args(["--csi.mountdir", &path("target"), "--csi.stagingdir", &path("staging")])
            .args(["--ginkgo.focus", FOCUS, "--ginkgo.no-color"])
            .args(["--ginkgo.skip", NEED_CONTROLLER])
            .limit(seconds(300))
    }
}
