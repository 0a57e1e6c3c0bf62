//! The CSI specification's own tests, on `ovl node` as a process of this machine.
//!
//! Deliberately absent: the controller's specs. The controller needs an API server; its specs are a
//! cluster case.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::context::SuiteContext;
use crate::driver;
use crate::machine::background::Background;
use crate::machine::process::{Cmd, tail};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::report::{Report, ginkgo};
use crate::toolchain::programs;

/// The services that the node has.
const FOCUS: &str = "Identity Service|Node Service";

/// Specs of these services that create their volume with CreateVolume even where there is no
/// controller. The driver's own tests and the cluster cases cover them.
const NEED_CONTROLLER: &str = "NodeUnpublishVolume should remove target path\
    |with single node multi writer capability\
    |NodeGetVolumeStats should fail when volume does not exist on the specified path";

/// Starts the driver in a directory of its own and runs the specs on it.
pub fn run(ctx: &SuiteContext<'_>, log: &Path) -> Result<Report> {
    let sanity = programs::csi_sanity().ensure(ctx.h)?.join("csi-sanity");
    let program = ctx.program()?;
    let place = Place::make(ctx.h.cache.scratch("sanity")?)?;
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
    let Some(mut report) = ginkgo::parse(&done.stdout) else {
        bail!("it stopped early: {}\n{}\nthe driver:\n{}", done.stderr, quote()?.0, quote()?.1);
    };
    // A failed clean-up or a timeout is no spec, and counts nowhere else.
    if report.failures.is_empty() && !done.status.success() {
        report.failures.push("csi-sanity failed".to_owned());
    }
    if let Some(last) = report.failures.last_mut() {
        let (specs, driver) = quote()?;
        last.push_str(&format!("\n{specs}\nthe driver:\n{driver}"));
    }
    Ok(report)
}

/// The directories of one run.
struct Place {
    root: PathBuf,
}

impl Place {
    fn make(root: PathBuf) -> Result<Self> {
        for dir in ["kubelet/plugins_registry", "kubelet/plugins/ovl.csi.dev", "kubelet/pods"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        Ok(Self { root })
    }

    fn socket(&self) -> PathBuf {
        self.root.join("kubelet/plugins/ovl.csi.dev/csi.sock")
    }

    /// `ovl node` as the DaemonSet runs it, on these directories.
    fn driver(&self, program: &Path) -> Result<Cmd> {
        let health = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let health = health.context("finding a free port")?;
        let path = |part: &str| self.root.join(part).display().to_string();
        Ok(driver::process::command(program)
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
