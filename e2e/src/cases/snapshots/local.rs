//! Where a snapshot can be had: one that was not pushed on its node alone, one in a registry with a
//! password by whoever has it.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::{Case, When};
use crate::gate::PASSWORD;
use crate::pods::{Pod, Scene};
use crate::snapshots;

/// Without a repository.
pub const CASE: Case = Case {
    name: "snapshot-local",
    what: "a snapshot that was not pushed is bound to its node",
    when: When::Together,
    play,
};

/// With a password.
pub const LOCKED: Case = Case {
    name: "snapshot-locked",
    what: "a snapshot is pushed to a registry with a password",
    when: When::Together,
    play: locked,
};

fn play(scene: &Scene<'_>) -> Result<()> {
    let (other, worker) = (&scene.stage.cluster.nodes[0], scene.stage.worker());
    scene.start(&Pod::new("source", json!({ "image": scene.stage.image })).on(&worker.name))?;
    scene.shell("source", "echo kept > /work/note")?;
    let taken = scene.snapshot("ws", "source", "local")?;
    ensure!(taken.image().is_err(), "it was pushed: {taken:?}");
    // Its pod is gone; the snapshot is not.
    scene.delete("source")?;
    let far = scene.make(&Pod::new("far", snapshots::of("ws")).on(other))?;
    scene.restore("near", "ws", &worker.name)?;
    scene.facts("near", &[("cat /work/note", "kept")])?;
    scene.told("far", &["FailedMount", "ws", &worker.name, "push"])?;
    scene.node("far")?.forgets(&far)
}

fn locked(scene: &Scene<'_>) -> Result<()> {
    let (other, worker) = (&scene.stage.cluster.nodes[0], scene.stage.worker());
    let gate = &scene.stage.gates()?.basic;
    scene.start(&Pod::new("source", json!({ "image": scene.stage.image })).on(&worker.name))?;
    scene.shell("source", "echo kept > /work/note")?;
    let taken = scene.snapshot("ws", "source", "locked")?;
    ensure!(taken.image()?.starts_with(&gate.host), "pushed to {:?}", taken.image());
    let order = scene.order(&taken.id()?)?.to_string();
    ensure!(!order.contains(PASSWORD), "the order has the password: {order}");

    scene.docker_secret("key", &gate.docker_config(PASSWORD))?;
    let pod = |name: &str| Pod::new(name, snapshots::of("ws")).on(other);
    scene.start(&pod("with").secret("key"))?;
    scene.facts("with", &[("cat /work/note", "kept")])
}
