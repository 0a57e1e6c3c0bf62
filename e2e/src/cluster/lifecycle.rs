//! Creates and deletes clusters.

use std::path::Path;

use anyhow::Result;

use super::engine::RUN_DIR;
use super::kind::Cluster;
use super::prerequisites::Prerequisites;
use super::purpose::Purpose;
use super::snapshotter;
use crate::machine::harness::Harness;
use crate::machine::process::Cmd;
use crate::machine::progress::seconds;

/// Creates the cluster, or finds it running (for [`Purpose::Try`]; a cluster for tests is always
/// new). Every node is then Ready, and CoreDNS runs.
///
/// # Errors
/// The step that failed, with the end of its log.
pub fn up(h: &Harness, prerequisites: &Prerequisites, purpose: Purpose) -> Result<Cluster> {
    let name = purpose.cluster();
    let kubeconfig = Path::new(RUN_DIR).join(format!("{name}.kubeconfig"));
    let mut cluster =
        Cluster { name, kubeconfig, nodes: Vec::new(), prerequisites: prerequisites.clone() };
    if purpose == Purpose::Try && cluster.is_running() {
        h.progress.say(&format!("  cluster {name} runs already"));
        return Ok(cluster);
    }
    down(prerequisites, purpose)?;
    prerequisites.engine.ensure_network()?;
    let what = format!("creating cluster {name} with two nodes");
    h.progress.step(&what, seconds(25), |log| cluster.create(purpose, log))?;
    h.progress
        .step("waiting for its nodes and CoreDNS", seconds(5), |_| cluster.wait_until_ready())?;
    let what = "installing the CRDs and the controller of snapshots";
    h.progress.step(what, seconds(3), |_| snapshotter::install(h, &cluster))?;
    Ok(cluster)
}

/// Deletes a cluster. A missing cluster is no error.
///
/// # Errors
/// kind failed.
pub fn down(prerequisites: &Prerequisites, purpose: Purpose) -> Result<()> {
    let kind = prerequisites.engine.aim(Cmd::new(&prerequisites.kind));
    kind.args(["delete", "cluster", "--name", purpose.cluster()]).output().map(drop)
}
