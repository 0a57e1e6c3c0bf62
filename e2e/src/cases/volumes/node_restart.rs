//! A node is killed and started again, in the same boot of its kernel. Pods get their volumes back
//! with everything that was synced, and orphaned volumes are removed.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cases::writer::start_another_pod;
use crate::env::namespace::TestNamespace;
use crate::env::pods::{Pod, is_ready, volume_id};
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "node-restarted",
    what: "a node is killed and started again",
    concurrency: Concurrency::Exclusive,
    run,
};

/// Writes a line at every start. Lines of earlier starts must be there.
const RUNS: &str = "echo started >> /work/starts && sync && exec sleep infinity";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (cluster, node) = (ns.cluster(), ns.env.worker());
    let pod = |name: &str, volatile: &str| {
        let attributes = json!({ "image": ns.env.image, "volatile": volatile });
        let pod = Pod::new(name, attributes).runs(RUNS).on(&node.name);
        pod.with("/spec/restartPolicy", json!("Always"))
    };
    for (name, volatile) in [("durable", "false"), ("volatile", "true"), ("orphan", "false")] {
        ns.create(&pod(name, volatile))?;
    }
    let mut before = Vec::new();
    for name in ["durable", "volatile"] {
        ns.ready(name)?;
        before.push((name, container(ns, name)?));
    }
    let orphan = ns.ready("orphan")?;
    ensure!(node.volumes()?.contains(&volume_id(&orphan)), "the orphan has no volume");

    cluster.kill_node(&node.name)?;
    // Its kubelet will never learn of this deletion.
    ns.kubectl(&["delete", "pod", "orphan", "--force", "--grace-period=0"])?;
    cluster.start_node(&node.name)?;
    for (name, container_before) in before {
        wait_for(&format!("pod {name} to run again"), seconds(240), || {
            let pod = ns.json(&["get", "pod", name])?;
            ensure!(is_ready(&pod), "it is not ready: {}", ns.warnings(name)?);
            let now = container(ns, name)?;
            ensure!(now != container_before, "it is the old container");
            Ok(Some(()))
        })?;
        // One line before and at least one after: synced data is there.
        ns.wait_for_command(name, "test $(grep -c '^started$' /work/starts) -ge 2")
            .with_context(|| format!("of the {name} volume"))?;
        ns.expect_output(name, &[("grep -vc '^started$' /work/starts", "0")])?;
        ns.expect_output(name, &[("cat /work/demo/hello", "from the image")])?;
    }
    start_another_pod(ns, "newcomer")?;
    // Not at once: the pod of a volume without a pod may still be starting.
    wait_for("the removal of the orphaned volume", seconds(240), || {
        let volumes = node.volumes()?;
        ensure!(!volumes.contains(&volume_id(&orphan)), "it is there");
        ensure!(node.volume_mounts(&orphan)?.is_empty(), "it is mounted");
        Ok(Some(()))
    })
}

fn container(ns: &TestNamespace<'_>, pod: &str) -> Result<String> {
    let pod = ns.json(&["get", "pod", pod])?;
    let id = pod.pointer("/status/containerStatuses/0/containerID").and_then(Value::as_str);
    id.map(str::to_owned).context("it has no container")
}
