//! What is deleted with a snapshot, by its class, and when. What happens to a snapshot whose node
//! is gone for good.

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::ProxyState;
use crate::env::namespace::TestNamespace;
use crate::env::node::{Node, STORE};
use crate::env::pods::{DRIVER, POD_TIMEOUT, Pod};
use crate::env::snapshots::Snapshot;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;
use crate::oci::http;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-deleted",
    what: "snapshots are deleted with their layers and manifests",
    concurrency: Concurrency::Parallel,
    run: |ns| {
        let ran = run(ns);
        ns.env.proxies()?.controlled.set_state(ProxyState::Open);
        ran
    },
};

/// A node that exists only as an object.
pub const GHOST: Case = Case {
    name: "snapshot-ghost",
    what: "the node of a snapshot is gone for good",
    concurrency: Concurrency::Parallel,
    run: ghost,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let node = ns.env.worker();
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&node.name))?;
    ns.shell("source", "echo one > /work/note")?;
    let gone = ns.snapshot("gone", "source", "pushed")?;
    let kept = ns.snapshot("kept", "source", "retained")?;
    for snapshot in [&gone, &kept] {
        ensure!(manifest(ns, snapshot)? == 200, "no manifest of {snapshot:?}");
        ensure!(on_node(&node, snapshot)? == [true, true], "not on its node: {snapshot:?}");
    }

    // A pod that uses the snapshot is not disturbed.
    ns.restore("user", "gone", &node.name)?;
    ns.delete_snapshot("gone")?;
    ns.wait_until_deleted("volumesnapshotcontent", gone.content()?)?;
    ns.wait_until_deleted("overlaysnapshot", &gone.id()?)?;
    ensure!(
        manifest(ns, &gone)? == 404,
        "the registry still has {:?}",
        gone.repository_and_digest()
    );
    ensure!(!on_node(&node, &gone)?[0], "the node still knows {}", gone.id()?);
    ns.expect_output("user", &[("cat /work/note", "one")])?;
    ns.delete("user")?;

    // Another snapshot of the same name.
    ns.shell("source", "echo two > /work/note")?;
    let again = ns.snapshot("gone", "source", "local")?;
    ensure!(again.id()? != gone.id()?, "it is the same snapshot");
    ns.restore("again", "gone", &node.name)?;
    ns.expect_output("again", &[("cat /work/note", "two")])?;

    deleted_during_push(ns)?;
    retained(ns, &node, &kept)?;
    // Garbage collection runs once a minute.
    wait_for("the removal of the deleted snapshot's layer", seconds(180), || {
        Ok((!on_node(&node, &gone)?[1]).then_some(()))
    })
}

/// Deleted in the middle of its push: nothing of it stays.
fn deleted_during_push(ns: &TestNamespace<'_>) -> Result<()> {
    let controlled = &ns.env.proxies()?.controlled;
    controlled.set_state(ProxyState::Held);
    ns.request_snapshot("early", "source", "controlled")?;
    wait_for("the push to reach the registry", POD_TIMEOUT, || {
        Ok((controlled.held_requests() > 0).then_some(()))
    })?;
    let early = ns.get_snapshot("early")?;
    ns.kubectl(&["delete", "volumesnapshot", "early", "--wait=false"])?;
    controlled.set_state(ProxyState::Open);
    ns.wait_until_deleted("volumesnapshot", "early")?;
    ns.wait_until_deleted("volumesnapshotcontent", &format!("{}-early", ns.namespace))?;
    ns.wait_until_deleted("overlaysnapshot", &early.id()?)?;
    let repository = format!("snapshots/{}/source/work", ns.namespace);
    let status = manifest_status(ns, &repository, &early.id()?)?;
    ensure!(status == 404, "the registry returns {status} for a deleted snapshot");
    Ok(())
}

/// What a class retains stays after the user's object is deleted, until the administrator deletes
/// it.
fn retained(ns: &TestNamespace<'_>, node: &Node<'_>, kept: &Snapshot) -> Result<()> {
    let deleted = ns.kubectl_ovl(&["delete", "kept", "--wait"]).limit(POD_TIMEOUT).outcome()?;
    let stays = format!("VolumeSnapshotContent {} stay", kept.content()?);
    let says = deleted.status.success() && deleted.stderr.contains(&stays);
    ensure!(says, "kubectl ovl delete: {}: {}", deleted.status, deleted.stderr);
    ensure!(ns.exists("volumesnapshotcontent", kept.content()?)?, "its content was deleted");
    ensure!(ns.exists("overlaysnapshot", &kept.id()?)?, "its OverlaySnapshot was deleted");
    ensure!(manifest(ns, kept)? == 200, "its manifest was deleted");
    ensure!(on_node(node, kept)? == [true, true], "its layer was deleted");
    given_again(ns, node, kept)?;
    let patch = "{\"spec\":{\"deletionPolicy\":\"Delete\"}}";
    let content = ["volumesnapshotcontent", kept.content()?];
    ns.kubectl(&["patch", content[0], content[1], "--type=merge", "-p", patch])?;
    // The controller deletes it too as soon as it sees the policy: nothing refers to it.
    ns.kubectl(&["delete", content[0], content[1], "--ignore-not-found", "--timeout=120s"])?;
    ns.wait_until_deleted(content[0], content[1])?;
    ns.wait_until_deleted("overlaysnapshot", &kept.id()?)
}

