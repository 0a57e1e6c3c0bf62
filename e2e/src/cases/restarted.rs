//! A node stops hard and starts again, in the same boot of its kernel: pods get their volumes
//! back with what was synced, and what belongs to nobody is cleaned up.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::writer::newcomer;
use super::{Case, When};
use crate::cluster::wait_for;
use crate::pods::{Pod, Scene, is_ready, volume_id};
use crate::progress::seconds;

/// See the module.
pub const CASE: Case = Case {
    name: "node-restarted",
    what: "a node is killed and started again",
    when: When::Alone,
    play,
};

/// Writes once and says so on every start; what was written on an earlier start has to be there.
const RUNS: &str = "echo started >> /work/starts && sync && exec sleep infinity";

fn play(scene: &Scene<'_>) -> Result<()> {
    let (cluster, node) = (scene.cluster(), scene.stage.worker());
    let pod = |name: &str, volatile: &str| {
        let attributes = json!({ "image": scene.stage.image, "volatile": volatile });
        let pod = Pod::new(name, attributes).runs(RUNS).on(&node.name);
        pod.with("/spec/restartPolicy", json!("Always"))
    };
    for (name, volatile) in [("durable", "false"), ("volatile", "true"), ("orphan", "false")] {
        scene.make(&pod(name, volatile))?;
    }
    let mut before = Vec::new();
    for name in ["durable", "volatile"] {
        scene.ready(name)?;
        before.push((name, container(scene, name)?));
    }
    let orphan = scene.ready("orphan")?;
    ensure!(node.volumes()?.contains(&volume_id(&orphan)), "the orphan has no volume");

    cluster.kill_node(&node.name)?;
    // Its kubelet will never hear of this one.
    scene.kubectl(&["delete", "pod", "orphan", "--force", "--grace-period=0"])?;
    cluster.start_node(&node.name)?;
    for (name, container_before) in before {
        wait_for(&format!("pod {name} to run again"), seconds(240), || {
            let pod = scene.json(&["get", "pod", name])?;
            ensure!(is_ready(&pod), "it is not ready: {}", scene.warnings(name)?);
            let now = container(scene, name)?;
            ensure!(now != container_before, "it is the container of before");
            Ok(Some(()))
        })?;
        // Once before and at least once after: what was synced is there.
        scene
            .until_true(name, "test $(grep -c '^started$' /work/starts) -ge 2")
            .with_context(|| format!("of the {name} volume"))?;
        scene.facts(name, &[("grep -vc '^started$' /work/starts", "0")])?;
        scene.facts(name, &[("cat /work/demo/hello", "from the image")])?;
    }
    newcomer(scene, "newcomer")?;
    // Not at once: a volume without a pod may be one whose pod is only just coming.
    wait_for("the orphan's volume to go", seconds(240), || {
        let volumes = node.volumes()?;
        ensure!(!volumes.contains(&volume_id(&orphan)), "it is there");
        ensure!(node.volume_mounts(&orphan)?.is_empty(), "it is mounted");
        Ok(Some(()))
    })
}

fn container(scene: &Scene<'_>, pod: &str) -> Result<String> {
    let pod = scene.json(&["get", "pod", pod])?;
    let id = pod.pointer("/status/containerStatuses/0/containerID").and_then(Value::as_str);
    id.map(str::to_owned).context("it has no container")
}
