//! A version of the controller in a control plane of its own, and the other parts of a cluster as far as it sees them:
//! users, the agents of nodes, and the stock snapshot controllers.
//!
//! Deliberately absent: what is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::api::{Api, each};
use super::audit::AuditLog;
use super::control_plane::{CONTROLLER, ControlPlane, free};
use super::objects::{self, PODS, Request, Snapshot};
use super::watch::{Object, Watch};
use crate::bench::programs::Programs;
use crate::machine::background::Background;
use crate::machine::harness::Harness;
use crate::machine::mounts;
use crate::machine::process::Cmd;
use crate::machine::progress::{minutes, seconds};

/// Namespaces with many snapshots.
pub const NAMESPACES: usize = 20;

/// The namespace of the snapshots whose latency is measured, and that of a user who makes thousands.
pub const PROBE: &str = "probe";
pub const FLOOD: &str = "flood";

/// Nodes of the pods of all namespaces but [`PROBE`], and the node of its pods.
const NODES: usize = 10;
pub const PROBE_NODE: usize = NODES;

/// How long the controller may take for thousands of snapshots.
const LONGEST: Duration = minutes(30);

/// A process is idle if it uses less than this of the processor in [`LOOK`].
const IDLE: Duration = Duration::from_millis(30);
const LOOK: Duration = seconds(3);

/// An image in a registry.
#[derive(Clone)]
pub struct Image {
    /// Its registry and repository.
    pub repository: String,
    /// Its digest.
    pub digest: String,
}

/// A version in its control plane.
pub struct Subject {
    /// The VolumeSnapshots, their contents and OverlaySnapshots.
    pub snapshots: Watch,
    pub contents: Watch,
    pub overlays: Watch,
    pub plane: ControlPlane,
    /// The image of all snapshots.
    image: Image,
    programs: Programs,
    dir: PathBuf,
    /// The logs of all its processes.
    logs: PathBuf,
    /// VolumeSnapshots so far.
    created: AtomicUsize,
}

impl Subject {
    /// Starts the control plane in a directory of this name, with namespaces, nodes and pods, and without the
    /// controller.
    ///
    /// # Errors
    /// The control plane does not start, or refuses an object.
    pub fn start(
        h: &Harness,
        place: &Path,
        name: &str,
        programs: &Programs,
        image: &Image,
    ) -> Result<Self> {
        let (dir, logs) =
            (place.join(name), h.cache.logs().join(format!("bench-controller-{name}")));
        mounts::remove(&logs)?;
        fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        let plane = ControlPlane::start(h, &dir, &logs)?;
        plane.install_kinds(h, &programs[0])?;
        let subject = Self {
            snapshots: Watch::start(plane.proxy, objects::VOLUME_SNAPSHOTS)?,
            contents: Watch::start(plane.proxy, objects::CONTENTS)?,
            overlays: Watch::start(plane.proxy, objects::OVERLAY_SNAPSHOTS)?,
            plane,
            image: image.clone(),
            programs: programs.clone(),
            dir,
            logs,
            created: AtomicUsize::new(0),
        };
        let mut api = subject.api()?;
        let mut create = |(path, object): &Request| api.create(path, object).map(drop);
        create(&objects::class(&image.repository))?;
        let mut with_status = Vec::new();
        with_status.extend((0..=PROBE_NODE).map(objects::node));
        let namespaces = (0..NAMESPACES).map(namespace).chain([PROBE.into(), FLOOD.into()]);
        for name in namespaces {
            create(&objects::namespace(&name))?;
            let node = |pod| if name == PROBE { PROBE_NODE } else { pod % NODES };
            with_status.extend((0..PODS).map(|pod| objects::pod(&name, pod, node(pod))));
        }
        for [(path, object), (status_path, status)] in &with_status {
            create(&(path.clone(), object.clone()))?;
            subject.api()?.patch(status_path, status)?;
        }
        Ok(subject)
    }

    /// A connection to the API server with all rights.
    ///
    /// # Errors
    /// It does not respond.
    pub fn api(&self) -> Result<Api> {
        Api::connect(self.plane.proxy)
    }

    /// `ovl` of this version.
    pub fn driver(&self) -> &Path {
        &self.programs[0]
    }

    /// The requests of the driver.
    pub fn audit_log(&self) -> AuditLog {
        AuditLog(self.plane.audit_log())
    }

