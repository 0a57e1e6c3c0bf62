//! Ten pods go on from one snapshot, and cost the node what each of them writes.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cases::{Case, When};
use crate::cluster::wait_for;
use crate::look;
use crate::pods::{PATIENCE, Pod, Scene};
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
    let before = (node.layers()?, node.layers_bytes()?);

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
    let after = (node.layers()?, node.layers_bytes()?);
    look::unchanged(&before.0, &after.0)?;
    // They may become fewer: what nobody needs is collected.
    let new: Vec<_> = after.0.iter().filter(|(path, _)| !before.0.contains_key(*path)).collect();
    ensure!(new.is_empty(), "the node has new layers: {new:?}");
    ensure!(after.1 <= before.1, "the node's layers took {} bytes and take {}", before.1, after.1);

    let pods = scene.json(&["get", "pods", "--selector", "app=fork"])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    ensure!(pods.len() as u64 == PODS, "{} pods", pods.len());
    let mut uppers = BTreeSet::new();
    for pod in &pods {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        // Ready is said before the shell has run.
        wait_for("a fork to have written who it is", PATIENCE, || {
            let upper = node.upper(uid)?;
            ensure!(upper == ["f who"], "the upper of a fork has {upper:?}");
            Ok(Some(()))
        })?;
        let place = node.volume_mount(uid)?;
        uppers.insert(place.value("upperdir").unwrap_or_default().to_owned());
    }
    ensure!(uppers.len() as u64 == PODS, "they share uppers: {uppers:?}");
    scene.facts("source", &[("ls /work/who 2>/dev/null || echo none", "none")])
}
