//! The release is upgraded, taken away with a pod running, and installed again: the pod does not
//! notice, and is cleaned up after in the end.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::writer::{Writer, newcomer};
use super::{Case, When};
use crate::cluster::wait_for;
use crate::pods::{PATIENCE, Scene};
use crate::render::{NAMESPACE, RELEASE};

/// See the module.
pub const CASE: Case = Case {
    name: "helm",
    what: "the release is upgraded, removed and installed while a pod writes",
    when: When::Last,
    play,
};

/// The driver's pods, and the controller's.
const PODS: [&str; 6] = [
    "get",
    "pods",
    "--namespace",
    NAMESPACE,
    "--selector",
    "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component in (node,controller)",
];

fn play(scene: &Scene<'_>) -> Result<()> {
    let (stage, writer) = (scene.stage, Writer::start(scene)?);
    let uids = || -> Result<Vec<String>> {
        let pods = stage.cluster.kubectl_json(&PODS)?;
        let pods = pods.get("items").and_then(Value::as_array).into_iter().flatten();
        Ok(pods.filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect())
    };
    let kept = scene.snapshot("kept", "writer", "local")?;
    let before = uids()?;
    stage.install(&json!({ "podAnnotations": { "example.org/upgraded": "yes" } }))?;
    let after = uids()?;
    let new = after.iter().filter(|uid| !before.contains(uid)).count();
    ensure!(new == before.len(), "{new} of {} driver's pods are new", before.len());
    writer.goes_on()?;
    newcomer(scene, "after-upgrade")?;

    stage.uninstall()?;
    wait_for("the driver's pods to go", PATIENCE, || Ok(uids()?.is_empty().then_some(())))?;
    let left = stage.cluster.kubectl(&["get", "csidriver", "--output", "name"])?;
    ensure!(!left.contains("ovl.csi.dev"), "after uninstalling {RELEASE} there is {left}");
    writer.goes_on()?;
    // What is kept where is known by these alone.
    ensure!(scene.order(&kept.id()?).is_ok(), "the snapshot's object went with the release");
    stage.install(&json!({}))?;
    writer.goes_on()?;
    newcomer(scene, "after-install")?;
    scene.restore("after-all", "kept", &stage.worker().name)?;
    scene.facts("after-all", &[("head -n 1 /work/demo/hello", "from the image")])?;
    scene.delete_snapshot("kept")?;
    stage.test()?;
    writer.end()
}
