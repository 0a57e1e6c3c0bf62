//! The driver's pod on a node, and how a case ends it.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::env::chart::NAMESPACE;
use crate::env::environment::Environment;
use crate::env::node::Node;
use crate::env::pods::{POD_TIMEOUT, is_ready};
use crate::machine::wait::wait_for;

/// Kills the driver of a node, and waits for another pod. The pod is deleted too, because the
/// kubelet restarts a failing container later and later.
pub fn replace_driver(env: &Environment, node: &Node<'_>) -> Result<()> {
    let before = DriverPod::on(env, &node.name)?;
    node.kill_driver()?;
    let delete = ["delete", "pod", &before.pod, "--namespace", NAMESPACE];
    env.cluster.kubectl(&[&delete[..], &["--grace-period=0", "--force"]].concat())?;
    another_driver(env, node, &before)
}

/// Ends the driver of a node, as an upgrade does, and waits for another pod.
pub fn restart_driver(env: &Environment, node: &Node<'_>) -> Result<()> {
    let before = DriverPod::on(env, &node.name)?;
    env.cluster.kubectl(&["delete", "pod", &before.pod, "--namespace", NAMESPACE])?;
    another_driver(env, node, &before)
}

fn another_driver(env: &Environment, node: &Node<'_>, before: &DriverPod) -> Result<()> {
    let another = || Ok(DriverPod::ready_on(env, &node.name)?.filter(|new| new.uid != before.uid));
    wait_for("another driver's pod", POD_TIMEOUT, another).map(drop)
}

/// The driver's pod on a node.
pub struct DriverPod {
    /// The pod's name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// How often its container was restarted.
    pub restarts: u64,
    ready: bool,
}

impl DriverPod {
    /// Finds the one on a node.
    pub fn on(env: &Environment, node: &str) -> Result<Self> {
        let on_node = format!("spec.nodeName={node}");
        let list = env.cluster.kubectl_json(&[
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
        let [pod] = pods.unwrap_or_default() else {
            bail!("expected one pod of the driver on {node}")
        };
        let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
        Ok(Self {
            pod: text("/metadata/name").context("it has no name")?,
            uid: text("/metadata/uid").context("it has no uid")?,
            restarts: restarts.and_then(Value::as_u64).unwrap_or_default(),
            ready: is_ready(pod),
        })
    }

    /// Finds the one on a node, if it is Ready.
    pub fn ready_on(env: &Environment, node: &str) -> Result<Option<Self>> {
        Self::on(env, node).map(|driver| Some(driver).filter(|driver| driver.ready))
    }
}
