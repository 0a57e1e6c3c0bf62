//! The release is upgraded, uninstalled while a pod runs, and installed again. The pod is not
//! disturbed, and its volume is removed in the end. The upgrade gives the nodes a proxy. Snapshots that are left stop the
//! uninstallation, unless the values retain them: then they can be deleted without the driver.
//!
//! While no driver runs, the node's record of a snapshot and its OverlaySnapshot get the form that
//! the version before wrote. Deliberately absent: that version itself, which a clone may not have.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cases::volumes::node_proxy::NodeProxy;
use crate::cases::writer::{Writer, start_another_pod};
use crate::cluster::registry_proxy::ProxyState;
use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::namespace::TestNamespace;
use crate::env::node::{Node, STORE};
use crate::env::pods::POD_TIMEOUT;
use crate::env::snapshots::Snapshot;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "helm",
    what: "the release is upgraded, removed and installed while a pod writes",
    concurrency: Concurrency::Last,
    run: |ns| {
        let ran = run(ns);
        ns.env.proxies()?.controlled.set_state(ProxyState::Open);
        ran
    },
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
    let proxy = NodeProxy::start(env)?;
    // The annotation makes new pods of the controller too.
    let annotations = json!({ "example.org/upgraded": "yes" });
    env.install(&json!({ "podAnnotations": annotations, "proxy": proxy.values(env) }))?;
    let after = uids()?;
    let new = after.iter().filter(|uid| !before.contains(uid)).count();
    ensure!(new == before.len(), "{new} of {} driver's pods are new", before.len());
    writer.check_still_writing()?;
    start_another_pod(ns, "after-upgrade")?;
    proxy.check_used(ns)?;

    let gone = ns.snapshot("gone", "writer", "local")?;
    check_stopped(ns)?;
    env.install(&json!({ "snapshots": { "onUninstall": "retain" } }))?;
    let deleting = begin_deletion(ns)?;
    env.uninstall()?;
    wait_for("the end of the driver's pods", POD_TIMEOUT, || Ok(uids()?.is_empty().then_some(())))?;
    let left = env.cluster.kubectl(&["get", "csidriver", "--output", "name"])?;
    ensure!(!left.contains("ovl.csi.dev"), "after uninstalling {RELEASE} there is {left}");
    writer.check_still_writing()?;
    delete_without_driver(ns, &gone, &deleting)?;
    let events = capture_events(ns)?;
    ensure!(!events.is_empty(), "there is no Event of the capture");
    // It is an error if the OverlaySnapshot was deleted with the release. It is the only record of
    // where the snapshot is.
    write_former_forms(ns, &kept)?;
    env.install(&json!({}))?;
    writer.check_still_writing()?;
    ensure!(ns.get_snapshot("kept")?.is_ready(), "the snapshot is not ready after the upgrade");
    start_another_pod(ns, "after-install")?;
    ns.restore("after-all", "kept", &env.worker().name)?;
    ns.expect_output("after-all", &[("head -n 1 /work/demo/hello", "from the image")])?;
    // Events of phases that were reported before the upgrade are not repeated.
    let now = capture_events(ns)?;
    ensure!(now == events, "{events:?} became {now:?}");
    let delete = json!({ "spec": { "deletionPolicy": "Delete" } }).to_string();
    let content = kept.content()?;
    ns.kubectl(&["patch", "volumesnapshotcontent", content, "--type=merge", "-p", &delete])?;
    ns.delete_snapshot("kept")?;
    env.test()?;
    writer.finish()
}

/// Checks that `helm uninstall` is stopped and lists the snapshots, and that the release works on. Then runs the command
/// of the message after which the release can be upgraded again.
fn check_stopped(ns: &TestNamespace<'_>) -> Result<()> {
    let output = match ns.env.uninstall() {
        Ok(()) => bail!("the release was uninstalled although there are snapshots"),
        // Helm 4 prints the log of a hook as one quoted line.
        Err(error) => format!("{error:#}").replace("\\n", "\n"),
    };
    for name in ["kept", "gone"] {
        let line = format!("kubectl --namespace {} delete volumesnapshot {name}", ns.namespace);
        ensure!(output.contains(&line), "no `{line}` in: {output}");
    }
    start_another_pod(ns, "after-stop")?;
    let commands = output.lines().filter_map(|line| line.trim().strip_prefix("helm "));
    let mut rollbacks = commands.filter(|command| command.contains(" rollback "));
    let rollback = rollbacks.next().with_context(|| format!("no rollback in: {output}"))?;
    ns.cluster().helm_cmd().args(rollback.split(' ')).output().map(drop)
}

