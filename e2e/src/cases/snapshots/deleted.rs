//! What goes with a snapshot that is deleted, by its class, and when; and what becomes of one whose
//! node is gone for good.

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cases::{Case, When};
use crate::cluster::wait_for;
use crate::gate::Door;
use crate::http;
use crate::look::{Node, STORE};
use crate::pods::{PATIENCE, Pod, Scene};
use crate::progress::seconds;
use crate::snapshots::Snapshot;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-deleted",
    what: "snapshots are deleted, and what is to go goes",
    when: When::Together,
    play: |scene| {
        let played = play(scene);
        scene.stage.gates()?.door.set(Door::Open);
        played
    },
};

/// A node that is an object and nothing else.
pub const GHOST: Case = Case {
    name: "snapshot-ghost",
    what: "the node of a snapshot is gone for good",
    when: When::Together,
    play: ghost,
};

fn play(scene: &Scene<'_>) -> Result<()> {
    let node = scene.stage.worker();
    scene.start(&Pod::new("source", json!({ "image": scene.stage.image })).on(&node.name))?;
    scene.shell("source", "echo one > /work/note")?;
    let gone = scene.snapshot("gone", "source", "pushed")?;
    let kept = scene.snapshot("kept", "source", "retained")?;
    for snapshot in [&gone, &kept] {
        ensure!(manifest(scene, snapshot)? == 200, "no manifest of {snapshot:?}");
        ensure!(on_node(&node, snapshot)? == [true, true], "not on its node: {snapshot:?}");
    }

    // A pod that goes on from it does not notice.
    scene.restore("user", "gone", &node.name)?;
    scene.delete_snapshot("gone")?;
    scene.without("volumesnapshotcontent", gone.content()?)?;
    scene.without("overlaysnapshot", &gone.id()?)?;
    ensure!(manifest(scene, &gone)? == 404, "the registry still has {:?}", gone.place());
    ensure!(!on_node(&node, &gone)?[0], "the node still knows {}", gone.id()?);
    scene.facts("user", &[("cat /work/note", "one")])?;
    scene.delete("user")?;

    // The same name again is another snapshot.
    scene.shell("source", "echo two > /work/note")?;
    let again = scene.snapshot("gone", "source", "local")?;
    ensure!(again.id()? != gone.id()?, "it is the same snapshot");
    scene.restore("again", "gone", &node.name)?;
    scene.facts("again", &[("cat /work/note", "two")])?;

    while_it_is_made(scene)?;
    retained(scene, &node, &kept)?;
    // Rounds of collection come once a minute.
    wait_for("the deleted snapshot's layer to go", seconds(180), || {
        Ok((!on_node(&node, &gone)?[1]).then_some(()))
    })
}

/// Deleted in the middle of its push: nothing of it stays.
fn while_it_is_made(scene: &Scene<'_>) -> Result<()> {
    let door = &scene.stage.gates()?.door;
    door.set(Door::Held);
    scene.ask("early", "source", "door")?;
    wait_for("the push to come to the registry", PATIENCE, || {
        Ok((door.waiting() > 0).then_some(()))
    })?;
    let early = scene.look("early")?;
    scene.kubectl(&["delete", "volumesnapshot", "early", "--wait=false"])?;
    door.set(Door::Open);
    scene.without("volumesnapshot", "early")?;
    scene.without("volumesnapshotcontent", &format!("{}-early", scene.namespace))?;
    scene.without("overlaysnapshot", &early.id()?)?;
    let repository = format!("snapshots/{}/source/work", scene.namespace);
    let status = ask(scene, &repository, &early.id()?)?;
    ensure!(status == 404, "the registry says {status} to a deleted snapshot");
    Ok(())
}

/// What a class retains stays when the user's object goes, until somebody wants it gone.
fn retained(scene: &Scene<'_>, node: &Node<'_>, kept: &Snapshot) -> Result<()> {
    scene.delete_snapshot("kept")?;
    ensure!(scene.has("volumesnapshotcontent", kept.content()?)?, "its content went");
    ensure!(scene.has("overlaysnapshot", &kept.id()?)?, "its order went");
    ensure!(manifest(scene, kept)? == 200, "its manifest went");
    ensure!(on_node(node, kept)? == [true, true], "its layer went");
    let patch = "{\"spec\":{\"deletionPolicy\":\"Delete\"}}";
    let content = ["volumesnapshotcontent", kept.content()?];
    scene.kubectl(&["patch", content[0], content[1], "--type=merge", "-p", patch])?;
    scene.kubectl(&["delete", content[0], content[1], "--timeout=120s"])?;
    scene.without("overlaysnapshot", &kept.id()?)
}

/// What the registry says to a snapshot's manifest.
fn manifest(scene: &Scene<'_>, snapshot: &Snapshot) -> Result<u16> {
    let (repository, digest) = snapshot.place()?;
    ask(scene, repository, digest)
}

fn ask(scene: &Scene<'_>, repository: &str, which: &str) -> Result<u16> {
    let path = format!("/v2/{repository}/manifests/{which}");
    let kind = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    Ok(http::send(scene.stage.registry.here, "HEAD", &path, &kind, &[])?.status)
}

/// Whether its node has a record of a snapshot, and the layer that was cut for it.
fn on_node(node: &Node<'_>, snapshot: &Snapshot) -> Result<[bool; 2]> {
    let id = snapshot.id()?;
    let layer = hex::encode(Sha256::digest(format!("ovl-csi cut {id}")));
    let list = node.shell(&format!("cd {STORE} && ls snapshots layers"))?;
    let has = |what: &str| list.lines().any(|line| line.contains(what));
    Ok([has(&id), has(&layer)])
}

fn ghost(scene: &Scene<'_>) -> Result<()> {
    const NODE: &str = "ghost";
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        // No DaemonSet wants a pod there.
        "metadata": { "name": NODE, "labels": { "kubernetes.io/os": "none" } },
    });
    scene.apply(&node.to_string())?;
    scene.make(&Pod::new("source", json!({ "image": scene.stage.image })).on(NODE))?;
    let running = json!({ "status": {
        "phase": "Running",
        "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    let patch = ["patch", "pod", "source", "--subresource=status", "--type=merge", "-p"];
    scene.kubectl(&[&patch[..], &[&running.to_string()]].concat())?;
    for name in ["deleted", "left"] {
        scene.ask(name, "source", "local")?;
    }
    // Nobody will ever say that it is gone from there.
    scene.delete_snapshot("deleted")?;
    scene.kubectl(&["delete", "node", NODE])?;
    let ended = scene.ended("left")?;
    ensure!(!ended.is_ready(), "a snapshot of a node that is no more is ready: {ended:?}");
    let reason = ended.said("message").unwrap_or_default();
    ensure!(reason.contains(NODE), "the reason does not name the node: {reason}");
    scene.delete_snapshot("left")?;
    scene
        .kubectl(&["delete", "pod", "source", "--force", "--grace-period=0", "--ignore-not-found"])
        .map(drop)
}
