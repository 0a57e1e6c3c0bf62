//! What may break while a snapshot is made: the registry, the driver at each step, the controller.
//! Each ends ready, or failed with a reason, and no pod is left standing still.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::killed::{end_driver, replace_driver};
use crate::cases::writer::Writer;
use crate::cases::{Case, When};
use crate::cluster::wait_for;
use crate::gate::Door;
use crate::pods::{PATIENCE, Pod, Scene};
use crate::render::NAMESPACE;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-broken",
    what: "registry, driver and controller break while snapshots are made",
    when: When::Alone,
    play: |scene| {
        let played = play(scene);
        // Whoever comes after finds it open.
        scene.stage.gates()?.door.set(Door::Open);
        played
    },
};

/// Enough that packing it takes a moment.
const LARGE: &str = "head -c 150000000 /dev/urandom > /work/large && echo whole > /work/whole";

fn play(scene: &Scene<'_>) -> Result<()> {
    let (node, door) = (scene.stage.worker(), &scene.stage.gates()?.door);
    let writer = Writer::start(scene)?;
    scene.start(&Pod::new("large", json!({ "image": scene.stage.image })).on(&node.name))?;
    scene.shell("large", LARGE)?;

    // The registry is away: what is cut can be had on its node, and is pushed when the registry is back.
    door.set(Door::Shut);
    scene.ask("registry-down", "large", "door")?;
    scene.until("registry-down", "phase", |phase| phase == "Pushing")?;
    scene.restore("meanwhile", "registry-down", &node.name)?;
    scene.facts("meanwhile", &[("cat /work/whole", "whole")])?;
    scene.delete("meanwhile")?;
    door.set(Door::Open);
    scene.taken("registry-down").context("after the registry was away")?.image()?;

    door.set(Door::Held);
    scene.ask("in-the-push", "large", "door")?;
    wait_for("the push to come to the registry", PATIENCE, || {
        Ok((door.waiting() > 0).then_some(()))
    })?;
    replace_driver(scene.stage, &node)?;
    door.set(Door::Open);
    scene.taken("in-the-push").context("after the driver died in the push")?.image()?;
    writer.goes_on()?;

    scene.ask("in-the-pack", "large", "pushed")?;
    scene.until("in-the-pack", "phase", |phase| phase == "Pushing" || phase == "Ready")?;
    replace_driver(scene.stage, &node)?;
    scene.taken("in-the-pack").context("after the driver died in the pack")?.image()?;

    for (how, pod) in [("killed", "large"), ("killed", "writer"), ("ended", "large")] {
        let name = format!("{how}-in-the-cut-of-{pod}");
        scene.ask(&name, pod, "local")?;
        let order = format!("overlaysnapshot/{}", scene.look(&name)?.id()?);
        scene.kubectl(&["wait", "--for=create", &order, "--timeout=60s"])?;
        match how {
            "killed" => replace_driver(scene.stage, &node)?,
            _ => end_driver(scene.stage, &node)?,
        }
        let ended = scene.ended(&name).with_context(|| format!("{how} in the cut of {pod}"))?;
        ensure!(ended.is_ready() || ended.said("message").is_some(), "no reason: {ended:?}");
        writer.goes_on()?;
    }

    scene.ask("without-controller", "writer", "pushed")?;
    let selector = "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component=controller";
    let delete = ["delete", "pods", "--namespace", NAMESPACE, "--selector", selector];
    scene.cluster().kubectl(&[&delete[..], &["--grace-period=0", "--force"]].concat())?;
    scene.taken("without-controller").context("after the controllers died")?;

    let other = &scene.stage.cluster.nodes[0];
    for snapshot in ["registry-down", "in-the-push", "in-the-pack"] {
        let pod = format!("of-{snapshot}");
        scene.restore(&pod, snapshot, other)?;
        let facts = [("cat /work/whole; stat -c %s /work/large", "whole\n150000000")];
        scene.facts(&pod, &facts)?;
        scene.delete(&pod)?;
    }
    writer.end()?;
    let frozen = node.frozen()?;
    ensure!(frozen.is_empty(), "left standing still: {frozen}");
    node.has_nothing_half_made()
}
