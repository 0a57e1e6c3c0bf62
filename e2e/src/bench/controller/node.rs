//! What the process of one node requests from the API server for volumes that start from snapshots of other nodes.
//!
//! Deliberately absent: snapshots of this node. It has none, so all that it requests is for its volumes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::audit::Requests;
use super::control_plane::NODE;
use super::objects::Snapshot;
use super::subject::Subject;
use crate::driver::process::NodeProcess;
use crate::oci::registry::MemoryRegistry;

/// The requests of a new process of a node, from its start to its end, with one volume of each of these snapshots.
///
/// # Errors
/// The node does not start, or refuses a volume.
pub fn requests(
    subject: &Subject,
    dir: &Path,
    registry: &MemoryRegistry,
    snapshots: &[Snapshot],
) -> Result<Requests> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let log = subject.audit_log();
    let begun = log.end()?;
    let command = subject.plane.in_pod(NODE, subject.driver())?;
    let command = command.args(["node", "--node-name", "reader", "--namespace", "ovl-csi"]);
    let node = NodeProcess::start_command(command, dir, registry.address)?;
    for snapshot in snapshots {
        let attributes = [
            ("snapshot", snapshot.name.as_str()),
            ("csi.storage.k8s.io/pod.namespace", &snapshot.namespace),
        ];
        let name = snapshot.content();
        let volume = node.volume_of(&format!("pod-{name}"), &name, &attributes);
        node.publish(&volume)?;
        node.unpublish(&volume)?;
    }
    // It writes its Events before it ends.
    drop(node);
    log.requests(NODE, begun, |_, _| false)
}
