//! Removes everything that the harness put on the machine.
//!
//! Deliberately absent: guesses. Only what has our names, our label, our directories or a recorded
//! process is removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::engine::{BRIDGE, Engine, LABEL, NETWORK, REPOSITORY, RUN_DIR, daemon};
use super::purpose::Purpose;
use crate::machine::harness::Harness;
use crate::machine::mounts::{loops_below, mounts_below, remove, unmount_below};
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;
use crate::toolchain::programs;

/// The label of kind's nodes. Its value is the name of the cluster.
const KIND_LABEL: &str = "io.x-k8s.kind.cluster";

/// Removes the clusters, containers, networks, the engine if it is ours, mounts and loop devices. A
/// second call has no effect.
///
/// # Errors
/// Something of ours could not be removed. The error says what.
pub fn all(h: &Harness) -> Result<()> {
    h.progress.step("removing clusters, containers and networks", seconds(10), |_| {
        if daemon::was_lost() {
            daemon::start(h)?;
        }
        if let Some(engine) = Engine::find() {
            remove_clusters(h, &engine)?;
            remove_labelled(&engine)?;
        }
        if let Some(daemon) = daemon::find() {
            daemon.stop()?;
        }
        detach_loops(h)?;
        let (engine, half_made) = (h.cache.root().join("docker"), h.cache.root().join("tmp"));
        unmount_below(&[&engine, &half_made, Path::new(RUN_DIR)])?;
        remove(Path::new(RUN_DIR))
    })
}

/// Checks that nothing of a cluster, or of an engine of ours, is left.
///
/// # Errors
/// Something is left. The error says what.
pub fn check(h: &Harness, engine: &Engine, purpose: Purpose) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let tmp = h.cache.root().join("tmp");
    let mut dirs = vec![tmp.as_path()];
    if daemon::find().is_none() && engine.ours {
        ensure!(!Path::new("/sys/class/net").join(BRIDGE).exists(), "the bridge {BRIDGE} is there");
        ensure!(!Path::new(RUN_DIR).exists(), "{RUN_DIR} is there");
        dirs.push(Path::new(RUN_DIR));
    } else {
        let filter = format!("label={KIND_LABEL}={}", purpose.cluster());
        let nodes = engine.docker(["ps", "--all", "--quiet", "--filter", &filter]).output()?;
        ensure!(nodes.is_empty(), "nodes of {} are there: {nodes}", purpose.cluster());
    }
    let mounts = mounts_below(&table, &dirs);
    ensure!(mounts.is_empty(), "mounts are there: {mounts:?}");
    let loops = Cmd::new("losetup").args(["--json", "--list"]).output().unwrap_or_default();
    let loops = loops_below(&loops, h.cache.root());
    ensure!(loops.is_empty(), "loop devices are there: {loops:?}");
    Ok(())
}

/// The directories of the cache.
const PARTS: [&str; 11] = [
    "bin",
    "products",
    "tmp",
    "logs",
    "go",
    "go-build",
    "zig",
    "target",
    "cross-target",
    "apt",
    "docker",
];

/// Removes the cache as well, and our images from an engine that is not ours. To be called after
/// [`all`].
///
/// # Errors
/// A file or an image cannot be removed.
pub fn cache(h: &Harness) -> Result<()> {
    if let Some(engine) = Engine::find() {
        let ours = format!("{REPOSITORY}/*");
        let images = engine.docker(["images", "--quiet", "--filter", &format!("reference={ours}")]);
        remove_each(&engine, &["rmi", "--force"], &images.output()?)?;
    }
    h.progress.step("removing the cache", seconds(10), |_| {
        for part in PARTS {
            remove(&h.cache.root().join(part))?;
        }
        // The lock of the demonstration, which cleans up everything else itself.
        fs::remove_file(h.cache.root().join("demo.lock")).unwrap_or_default();
        // Only if the user keeps nothing else there.
        fs::remove_dir(h.cache.root()).unwrap_or_default();
        Ok(())
    })
}

/// Removes both clusters, with kind if it is here (it also removes the entries in the kubeconfig),
/// and otherwise by the label of the nodes.
fn remove_clusters(h: &Harness, engine: &Engine) -> Result<()> {
    let built = programs::kind().find(h).map(|place| place.join("kind"));
    let kind = built.unwrap_or_else(|| PathBuf::from("kind"));
    for purpose in [Purpose::Try, Purpose::Test] {
        let name = purpose.cluster();
        let delete = engine.aim(Cmd::new(&kind)).args(["delete", "cluster", "--name", name]);
        if !delete.succeeds() {
            let filter = format!("label={KIND_LABEL}={name}");
            remove_containers(engine, &filter)?;
        }
    }
    Ok(())
}

fn remove_labelled(engine: &Engine) -> Result<()> {
    remove_containers(engine, &format!("label={LABEL}"))?;
    let networks =
        engine.docker(["network", "ls", "--quiet", "--filter", &format!("name=^{NETWORK}$")]);
    remove_each(engine, &["network", "rm"], &networks.output()?)
}

fn remove_containers(engine: &Engine, filter: &str) -> Result<()> {
    let list = engine.docker(["ps", "--all", "--quiet", "--filter", filter]).output()?;
    remove_each(engine, &["rm", "--force", "--volumes"], &list)
}

/// Runs a docker command on every line of a list.
fn remove_each(engine: &Engine, command: &[&str], list: &str) -> Result<()> {
    match list.lines().collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        ids => engine.docker(command).args(ids).output().map(drop),
    }
}

/// Detaches loop devices whose files are in the cache, as the files of containers are.
fn detach_loops(h: &Harness) -> Result<()> {
    let Ok(list) = Cmd::new("losetup").args(["--json", "--list"]).output() else { return Ok(()) };
    for device in loops_below(&list, h.cache.root()) {
        Cmd::new("losetup").args(["--detach", &device]).output()?;
    }
    Ok(())
}
