//! Ten pods go on from one snapshot, and cost the node what each of them writes.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cases::{Case, When};
use crate::cluster::wait_for;
use crate::look::STORE;
use crate::pods::{Pod, Scene};
use crate::progress::seconds;
use crate::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-fork",
    what: "ten pods go on from one snapshot",
    // Whether the store grows is seen only where nobody else pulls.
    when: When::Alone,
    play,
};

const PODS: u64 = 10;

/// Each sees what the source had, and says who it is where only it may be heard.
const RUNS: &str = "cat /work/shared > /dev/null && hostname >> /work/who && exec sleep infinity";

fn play(scene: &Scene<'_>) -> Result<()> {
    let node = scene.stage.worker();
    scene.start(&Pod::new("source", json!({ "image": scene.stage.image })).on(&node.name))?;
    scene.shell("source", "head -c 20000000 /dev/urandom > /work/shared && rm /work/demo/hello")?;
    scene.snapshot("base", "source", "local")?;
    let before = (node.layers()?, layers_bytes(scene)?);

    let template = Pod::new("one", snapshots::of("base")).runs(RUNS).on(&node.name);
    let labels = json!({ "app": "fork" });
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": { "name": "fork" },
        "spec": {
            "replicas": PODS,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": template.spec() },
        },
    });
    scene.apply(&set.to_string())?;
    wait_for("ten pods to be ready", seconds(180), || {
        let set = scene.json(&["get", "replicaset", "fork"])?;
        let ready = set.pointer("/status/readyReplicas").and_then(Value::as_u64);
        ensure!(ready == Some(PODS), "{} are ready", ready.unwrap_or_default());
        Ok(Some(()))
    })?;
    let after = (node.layers()?, layers_bytes(scene)?);
    ensure!(before == after, "the node's layers were {before:?} and are {after:?}");

    let pods = scene.json(&["get", "pods", "--selector", "app=fork"])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    ensure!(pods.len() as u64 == PODS, "{} pods", pods.len());
    let mut uppers = BTreeSet::new();
    for pod in &pods {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        let upper = node.upper(uid)?;
        ensure!(upper == ["f who"], "the upper of a fork has {upper:?}");
        let place = node.volume_mount(uid)?;
        uppers.insert(place.value("upperdir").unwrap_or_default().to_owned());
    }
    ensure!(uppers.len() as u64 == PODS, "they share uppers: {uppers:?}");
    scene.facts("source", &[("ls /work/who 2>/dev/null || echo none", "none")])
}

/// What the node's layers take on its disk.
fn layers_bytes(scene: &Scene<'_>) -> Result<String> {
    scene.stage.worker().shell(&format!("du --summarize --bytes {STORE}/layers | cut -f1"))
}
