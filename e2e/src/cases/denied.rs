//! An image that does not exist: the pod's Event says which and why, and the node keeps nothing.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Case;
use crate::cluster::wait_for;
use crate::look::Node;
use crate::pods::{self, PATIENCE, Pod};
use crate::stage::Stage;

/// See the module.
pub const CASE: Case = Case {
    name: "missing-image",
    what: "a pod with a missing image is told so",
    pods: &[POD],
    play,
};

const POD: &str = "denied";

fn play(stage: &Stage) -> Result<()> {
    let image = format!("{}-that-is-missing", stage.image);
    let pod = Pod { name: POD, attributes: json!({ "image": image }), runs: "sleep infinity" };
    stage.cluster.kubectl_apply(&pod.manifest())?;
    let event = wait_for("the pod's Event", PATIENCE, || {
        Ok(Some(pods::warnings(&stage.cluster, POD)?).filter(|told| told.contains("FailedMount")))
    })?;
    ensure!(event.contains(&image), "the Event does not name {image}: {event}");
    let why = ["not found", "no such", "does not exist", "unknown"];
    ensure!(
        why.iter().any(|why| event.to_lowercase().contains(why)),
        "it gives no reason: {event}"
    );

    let node = Node::of_pod(stage, POD)?;
    let pod = stage.cluster.kubectl_json(&["get", "pod", POD])?;
    let uid = pod.pointer("/metadata/uid").and_then(Value::as_str).context("it has no uid")?;
    pods::delete(&stage.cluster, POD)?;
    wait_for("the node to have nothing of it", PATIENCE, || {
        let (mounts, volumes) = (node.volume_mounts(uid)?, node.volumes()?);
        ensure!(mounts.is_empty() && volumes.is_empty(), "{mounts:?}, volumes {volumes:?}");
        let staging = node.staging()?;
        ensure!(staging.is_empty(), "staging: {staging:?}");
        Ok(Some(()))
    })
}