/// An administrator gives a retained snapshot to another VolumeSnapshot, by a content with its
/// handle.
fn given_again(ns: &TestNamespace<'_>, node: &Node<'_>, kept: &Snapshot) -> Result<()> {
    let content = format!("{}-again", ns.namespace);
    let objects = [
        json!({
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshotContent",
            "metadata": { "name": content },
            "spec": {
                "driver": DRIVER,
                "deletionPolicy": "Retain",
                "source": { "snapshotHandle": kept.id()? },
                "volumeSnapshotRef": { "namespace": ns.namespace, "name": "kept-again" },
            },
        }),
        json!({
            "apiVersion": "snapshot.storage.k8s.io/v1",
            "kind": "VolumeSnapshot",
            "metadata": { "name": "kept-again" },
            "spec": { "source": { "volumeSnapshotContentName": content } },
        }),
    ];
    for object in objects {
        ns.apply(&object.to_string())?;
    }
    ns.restore("given", "kept-again", &node.name)?;
    ns.expect_output("given", &[("cat /work/note", "one")])?;
    ns.delete("given")?;
    ns.delete_snapshot("kept-again")?;
    ns.kubectl(&["delete", "volumesnapshotcontent", &content, "--timeout=120s"])?;
    ensure!(ns.exists("overlaysnapshot", &kept.id()?)?, "its OverlaySnapshot was deleted");
    Ok(())
}

/// The registry's status for a snapshot's manifest.
fn manifest(ns: &TestNamespace<'_>, snapshot: &Snapshot) -> Result<u16> {
    let (repository, digest) = snapshot.repository_and_digest()?;
    manifest_status(ns, repository, digest)
}

fn manifest_status(ns: &TestNamespace<'_>, repository: &str, which: &str) -> Result<u16> {
    let path = format!("/v2/{repository}/manifests/{which}");
    let kind = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    Ok(http::send(ns.env.registry.here, "HEAD", &path, &kind, &[])?.status)
}

/// Whether its node has the record of a snapshot, and its layer.
fn on_node(node: &Node<'_>, snapshot: &Snapshot) -> Result<[bool; 2]> {
    let id = snapshot.id()?;
    let layer = hex::encode(Sha256::digest(format!("ovl-csi cut {id}")));
    let list = node.shell(&format!("cd {STORE} && ls snapshots layers"))?;
    let has = |what: &str| list.lines().any(|line| line.contains(what));
    Ok([has(&id), has(&layer)])
}

fn ghost(ns: &TestNamespace<'_>) -> Result<()> {
    const NODE: &str = "ghost";
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        // No DaemonSet creates a pod there.
        "metadata": { "name": NODE, "labels": { "kubernetes.io/os": "none" } },
    });
    ns.apply(&node.to_string())?;
    ns.create(&Pod::new("source", json!({ "image": ns.env.image })).on(NODE))?;
    let running = json!({ "status": {
        "phase": "Running",
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    let patch = ["patch", "pod", "source", "--subresource=status", "--type=merge", "-p"];
    ns.kubectl(&[&patch[..], &[&running.to_string()]].concat())?;
    for name in ["deleted", "left"] {
        ns.request_snapshot(name, "source", "local")?;
    }
    // No node will confirm the deletion.
    ns.delete_snapshot("deleted")?;
    ns.kubectl(&["delete", "node", NODE])?;
    let ended = ns.wait_snapshot_finished("left")?;
    ensure!(!ended.is_ready(), "a snapshot of a node that is no more is ready: {ended:?}");
    let reason = ended.annotation("message").unwrap_or_default();
    ensure!(reason.contains(NODE), "the reason does not name the node: {reason}");
    ns.delete_snapshot("left")?;
    ns.kubectl(&["delete", "pod", "source", "--force", "--grace-period=0", "--ignore-not-found"])
        .map(drop)
}
