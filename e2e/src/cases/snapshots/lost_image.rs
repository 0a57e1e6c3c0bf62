//! The chart's registry loses its images with its pod. The node of a snapshot pushes the image again,
//! and a pod on the other node starts. If the node has lost the layers too, the snapshot says so.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cases::driver_pod::restart_driver;
use crate::env::chart::NAMESPACE;
use crate::env::namespace::TestNamespace;
use crate::env::node::STORE;
use crate::env::pods::Pod;
use crate::env::snapshots::{self, Snapshot};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-lost-image",
    what: "a registry loses the images of snapshots",
    concurrency: Concurrency::Last,
    run: |ns| {
        let ran = run(ns);
        // The next case must find the registry with its volume.
        ns.env.install(&json!({}))?;
        ran
    },
};

/// The class of the chart, which pushes to its registry.
const CLASS: &str = "ovl-csi";

/// The pods of the registry.
const REGISTRY: &str = "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component=registry";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (other, worker) = (&ns.env.cluster.nodes[0], ns.env.worker());
    let mut registry = ns.env.registry_values();
    registry["storage"] = json!({ "ephemeral": true });
    ns.env.install(&json!({ "registry": registry }))?;

    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker.name))?;
    ns.shell("source", "echo kept > /work/note")?;
    let kept = ns.snapshot("kept", "source", CLASS)?;
    ns.shell("source", "echo lost > /work/note")?;
    let lost = ns.snapshot("lost", "source", CLASS)?;
    let pushed = pushed_at(ns, &kept)?;

    delete_registry_pod(ns)?;
    // Before the node knows: the error names the snapshot that the user wrote, and its node.
    ns.create(&Pod::new("across", snapshots::volume_attributes("kept")).on(other))?;
    let words = ["FailedMount", "snapshot kept: image", "not in the registry any more"];
    ns.wait_for_event("across", &[&words[..], &[worker.name.as_str()]].concat())?;

    let record = worker.shell(&format!("cat {STORE}/snapshots/{}.json", lost.id()?))?;
    let record: Value = serde_json::from_str(&record).context("the record of a snapshot")?;
    let layer = record["stack"].as_array().and_then(|stack| stack.last()?.as_str());
    let layer = layer.and_then(|key| key.rsplit(':').next()).context("it has no layer")?;
    worker.shell(&format!("test -d {STORE}/layers/{layer} && rm -r {STORE}/layers/{layer}"))?;

    // A node checks its images after the start.
    restart_driver(ns.env, &worker)?;
    let lost = ns.wait_for_annotation("lost", "phase", |phase| phase == "NotInRegistry")?;
    let message = lost.annotation("message").unwrap_or_default();
    ensure!(message.contains("take a new snapshot"), "no way out: {lost:?}");
    ensure!(lost.is_ready(), "Kubernetes' controllers took readyToUse back: update the docs");
    ns.wait_for_event("lost", &["SnapshotNotInRegistry", "cannot be pushed again"])?;
    ns.create(&Pod::new("of-lost", snapshots::volume_attributes("lost")).on(&worker.name))?;
    let words = ["FailedMount", "snapshot lost: image", "take a new snapshot"];
    ns.wait_for_event("of-lost", &words)?;

    wait_for("the image to be pushed again", seconds(180), || {
        Ok((pushed_at(ns, &kept)? != pushed).then_some(()))
    })?;
    let now = ns.wait_snapshot_ready("kept")?;
    ensure!(now.image()? == kept.image()?, "another image: {now:?}");
    // The kubelet tries again after pauses of up to two minutes.
    ns.ready_within("across", seconds(300))?;
    ns.expect_output("across", &[("cat /work/note", "kept")])?;

    // The deletion does not need the image.
    for pod in ["across", "of-lost"] {
        ns.delete(pod)?;
    }
    ns.delete_snapshot("lost")?;
    ns.delete_snapshot("kept")
}

/// When the snapshot was pushed, as its OverlaySnapshot says, if it is pushed.
fn pushed_at(ns: &TestNamespace<'_>, snapshot: &Snapshot) -> Result<Option<String>> {
    let object = ns.overlay_snapshot(&snapshot.id()?)?;
    let conditions = object["status"]["conditions"].as_array().context("it has no conditions")?;
    let pushed = conditions.iter().find(|condition| condition["type"] == "Pushed");
    let pushed = pushed.filter(|condition| condition["status"] == "True");
    Ok(pushed.and_then(|pushed| pushed["lastTransitionTime"].as_str()).map(str::to_owned))
}

/// Deletes the registry's pod, and waits for the next one.
fn delete_registry_pod(ns: &TestNamespace<'_>) -> Result<()> {
    let cluster = ns.cluster();
    cluster.kubectl(&["delete", "pods", "--namespace", NAMESPACE, "--selector", REGISTRY])?;
    let set = "deployment/ovl-csi-registry";
    cluster
        .kubectl(&["rollout", "status", set, "--namespace", NAMESPACE, "--timeout", "180s"])
        .map(drop)
}
