//! Isolation of namespaces: a user with every right in one namespace cannot use the snapshots of
//! another, by any field. Mistakes of a user are reported.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;
use crate::machine::progress::seconds;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-tenants",
    what: "another namespace's snapshots cannot be used",
    concurrency: Concurrency::Parallel,
    run,
};

/// The other namespace, and a user who may do anything in it.
const THEIRS: &str = "snapshot-thief";
const THIEF: &str = "thief@example.org";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let worker = ns.env.worker().name;
    let volume = Pod::new("source", json!({ "image": ns.env.image })).on(&worker);
    ns.start(&volume)?;
    ns.shell("source", "echo secret > /work/note")?;
    let taken = ns.snapshot("ws", "source", "pushed")?;
    let theirs = TestNamespace { env: ns.env, namespace: THEIRS };
    thief(&theirs)?;
    let ran = steal(ns, &theirs, &taken).and_then(|()| mistakes(ns));
    ns.cluster().kubectl(&["delete", "namespace", THEIRS, "--timeout=280s"])?;
    ran?;
    // The owner's own snapshot still works.
    ns.restore("own", "ws", &worker)?;
    ns.expect_output("own", &[("cat /work/note", "secret")])
}

/// Creates the namespace, and a user with all rights of an editor and for snapshots in it.
fn thief(theirs: &TestNamespace<'_>) -> Result<()> {
    theirs.cluster().kubectl(&["create", "namespace", THEIRS])?;
    let edit = ["create", "rolebinding", "edit", "--clusterrole=edit"];
    theirs.kubectl(&[&edit[..], &[&format!("--user={THIEF}")]].concat())?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": "snapshots" },
        "rules": [{
            "apiGroups": ["snapshot.storage.k8s.io"],
            "resources": ["volumesnapshots", "volumesnapshots/status"],
            "verbs": ["*"],
        }],
    });
    theirs.apply(&role.to_string())?;
    let bind = ["create", "rolebinding", "snapshots", "--role=snapshots"];
    theirs.kubectl(&[&bind[..], &[&format!("--user={THIEF}")]].concat())?;
    let account = || theirs.kubectl(&["get", "serviceaccount", "default"]).map(Some);
    crate::machine::wait::wait_for(
        "the namespace's account",
        crate::env::pods::POD_TIMEOUT,
        account,
    )
    .map(drop)
}

