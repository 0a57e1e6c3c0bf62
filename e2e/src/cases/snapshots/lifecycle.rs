//! The lifecycle of a snapshot as a user sees it: the pod continues, and pods on both nodes start
//! with exactly what it had written.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cases::writer::Writer;
use crate::env::chart::NAMESPACE;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;
use crate::toolchain::versions;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-life",
    what: "a snapshot is restored on both nodes",
    concurrency: Concurrency::Parallel,
    run,
};

/// Changes before and after the snapshot, of every kind.
const BEFORE: &str =
    "cd /work && echo first > note && echo first >> demo/hello && rm demo/twin && mkdir new";
const AFTER: &str =
    "cd /work && echo second > note && echo second >> demo/hello && rmdir new && echo late > late";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (first_node, worker) = (&ns.env.cluster.nodes[0], ns.env.worker().name);
    let writer = Writer::start(ns)?;
    let attributes = json!({ "image": ns.env.image });
    ns.start(&Pod::new("source", attributes).on(&worker))?;
    ns.shell("source", BEFORE)?;
    let tree = ns.tree("source", "/work/demo")?;

    // To the registry of the chart, by the default class.
    let mut request = snapshots::manifest(ns.namespace, "ws-1", "source", "");
    request["spec"].as_object_mut().context("no spec")?.remove("volumeSnapshotClassName");
    ns.apply(&request.to_string())?;
    let taken = ns.wait_snapshot_ready("ws-1")?;
    ns.shell("source", AFTER)?;
    check_reports(ns, &taken)?;

    for (pod, node) in [("beside", &worker), ("across", first_node)] {
        ns.restore(pod, "ws-1", node)?;
        let facts = [(
            "cat /work/note; ls -d /work/new; ls /work/late 2>&1 | wc -l",
            "first\n/work/new\n1",
        )];
        ns.expect_output(pod, &facts).with_context(|| format!("on {node}"))?;
        snapshots::check_same_tree(
            &format!("the volume on {node}"),
            &tree,
            &ns.tree(pod, "/work/demo")?,
        )?;
        // It is a normal volume of a pod.
        ns.expect_output(
            pod,
            &[("echo mine > /work/note && rm -r /work/demo && cat /work/note", "mine")],
        )?;
    }
    ns.expect_output("source", &[("cat /work/note /work/late", "second\nlate")])?;
    // A pod's writes reach no other pod, and not the snapshot.
    ns.restore("again", "ws-1", &worker)?;
    snapshots::check_same_tree("a second volume", &tree, &ns.tree("again", "/work/demo")?)?;
    writer.check_still_writing()?;
    let newer = ns.snapshot("writer-1", "writer", "pushed")?;
    ensure!(newer.annotation("parent").is_none(), "its pod began with images: {newer:?}");
    writer.finish()?;
    check_controllers(ns)
}

/// Checks what the annotations and Events report to the user.
fn check_reports(ns: &TestNamespace<'_>, taken: &snapshots::Snapshot) -> Result<()> {
    let frozen =
        taken.annotation("frozen").context("no annotation says how long the pod was frozen")?;
    ensure!(frozen.ends_with('s'), "the pod was frozen for `{frozen}`");
    ensure!(taken.number("entries")? >= 4, "too few entries: {taken:?}");
    ensure!(taken.number("own-layers")? == 1, "one layer was made: {taken:?}");
    ensure!(taken.number("pushed-bytes")? > 0, "nothing was pushed: {taken:?}");
    ensure!(taken.image()?.contains("@sha256:"), "not by digest: {taken:?}");
    ensure!(taken.annotation("node") == Some(ns.env.worker().name.as_str()), "{taken:?}");
    ns.wait_for_event("source", &["SnapshotCaptured", "entries"])?;
    let object = ns.overlay_snapshot(&taken.id()?)?;
    ensure!(object["status"]["phase"] == "Ready", "the OverlaySnapshot is {}", object["status"]);
    ensure!(
        object["spec"]["source"]["pod"] == "source",
        "the OverlaySnapshot is {}",
        object["spec"]
    );
    Ok(())
}

/// The controllers beside the driver are those of Kubernetes.
fn check_controllers(ns: &TestNamespace<'_>) -> Result<()> {
    let pods = ns.env.cluster.kubectl_json(&["get", "pods", "--namespace", NAMESPACE])?;
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