    /// Starts the controller.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn controller(&self) -> Result<Background> {
        let command = self.plane.in_pod(CONTROLLER, self.driver())?;
        let command = command.args(["controller", "--namespace", "ovl-csi", "--pod-name", "bench"]);
        let socket = format!("unix://{}", self.dir.join("csi.sock").display());
        let command = command.args(["--endpoint", &socket]);
        let command = command.args(["--health-address", &free()?.to_string()]);
        Background::start(&command, self.logs.join("controller.log"))
    }

    /// `kubectl ovl` with these arguments.
    pub fn kubectl_ovl(&self, args: &[&str]) -> Cmd {
        Cmd::new(&self.programs[1]).args(args).arg("--kubeconfig").arg(&self.plane.kubeconfig)
    }

    /// Creates a VolumeSnapshot.
    ///
    /// # Errors
    /// The API server refused it.
    pub fn create(&self, api: &mut Api, snapshot: &Snapshot) -> Result<()> {
        let (path, object) = snapshot.create();
        api.create(&path, &object)?;
        self.created.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Creates VolumeSnapshots, over several connections.
    ///
    /// # Errors
    /// The API server refused one.
    pub fn create_all(&self, snapshots: &[Snapshot]) -> Result<()> {
        each(self.plane.proxy, snapshots.len(), |api, at| self.create(api, &snapshots[at]))
    }

    /// Waits until this many VolumeSnapshots of some namespaces have their content.
    ///
    /// # Errors
    /// They do not have it in time.
    pub fn wait_for_contents(&self, count: usize, of: impl Fn(&str) -> bool) -> Result<()> {
        self.contents.wait("contents", count, LONGEST, |content| of(&content.namespace))
    }

    /// Waits until all VolumeSnapshots have their content.
    ///
    /// # Errors
    /// They do not have it in time.
    pub fn wait_for_all_contents(&self) -> Result<()> {
        self.wait_for_contents(self.count(), |_| true)
    }

    /// Does what the agents of nodes and the stock controllers do, until all VolumeSnapshots are ready and these are
    /// bound.
    ///
    /// # Errors
    /// The API server refused something, or the controller does not follow in time.
    pub fn complete(&self, snapshots: &[Snapshot]) -> Result<()> {
        self.wait_for_all_contents()?;
        self.overlays.wait("OverlaySnapshots", self.count(), LONGEST, |_| true)?;
        self.bind(snapshots, false)?;
        self.capture(|_| true)?;
        let ready = |snapshot: &Object| snapshot.ready.is_some();
        self.snapshots.wait("ready VolumeSnapshots", self.count(), LONGEST, ready)?;
        self.bind(snapshots, true)
    }

    fn count(&self) -> usize {
        self.created.load(Ordering::Relaxed)
    }

    /// Reports the OverlaySnapshots that were made for some namespaces as captured and pushed.
    ///
    /// # Errors
    /// The API server refused a status.
    pub fn capture(&self, of: impl Fn(&str) -> bool) -> Result<()> {
        let waiting = |overlay: &Object| overlay.ready.is_none() && of(&overlay.namespace);
        let waiting = self.overlays.objects(waiting);
        let image = format!("{}@{}", self.image.repository, self.image.digest);
        each(self.plane.proxy, waiting.len(), |api, at| {
            let (path, status) = objects::ready(&waiting[at].name, &image);
            api.patch(&path, &status).map(drop)
        })
    }

    /// Writes the status of VolumeSnapshots and of their contents.
    fn bind(&self, snapshots: &[Snapshot], ready: bool) -> Result<()> {
        each(self.plane.proxy, snapshots.len(), |api, at| {
            for (path, status) in [snapshots[at].content_status(ready), snapshots[at].status(ready)]
            {
                api.patch(&path, &status)?;
            }
            Ok(())
        })
    }
}

/// The name of a namespace with many snapshots.
pub fn namespace(number: usize) -> String {
    format!("bench-{number:02}")
}

/// This many VolumeSnapshots, distributed over all namespaces.
pub fn snapshots(kind: &str, count: usize) -> Vec<Snapshot> {
    (0..count).map(|number| Snapshot::new(&namespace(number % NAMESPACES), kind, number)).collect()
}

/// Waits until a process does nothing.
///
/// # Errors
/// It works all the time, or has ended.
pub fn wait_until_idle(process: &Background) -> Result<()> {
    let since = Instant::now();
    loop {
        let before = process.cpu_time()?;
        thread::sleep(LOOK);
        if process.cpu_time()? - before < IDLE {
            return Ok(());
        }
        ensure!(since.elapsed() < minutes(10), "the controller does not come to rest");
    }
}
