//! The driver dies while a pod writes: the pod does not notice, and what comes back serves new
//! pods and cleans up after old ones.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Case, nothing_left, volume_of};
use crate::cluster::wait_for;
use crate::look::Node;
use crate::pods::{self, PATIENCE, Pod, is_ready};
use crate::render::NAMESPACE;
use crate::stage::Stage;

/// See the module.
pub const CASE: Case = Case {
    name: "driver-killed",
    what: "the driver dies twice while a pod writes",
    pods: &["writer", "newcomer"],
    play,
};

/// Writes a number a line, ten a second, each copied up, appended, synced; ends at the first error.
const WRITES: &str = "set -e; i=0; while :; do i=$((i+1)); echo $i >> /work/demo/hello; \
                      echo $i > /work/last; sync /work/last; sleep 0.1; done";

fn play(stage: &Stage) -> Result<()> {
    let attributes = json!({ "image": stage.image });
    let pod = Pod { name: "writer", attributes: attributes.clone(), runs: WRITES };
    stage.cluster.kubectl_apply(&pod.manifest())?;
    let writer = pods::ready(&stage.cluster, "writer")?;
    let node = Node::of_pod(stage, "writer")?;
    let (volume, mount) = volume_of(&node, &writer)?;
    goes_on(stage)?;

    let driver = Driver::on(stage, &node.name)?;
    let delete =
        ["delete", "pod", &driver.pod, "--namespace", NAMESPACE, "--grace-period=0", "--force"];
    stage.cluster.kubectl(&delete)?;
    let driver = wait_for("another driver's pod", PATIENCE, || {
        Ok(Driver::ready_on(stage, &node.name)?.filter(|new| new.uid != driver.uid))
    })?;
    goes_on(stage)?;

    // By its exact name, and only in the node's own process table.
    node.shell("kill -9 $(pgrep -x ovl)")?;
    wait_for("the driver's container to be started again", PATIENCE, || {
        let now = Driver::ready_on(stage, &node.name)?;
        Ok(now.filter(|now| now.uid == driver.uid && now.restarts > driver.restarts))
    })?;
    goes_on(stage)?;
    let (same, after) = volume_of(&node, &writer)?;
    ensure!(same == volume && after == mount, "the mount changed: {mount:?} became {after:?}");

    let pod = Pod { name: "newcomer", attributes, runs: "sleep infinity" };
    stage.cluster.kubectl_apply(&pod.manifest())?;
    pods::ready(&stage.cluster, "newcomer")?;
    let hello = pods::shell(&stage.cluster, "newcomer", "cat /work/demo/hello")?;
    ensure!(hello == "from the image", "the new pod reads `{hello}`");

    let written = goes_on(stage)?;
    complete(stage, written)?;
    pods::delete(&stage.cluster, "writer")?;
    nothing_left(&node, &writer, &volume)
}

/// Waits until the writer has written more than it has now, and returns how much; fails if it has ended.
fn goes_on(stage: &Stage) -> Result<u64> {
    let last = || -> Result<u64> {
        let said = pods::shell(&stage.cluster, "writer", "cat /work/last")?;
        // The file is empty for the moment between opening and writing it.
        if said.is_empty() { Ok(0) } else { Ok(said.parse()?) }
    };
    let so_far =
        wait_for("the writer's first number", PATIENCE, || Ok(Some(last()?).filter(|n| *n > 0)))?;
    wait_for("the writer to write on", PATIENCE, || {
        let pod = stage.cluster.kubectl_json(&["get", "pod", "writer"])?;
        ensure!(pod["status"]["phase"] == "Running", "it ended: {}", pod["status"]);
        Ok(Some(last()?).filter(|now| *now > so_far))
    })
}

/// Checks that no number of the writer's is missing, up to one that it has written.
fn complete(stage: &Stage, written: u64) -> Result<()> {
    let lines = pods::shell(&stage.cluster, "writer", "tail -n +2 /work/demo/hello")?;
    ensure!(lines.lines().count() as u64 >= written, "lines are missing from: {lines}");
    match lines.lines().enumerate().find(|(at, line)| *line != (at + 1).to_string()) {
        Some((at, line)) => bail!("line {} of what the writer wrote is `{line}`", at + 1),
        None => Ok(()),
    }
}

/// The driver's pod on a node.
struct Driver {
    pod: String,
    uid: String,
    restarts: u64,
    ready: bool,
}

impl Driver {
    fn on(stage: &Stage, node: &str) -> Result<Self> {
        let on_node = format!("spec.nodeName={node}");
        let list = stage.cluster.kubectl_json(&[
            "get",
            "pods",
            "--namespace",
            NAMESPACE,
            "--field-selector",
            &on_node,
            "--selector",
            "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component=node",
        ])?;
        let pods = list.get("items").and_then(Value::as_array).map(Vec::as_slice);
        let [pod] = pods.unwrap_or_default() else { bail!("not one driver's pod on {node}") };
        let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
        Ok(Self {
            pod: text("/metadata/name").context("it has no name")?,
            uid: text("/metadata/uid").context("it has no uid")?,
            restarts: restarts.and_then(Value::as_u64).unwrap_or_default(),
            ready: is_ready(pod),
        })
    }

    fn ready_on(stage: &Stage, node: &str) -> Result<Option<Self>> {
        Self::on(stage, node).map(|driver| Some(driver).filter(|driver| driver.ready))
    }
}
