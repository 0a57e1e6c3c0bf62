//! Fifty pods on one node at once, each with a volume of its own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Case, When};
use crate::cluster::wait_for;
use crate::pods::{PATIENCE, Pod, Scene, volume_id};
use crate::progress::seconds;

/// See the module.
pub const CASE: Case =
    Case { name: "fifty", what: "fifty pods start at once on one node", when: When::Alone, play };

const PODS: u64 = 50;

/// Each says who it is in its volume, where only it may be heard.
const RUNS: &str = "hostname >> /work/who && exec sleep infinity";

fn play(scene: &Scene<'_>) -> Result<()> {
    let node = scene.stage.worker();
    let template = Pod::new("one", json!({ "image": scene.stage.image })).runs(RUNS).on(&node.name);
    let labels = json!({ "app": "fifty" });
    let set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": { "name": "fifty" },
        "spec": {
            "replicas": PODS,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": template.spec() },
        },
    });
    scene.apply(&set.to_string())?;
    // Most of it is the runtime's own work: a sandbox and a container for each, on busy cores.
    wait_for("fifty pods to be ready", seconds(300), || {
        let set = scene.json(&["get", "replicaset", "fifty"])?;
        let ready = set.pointer("/status/readyReplicas").and_then(Value::as_u64);
        ensure!(ready == Some(PODS), "{} are ready", ready.unwrap_or_default());
        Ok(Some(()))
    })?;
    let pods = scene.json(&["get", "pods"])?;
    let pods = pods.get("items").and_then(Value::as_array).context("a list without items")?;
    let text = |pod: &Value, key: &str| {
        pod["metadata"][key].as_str().map(str::to_owned).context("a pod without a name")
    };
    // Ready is said before the shell has run.
    let says = format!("cd {}/volumes && grep -sr . */upper/who || true", crate::look::STORE);
    let said = wait_for("fifty pods to write who they are", PATIENCE, || {
        let said = node.shell(&says)?;
        Ok(Some(said).filter(|said| said.lines().count() >= pods.len()))
    })?;
    let mounts = node.volume_mounts("")?;
    let mut uids = Vec::new();
    for pod in pods {
        let (name, uid) = (text(pod, "name")?, text(pod, "uid")?);
        let line = format!("{}/upper/who:{name}", volume_id(&uid));
        ensure!(said.lines().any(|have| have == line), "no `{line}` in what they wrote:\n{said}");
        let own = mounts.iter().filter(|mount| mount.target.contains(&uid)).count();
        ensure!(own == 1, "pod {name} has {own} mounts");
        uids.push(uid);
    }
    scene.kubectl(&["delete", "replicaset", "fifty", "--cascade=foreground", "--timeout=240s"])?;
    wait_for("the node to have nothing of them", PATIENCE, || {
        let (volumes, mounts) = (node.volumes()?, node.volume_mounts("")?);
        let there = |uid: &&String| {
            let mounted = mounts.iter().any(|mount| mount.target.contains(uid.as_str()));
            mounted || volumes.contains(&volume_id(uid))
        };
        let left = uids.iter().filter(there).count();
        ensure!(left == 0, "volumes of {left} pods are there");
        Ok(Some(()))
    })
}
