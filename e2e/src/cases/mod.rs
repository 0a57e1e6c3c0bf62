//! What has to hold on a real cluster. A case plays on a stage that is set and leaves it as it was.
//!
//! Deliberately absent: order. No case builds on another.

mod denied;
mod killed;
mod life;
mod manifests;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::wait_for;
use crate::look::Node;
use crate::pods::PATIENCE;
use crate::stage::Stage;

/// One case.
pub struct Case {
    /// What it is called when it fails.
    pub name: &'static str,
    /// What it does, for the progress.
    pub what: &'static str,
    /// The pods that it may leave when it fails.
    pub pods: &'static [&'static str],
    /// Plays it.
    pub play: fn(&Stage) -> Result<()>,
}

/// All of them.
pub const ALL: &[Case] = &[manifests::CASE, life::CASE, life::VOLATILE, denied::CASE, killed::CASE];

/// How long a new volume's mount may take to be seen, once its pod is ready.
const MOMENT: Duration = Duration::from_secs(10);

/// Waits until a node has nothing of a pod and of its volume.
fn nothing_left(node: &Node<'_>, pod_uid: &str, volume: &str) -> Result<()> {
    wait_for(&format!("{} to have nothing of volume {volume}", node.name), PATIENCE, || {
        let mounts = node.volume_mounts(pod_uid)?;
        ensure!(mounts.is_empty(), "mounted: {mounts:?}");
        let volumes = node.volumes()?;
        ensure!(!volumes.iter().any(|id| id == volume), "its folder is there");
        Ok(Some(()))
    })
}

/// The one volume of a pod: its id and its mount.
fn volume_of(node: &Node<'_>, pod_uid: &str) -> Result<(String, crate::look::Mount)> {
    wait_for("the pod's volume to be mounted", MOMENT, || {
        let mounts = node.volume_mounts(pod_uid)?;
        let [mount] = mounts.as_slice() else { anyhow::bail!("mounts of the pod: {mounts:?}") };
        let upper = mount.value("upperdir").unwrap_or_default();
        let id = upper.rsplit('/').nth(1).unwrap_or_default().to_owned();
        ensure!(node.volumes()?.contains(&id), "no volume's folder holds its upper {upper}");
        Ok(Some((id, mount.clone())))
    })
}
