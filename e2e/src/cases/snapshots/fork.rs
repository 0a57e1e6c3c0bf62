//! Ten pods start from one snapshot. Each costs the node only what it writes.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::env::{node, snapshots};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-fork",
    what: "ten pods start from one snapshot",
    // Growth of the store is visible only while no other case pulls.
    concurrency: Concurrency::Exclusive,
    run,
};

const PODS: u64 = 10;

/// Each reads a file of the source, and writes its name to its own volume.
const RUNS: &str = "cat /work/shared > /dev/null && hostname >> /work/who && exec sleep infinity";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let node = ns.env.worker();
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&node.name))?;
    ns.shell("source", "head -c 20000000 /dev/urandom > /work/shared && rm /work/demo/hello")?;
    ns.snapshot("base", "source", "local")?;
    let before = (node.layers()?, node.layers_bytes()?);

    let template = Pod::new("one", snapshots::volume_attributes("base")).runs(RUNS).on(&node.name);
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
    ns.apply(&set.to_string())?;
    wait_for("ten pods to be ready", seconds(180), || {
        let set = ns.json(&["get", "replicaset", "fork"])?;
        let ready = set.pointer("/status/readyReplicas").and_then(Value::as_u64);
        ensure!(ready == Some(PODS), "{} are ready", ready.unwrap_or_default());
        Ok(Some(()))
    })?;
    let after = (node.layers()?, node.layers_bytes()?);
    node::check_unchanged(&before.0, &after.0)?;
    // There may be fewer layers: unused layers are collected.
    let new: Vec<_> = after.0.iter().filter(|(path, _)| !before.0.contains_key(*path)).collect();
    ensure!(new.is_empty(), "the node has new layers: {new:?}");
    ensure!(after.1 <= before.1, "the node's layers took {} bytes and take {}", before.1, after.1);

    let pods = ns.json(&["get", "pods", "--selector", "app=fork"])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    ensure!(pods.len() as u64 == PODS, "{} pods", pods.len());
    let mut uppers = BTreeSet::new();
    for pod in &pods {
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
        // A pod is Ready before its shell has run.
        wait_for("a fork to have written who it is", POD_TIMEOUT, || {
            let upper = node.upper(uid)?;
            ensure!(upper == ["f who"], "the upper of a fork has {upper:?}");
            Ok(Some(()))
        })?;
        let place = node.volume_mount(uid)?;
        uppers.insert(place.value("upperdir").unwrap_or_default().to_owned());
    }
    ensure!(uppers.len() as u64 == PODS, "they share uppers: {uppers:?}");
    ns.expect_output("source", &[("ls /work/who 2>/dev/null || echo none", "none")])
}
