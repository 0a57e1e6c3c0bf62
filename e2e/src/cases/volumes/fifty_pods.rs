//! Fifty pods on one node at once, each with a volume of its own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod, volume_id};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "fifty",
    what: "fifty pods start at once on one node",
    concurrency: Concurrency::Exclusive,
    run,
};

const PODS: u64 = 50;

/// Each writes its name to its own volume.
const RUNS: &str = "hostname >> /work/who && exec sleep infinity";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let node = ns.env.worker();
    let template = Pod::new("one", json!({ "image": ns.env.image })).runs(RUNS).on(&node.name);
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
    ns.apply(&set.to_string())?;
    // Most of the time is the runtime's: a sandbox and a container for each pod, on busy cores.
    wait_for("fifty pods to be ready", seconds(300), || {
        let set = ns.json(&["get", "replicaset", "fifty"])?;
        let ready = set.pointer("/status/readyReplicas").and_then(Value::as_u64);
        ensure!(ready == Some(PODS), "{} are ready", ready.unwrap_or_default());
        Ok(Some(()))
    })?;
    let pods = ns.json(&["get", "pods"])?;
    let pods = pods.get("items").and_then(Value::as_array).context("a list without items")?;
    let text = |pod: &Value, key: &str| {
        pod["metadata"][key].as_str().map(str::to_owned).context("a pod without a name")
    };
    // A pod is Ready before its shell has run.
    let list = format!("cd {}/volumes && grep -sr . */upper/who || true", crate::env::node::STORE);
    let output = wait_for("fifty pods to write their names", POD_TIMEOUT, || {
        let output = node.shell(&list)?;
        Ok(Some(output).filter(|output| output.lines().count() >= pods.len()))
    })?;
    let mounts = node.volume_mounts("")?;
    let mut uids = Vec::new();
    for pod in pods {
        let (name, uid) = (text(pod, "name")?, text(pod, "uid")?);
        let line = format!("{}/upper/who:{name}", volume_id(&uid));
        ensure!(
            output.lines().any(|have| have == line),
            "no `{line}` in what they wrote:\n{output}"
        );
        let own = mounts.iter().filter(|mount| mount.target.contains(&uid)).count();
        ensure!(own == 1, "pod {name} has {own} mounts");
        uids.push(uid);
    }
    ns.kubectl(&["delete", "replicaset", "fifty", "--cascade=foreground", "--timeout=240s"])?;
    wait_for("the node to remove their volumes", POD_TIMEOUT, || {
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
