//! The driver dies while a pod writes: the pod does not notice, and what comes back serves new
//! pods and cleans up after old ones.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::writer::{Writer, newcomer};
use super::{Case, When};
use crate::cluster::wait_for;
use crate::look::Node;
use crate::pods::{PATIENCE, Scene, is_ready};
use crate::render::NAMESPACE;
use crate::stage::Stage;

/// See the module.
pub const CASE: Case = Case {
    name: "driver-killed",
    what: "the driver dies twice while a pod writes",
    when: When::Alone,
    play,
};

fn play(scene: &Scene<'_>) -> Result<()> {
    let (stage, writer) = (scene.stage, Writer::start(scene)?);
    let node = writer.node.name.clone();
    let driver = Driver::on(stage, &node)?;
    let delete =
        ["delete", "pod", &driver.pod, "--namespace", NAMESPACE, "--grace-period=0", "--force"];
    stage.cluster.kubectl(&delete)?;
    let driver = wait_for("another driver's pod", PATIENCE, || {
        Ok(Driver::ready_on(stage, &node)?.filter(|new| new.uid != driver.uid))
    })?;
    writer.goes_on()?;

    writer.node.kill_driver()?;
    wait_for("the driver's container to be started again", PATIENCE, || {
        let now = Driver::ready_on(stage, &node)?;
        Ok(now.filter(|now| now.uid == driver.uid && now.restarts > driver.restarts))
    })?;
    writer.goes_on()?;
    newcomer(scene, "newcomer")?;
    let node = writer.node.clone();
    writer.end()?;
    node.has_nothing_half_made()
}

/// Has the driver of a node die at once, and waits for another one. The pod goes as well: the
/// kubelet lets a container that ends again and again wait longer and longer.
pub fn replace_driver(stage: &Stage, node: &Node<'_>) -> Result<()> {
    let before = Driver::on(stage, &node.name)?;
    node.kill_driver()?;
    let delete = ["delete", "pod", &before.pod, "--namespace", NAMESPACE];
    stage.cluster.kubectl(&[&delete[..], &["--grace-period=0", "--force"]].concat())?;
    another_driver(stage, node, &before)
}

/// Tells the driver of a node to end, as an upgrade does, and waits for another one.
pub fn end_driver(stage: &Stage, node: &Node<'_>) -> Result<()> {
    let before = Driver::on(stage, &node.name)?;
    stage.cluster.kubectl(&["delete", "pod", &before.pod, "--namespace", NAMESPACE])?;
    another_driver(stage, node, &before)
}

fn another_driver(stage: &Stage, node: &Node<'_>, before: &Driver) -> Result<()> {
    let another = || Ok(Driver::ready_on(stage, &node.name)?.filter(|new| new.uid != before.uid));
    wait_for("another driver's pod", PATIENCE, another).map(drop)
}

/// The driver's pod on a node.
pub struct Driver {
    /// The pod's name.
    pub pod: String,
    uid: String,
    restarts: u64,
    ready: bool,
}

impl Driver {
    /// The one on a node.
    pub fn on(stage: &Stage, node: &str) -> Result<Self> {
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