/// Begins the deletion of a snapshot that does not end: the registry does not respond to the node.
fn begin_deletion(ns: &TestNamespace<'_>) -> Result<Snapshot> {
    let snapshot = ns.snapshot("deleting", "writer", "controlled")?;
    ns.env.proxies()?.controlled.set_state(ProxyState::Refusing);
    ns.kubectl(&["delete", "volumesnapshot", "deleting", "--wait=false"])?;
    wait_for("the deletion of a content to begin", POD_TIMEOUT, || {
        let content = ns.json(&["get", "volumesnapshotcontent", snapshot.content()?])?;
        Ok(content["metadata"]["deletionTimestamp"].is_string().then_some(()))
    })?;
    Ok(snapshot)
}

/// Without the driver: the deletion that had begun ends, and another snapshot and its content can be deleted.
fn delete_without_driver(
    ns: &TestNamespace<'_>,
    gone: &Snapshot,
    deleting: &Snapshot,
) -> Result<()> {
    ns.wait_until_deleted("volumesnapshot", "deleting")?;
    ns.wait_until_deleted("volumesnapshotcontent", deleting.content()?)?;
    ns.env.proxies()?.controlled.set_state(ProxyState::Open);
    ns.delete_snapshot("gone")?;
    // The commands of docs/snapshots.md.
    let content = ["volumesnapshotcontent", gone.content()?];
    ns.kubectl(&["delete", content[0], content[1], "--wait=false"])?;
    let patch = json!({ "metadata": { "finalizers": null } }).to_string();
    ns.kubectl(&["patch", content[0], content[1], "--type=merge", "--patch", &patch])?;
    ns.wait_until_deleted(content[0], content[1])
}

/// The Events of its capture.
fn capture_events(ns: &TestNamespace<'_>) -> Result<Vec<String>> {
    let mut events = ns.events("kept", ",involvedObject.kind=VolumeSnapshot")?;
    events.retain(|event| event.starts_with("SnapshotCaptured"));
    Ok(events)
}

/// The condition for a capture, and the annotation for reported Events: in the version before, and
/// in this one.
const CONDITION: [&str; 2] = ["Cut", "Captured"];
const REPORTED: [&str; 2] = ["ovl.csi.dev/told", "ovl.csi.dev/reported-phase"];

/// Writes what a node and a cluster keep of a snapshot as the version before wrote it.
fn write_former_forms(ns: &TestNamespace<'_>, snapshot: &Snapshot) -> Result<()> {
    let id = snapshot.id()?;
    let object = ns.overlay_snapshot(&id)?;
    let node = object["spec"]["nodeName"].as_str().context("the OverlaySnapshot names no node")?;
    let file = format!("{STORE}/snapshots/{id}.json");
    let edits = r#"-e 's/"captured_at":/"cut":/' -e 's/"format": *2/"format": 1/'"#;
    let node = Node::new(ns.cluster(), node);
    node.shell(&format!(r#"sed -i {edits} {file} && grep -q '"cut":' {file}"#))?;

    let mut conditions = object["status"]["conditions"].clone();
    for condition in conditions.as_array_mut().context("it has no conditions")? {
        for key in ["type", "reason"] {
            if condition[key] == CONDITION[1] {
                condition[key] = CONDITION[0].into();
            }
        }
    }
    let time = &object["status"]["captureTime"];
    ensure!(time.is_string(), "it has no time of its capture: {object}");
    let status = json!({ "captureTime": null, "cutTime": time, "conditions": conditions });
    let reported = &object["metadata"]["annotations"][REPORTED[1]];
    let annotations = json!({ REPORTED[0]: reported, REPORTED[1]: null });
    for (patch, subresource) in [
        (json!({ "status": status }), &["--subresource", "status"][..]),
        (json!({ "metadata": { "annotations": annotations } }), &[]),
    ] {
        let patch = patch.to_string();
        let args = ["patch", "overlaysnapshot", &id, "--type", "merge", "--patch", &patch];
        ns.cluster().kubectl(&[&args[..], subresource].concat())?;
    }
    let now = ns.overlay_snapshot(&id)?;
    ensure!(now["status"]["cutTime"] == *time, "the API server did not keep the time: {now}");
    Ok(())
}
