//! The release is upgraded, uninstalled while a pod runs, and installed again. The pod is not
//! disturbed, and its volume is removed in the end.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cases::writer::{Writer, start_another_pod};
use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::namespace::TestNamespace;
use crate::env::pods::POD_TIMEOUT;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "helm",
    what: "the release is upgraded, removed and installed while a pod writes",
    concurrency: Concurrency::Last,
    run,
};

/// The pods of the node and of the controller.
const PODS: [&str; 6] = [
    "get",
    "pods",
    "--namespace",
    NAMESPACE,
    "--selector",
    "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component in (node,controller)",
];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (env, writer) = (ns.env, Writer::start(ns)?);
    let uids = || -> Result<Vec<String>> {
        let pods = env.cluster.kubectl_json(&PODS)?;
        let pods = pods.get("items").and_then(Value::as_array).into_iter().flatten();
        Ok(pods.filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned)).collect())
    };
    let kept = ns.snapshot("kept", "writer", "local")?;
    let before = uids()?;
    env.install(&json!({ "podAnnotations": { "example.org/upgraded": "yes" } }))?;
    let after = uids()?;
    let new = after.iter().filter(|uid| !before.contains(uid)).count();
    ensure!(new == before.len(), "{new} of {} driver's pods are new", before.len());
    writer.check_still_writing()?;
    start_another_pod(ns, "after-upgrade")?;

    env.uninstall()?;
    wait_for("the end of the driver's pods", POD_TIMEOUT, || Ok(uids()?.is_empty().then_some(())))?;
    let left = env.cluster.kubectl(&["get", "csidriver", "--output", "name"])?;
    ensure!(!left.contains("ovl.csi.dev"), "after uninstalling {RELEASE} there is {left}");
    writer.check_still_writing()?;
    // These objects are the only record of where a snapshot is.
    ensure!(
        ns.overlay_snapshot(&kept.id()?).is_ok(),
        "the snapshot's object was deleted with the release"
    );
    env.install(&json!({}))?;
    writer.check_still_writing()?;
    start_another_pod(ns, "after-install")?;
    ns.restore("after-all", "kept", &env.worker().name)?;
    ns.expect_output("after-all", &[("head -n 1 /work/demo/hello", "from the image")])?;
    ns.delete_snapshot("kept")?;
    env.test()?;
    writer.finish()
}
