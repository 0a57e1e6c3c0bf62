//! A snapshot's whole life as a user sees it: a pod that goes on, and pods on both nodes that start
//! with exactly what it had written.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::writer::Writer;
use crate::cases::{Case, When};
use crate::pods::{Pod, Scene};
use crate::render::NAMESPACE;
use crate::{snapshots, versions};

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-life",
    what: "a volume is kept, and goes on on both nodes",
    when: When::Together,
    play,
};

/// What the pod does before, and what after; each of every kind.
const BEFORE: &str =
    "cd /work && echo first > note && echo first >> demo/hello && rm demo/twin && mkdir new";
const AFTER: &str =
    "cd /work && echo second > note && echo second >> demo/hello && rmdir new && echo late > late";

fn play(scene: &Scene<'_>) -> Result<()> {
    let (first_node, worker) = (&scene.stage.cluster.nodes[0], scene.stage.worker().name);
    let writer = Writer::start(scene)?;
    let attributes = json!({ "image": scene.stage.image });
    scene.start(&Pod::new("source", attributes).on(&worker))?;
    scene.shell("source", BEFORE)?;
    let tree = scene.tree("source", "/work/demo")?;

    // Into the registry of the chart, by the class that a snapshot gets which names none.
    let mut asked = snapshots::manifest(scene.namespace, "ws-1", "source", "");
    asked["spec"].as_object_mut().context("no spec")?.remove("volumeSnapshotClassName");
    scene.apply(&asked.to_string())?;
    let taken = scene.taken("ws-1")?;
    scene.shell("source", AFTER)?;
    told(scene, &taken)?;

    for (pod, node) in [("beside", &worker), ("across", first_node)] {
        scene.restore(pod, "ws-1", node)?;
        let facts = [(
            "cat /work/note; ls -d /work/new; ls /work/late 2>&1 | wc -l",
            "first\n/work/new\n1",
        )];
        scene.facts(pod, &facts).with_context(|| format!("on {node}"))?;
        snapshots::same(&format!("the volume on {node}"), &tree, &scene.tree(pod, "/work/demo")?)?;
        // It is a pod's volume like any other.
        scene.facts(
            pod,
            &[("echo mine > /work/note && rm -r /work/demo && cat /work/note", "mine")],
        )?;
    }
    scene.facts("source", &[("cat /work/note /work/late", "second\nlate")])?;
    // What one writes is no other's, and nothing of it is in the snapshot.
    scene.restore("again", "ws-1", &worker)?;
    snapshots::same("the volume once more", &tree, &scene.tree("again", "/work/demo")?)?;
    writer.goes_on()?;
    let newer = scene.snapshot("writer-1", "writer", "pushed")?;
    ensure!(newer.said("parent").is_none(), "its pod began with images: {newer:?}");
    writer.end()?;
    stock(scene)
}

/// What the user is told, by annotations and by Events.
fn told(scene: &Scene<'_>, taken: &snapshots::Snapshot) -> Result<()> {
    let frozen = taken.said("frozen").context("it does not say how long the pod stood still")?;
    ensure!(frozen.ends_with('s'), "the pod stood still for `{frozen}`");
    ensure!(taken.number("entries")? >= 4, "too few entries: {taken:?}");
    ensure!(taken.number("own-layers")? == 1, "one layer was made: {taken:?}");
    ensure!(taken.number("pushed-bytes")? > 0, "nothing was pushed: {taken:?}");
    ensure!(taken.image()?.contains("@sha256:"), "not by digest: {taken:?}");
    ensure!(taken.said("node") == Some(scene.stage.worker().name.as_str()), "{taken:?}");
    scene.told("source", &["Snapshotted", "entries"])?;
    let order = scene.order(&taken.id()?)?;
    ensure!(order["status"]["phase"] == "Ready", "the order is {}", order["status"]);
    ensure!(order["spec"]["source"]["pod"] == "source", "the order is {}", order["spec"]);
    Ok(())
}

/// The controllers beside the driver are Kubernetes' own.
fn stock(scene: &Scene<'_>) -> Result<()> {
    let pods = scene.stage.cluster.kubectl_json(&["get", "pods", "--namespace", NAMESPACE])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let images = pods.iter().flat_map(|pod| pod["spec"]["containers"].as_array().cloned());
    let images: Vec<Value> = images.flatten().map(|container| container["image"].clone()).collect();
    for program in ["snapshot-controller", "csi-snapshotter"] {
        let want =
            format!("registry.k8s.io/sig-storage/{program}:{}", versions::EXTERNAL_SNAPSHOTTER);
        ensure!(images.iter().any(|image| *image == want), "no {want} among {images:?}");
    }
    Ok(())
}