fn steal(
    ns: &TestNamespace<'_>,
    theirs: &TestNamespace<'_>,
    taken: &snapshots::Snapshot,
) -> Result<()> {
    for (verb, what) in [
        ("create", "overlaysnapshots.ovl.csi.dev"),
        ("update", "overlaysnapshots.ovl.csi.dev/status"),
        ("delete", "overlaysnapshots.ovl.csi.dev"),
        ("create", "volumesnapshotcontents.snapshot.storage.k8s.io"),
        ("patch", "volumesnapshotcontents.snapshot.storage.k8s.io"),
    ] {
        let can_i = theirs.cluster().kubectl_cmd().args(["--namespace", THEIRS, "--as", THIEF]);
        let output = can_i.args(["auth", "can-i", verb, what]).outcome()?.stdout;
        ensure!(output.trim() == "no", "an editor can {verb} {what}: {output}");
    }
    let snapshot = |name: &str, source: Value, annotations: Value| {
        let mut request = snapshots::manifest(THEIRS, name, "source", "local");
        request["spec"]["source"] = source;
        request["metadata"]["annotations"] = annotations;
        as_thief(theirs, &request)
    };
    let (content, other) = (
        taken.content()?,
        |name: &str| json!({ "volumeSnapshotContentName": format!("{THEIRS}-{name}") }),
    );
    // By the name of their pod, by their content, and by a copy of the driver's own annotations.
    snapshot("pod", other("pod"), json!({ "ovl.csi.dev/source": "source/work" }))?;
    let pod = format!("{}/source/work", ns.namespace);
    snapshot("path", other("path"), json!({ "ovl.csi.dev/source": pod }))?;
    snapshot("bound", json!({ "volumeSnapshotContentName": content }), json!({}))?;
    let annotations = json!({
        "ovl.csi.dev/image": taken.image()?, "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/node": taken.annotation("node"),
    });
    snapshot("said", other("said"), annotations)?;
    let status =
        json!({ "status": { "boundVolumeSnapshotContentName": content, "readyToUse": true } });
    for name in ["bound", "said"] {
        let patch = ["patch", "volumesnapshot", name, "--subresource=status", "--type=merge", "-p"];
        let kubectl = theirs.cluster().kubectl_cmd().args(["--namespace", THEIRS, "--as", THIEF]);
        kubectl.args(patch).arg(status.to_string()).output()?;
    }
    theirs.wait_for_event("pod", &["source", "no pod|gone|not found|does not exist"])?;
    theirs.wait_for_event("path", &["ovl.csi.dev/source"])?;

    let (id, foreign) = (taken.id()?, format!("{}/ws", ns.namespace));
    let up = format!("../{foreign}");
    let names = [
        ("ws", "by-name"),
        (&foreign, "by-namespace"),
        (&up, "by-path"),
        (&id, "by-id"),
        (content, "by-content"),
        ("pod", "by-pod"),
        ("bound", "by-binding"),
        ("said", "by-saying"),
    ];
    let mut volumes: Vec<_> = names
        .map(|(snapshot, name)| (name, snapshots::volume_attributes(snapshot), "snapshot"))
        .into();
    // Pods cannot use images of the release's registry, whatever they know about them.
    let release = ns.snapshot("released", "source", "ovl-csi")?;
    ensure!(
        release.image()? != taken.image()?,
        "the snapshot must be in another registry: {release:?}"
    );
    volumes.push(("by-image", json!({ "image": release.image()? }), "not allowed"));
    let worker = ns.env.worker();
    let mut made = Vec::new();
    for (name, attributes, words) in volumes {
        let pod = Pod::new(name, attributes).on(&worker.name);
        as_thief(theirs, &serde_json::from_str(&pod.manifest())?)?;
        made.push((name, theirs.uid(name)?, words));
    }
    for (name, uid, words) in made {
        // The driver waits as long as the kubelet for what may still become a snapshot.
        theirs.wait_for_event_within(name, &["FailedMount", words], seconds(300))?;
        let pod = theirs.json(&["get", "pod", name])?;
        ensure!(!crate::env::pods::is_ready(&pod), "{name} has its volume");
        worker.wait_until_removed(&uid)?;
    }
    let objects = ns.cluster().kubectl(&["get", "overlaysnapshots", "-o", "json"])?;
    ensure!(!objects.contains(THEIRS), "the thief has OverlaySnapshots: {objects}");
    Ok(())
}

fn as_thief(theirs: &TestNamespace<'_>, object: &Value) -> Result<()> {
    let kubectl = theirs.cluster().kubectl_cmd().args(["--namespace", THEIRS, "--as", THIEF]);
    kubectl.args(["create", "-f", "-"]).stdin(object.to_string()).output().map(drop)
}

/// Mistakes in the user's own namespace. The Event names what is wrong.
fn mistakes(ns: &TestNamespace<'_>) -> Result<()> {
    let with = |name: &str, source: &str| {
        let mut request = snapshots::manifest(ns.namespace, name, "source", "local");
        request["metadata"]["annotations"]["ovl.csi.dev/source"] = json!(source);
        request
    };
    let mut taken = with("taken", "source/work");
    taken["spec"]["source"]["volumeSnapshotContentName"] = json!(format!("{}-ws", ns.namespace));
    let mut plain = with("plain", "plain/scratch");
    plain["spec"]["source"]["volumeSnapshotContentName"] = json!(format!("{}-plain", ns.namespace));
    let pod = Pod::new("plain", json!({}));
    let mut pod: Value = serde_json::from_str(&pod.manifest())?;
    let Some(volumes) = pod["spec"]["volumes"].as_array_mut() else { bail!("no volumes") };
    volumes.push(json!({ "name": "scratch", "emptyDir": {} }));
    ns.apply(&pod.to_string())?;
    ns.ready("plain")?;
    for (request, words) in [
        (with("no-pod", "absent-pod/work"), ["absent-pod", ""]),
        (with("no-volume", "source/absent-volume"), ["absent-volume", ""]),
        (
            with("no-slash", "source"),
            ["ovl.csi.dev/source", "POD/VOLUME|<pod>/<volume>|pod/volume"],
        ),
        (plain, ["scratch", ""]),
        (taken, ["-ws", ""]),
    ] {
        ns.apply(&request.to_string())?;
        let name = request["metadata"]["name"].as_str().unwrap_or_default();
        ns.wait_for_event(name, &words)?;
        ensure!(!ns.get_snapshot(name)?.is_ready(), "{name} is ready");
        ns.delete_snapshot(name)?;
    }
    Ok(())
}
