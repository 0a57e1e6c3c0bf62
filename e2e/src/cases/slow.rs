//! A pull that takes longer than the kubelet waits: it is one pull all the same, the pod is told
//! how far it is, and starts.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Case, When};
use crate::gate::SLOW_LAYER;
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};
use crate::progress::seconds;

/// See the module.
pub const CASE: Case = Case {
    name: "slow-pull",
    what: "a pull outlasts the kubelet's patience",
    when: When::Aside,
    play,
};

/// How long the kubelet waits for one call (csiTimeout in Kubernetes' pkg/volume/csi).
const KUBELET: Duration = seconds(120);

/// How long all of it may take: the slow layer, and the kubelet's pause before it asks again.
const LIMIT: Duration = seconds(420);

fn play(scene: &Scene<'_>) -> Result<()> {
    let gate = &scene.stage.gates()?.slow;
    let layer = |name: &str| Layer::new().noise(name, SLOW_LAYER, name);
    let blobs = push(scene.stage.registry.here, "slow:1", vec![layer("one")?, layer("two")?])?;
    // The first node, which no other case disturbs.
    let pod = |name| {
        Pod::new(name, json!({ "image": gate.name("slow:1") })).on(&scene.stage.cluster.nodes[0])
    };
    scene.make(&pod("first"))?;
    scene.make(&pod("second"))?;
    scene.told("first", &["Pulling", "of", "MB|MiB|kB"])?;
    scene.ready_within("first", LIMIT)?;
    scene.ready("second")?;
    let size = SLOW_LAYER.to_string();
    for name in ["first", "second"] {
        scene.facts(name, &[("stat -c %s /work/one", &size), ("stat -c %s /work/two", &size)])?;
    }
    for blob in blobs {
        let passed = gate.passed(&blob);
        ensure!(passed.times == 1, "{blob} was fetched {} times", passed.times);
        ensure!(passed.took > KUBELET, "{blob} took {:?}: no test of patience", passed.took);
    }
    Ok(())
}
