//! Namespaces are walls: what somebody with every right in one of them may not take of another's, by
//! any field that there is; and what a user did wrong is told.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::{Case, When};
use crate::pods::{Pod, Scene};
use crate::progress::seconds;
use crate::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-tenants",
    what: "another namespace's snapshots cannot be taken or used",
    when: When::Together,
    play,
};

/// The other namespace, and who may do anything in it.
const THEIRS: &str = "snapshot-thief";
const THIEF: &str = "thief@example.org";

fn play(scene: &Scene<'_>) -> Result<()> {
    let worker = scene.stage.worker().name;
    let volume = Pod::new("source", json!({ "image": scene.stage.image })).on(&worker);
    scene.start(&volume)?;
    scene.shell("source", "echo secret > /work/note")?;
    let taken = scene.snapshot("ws", "source", "pushed")?;
    let theirs = Scene { stage: scene.stage, namespace: THEIRS };
    thief(&theirs)?;
    let played = steal(scene, &theirs, &taken).and_then(|()| mistakes(scene));
    scene.cluster().kubectl(&["delete", "namespace", THEIRS, "--timeout=280s"])?;
    played?;
    // The owner's own is as it was.
    scene.restore("own", "ws", &worker)?;
    scene.facts("own", &[("cat /work/note", "secret")])
}

/// Makes the namespace, and somebody with all rights of an editor and of snapshots in it.
fn thief(theirs: &Scene<'_>) -> Result<()> {
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
    crate::cluster::wait_for("the namespace's account", crate::pods::PATIENCE, account).map(drop)
}

fn steal(scene: &Scene<'_>, theirs: &Scene<'_>, taken: &snapshots::Snapshot) -> Result<()> {
    for (verb, what) in [
        ("create", "overlaysnapshots.ovl.csi.dev"),
        ("update", "overlaysnapshots.ovl.csi.dev/status"),
        ("delete", "overlaysnapshots.ovl.csi.dev"),
        ("create", "volumesnapshotcontents.snapshot.storage.k8s.io"),
        ("patch", "volumesnapshotcontents.snapshot.storage.k8s.io"),
    ] {
        let ask = theirs.cluster().kubectl_cmd().args(["--namespace", THEIRS, "--as", THIEF]);
        let said = ask.args(["auth", "can-i", verb, what]).outcome()?.stdout;
        ensure!(said.trim() == "no", "to {verb} {what} an editor may: {said}");
    }
    let snapshot = |name: &str, source: Value, annotations: Value| {
        let mut asked = snapshots::manifest(THEIRS, name, "source", "local");
        asked["spec"]["source"] = source;
        asked["metadata"]["annotations"] = annotations;
        as_thief(theirs, &asked)
    };
    let (content, other) = (
        taken.content()?,
        |name: &str| json!({ "volumeSnapshotContentName": format!("{THEIRS}-{name}") }),
    );
    // By naming their pod, their content, and by saying what the driver says of a good one.
    snapshot("pod", other("pod"), json!({ "ovl.csi.dev/source": "source/work" }))?;
    let pod = format!("{}/source/work", scene.namespace);
    snapshot("path", other("path"), json!({ "ovl.csi.dev/source": pod }))?;
    snapshot("bound", json!({ "volumeSnapshotContentName": content }), json!({}))?;
    let said = json!({
        "ovl.csi.dev/image": taken.image()?, "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/node": taken.said("node"),
    });
    snapshot("said", other("said"), said)?;
    let status =
        json!({ "status": { "boundVolumeSnapshotContentName": content, "readyToUse": true } });
    for name in ["bound", "said"] {
        let patch = ["patch", "volumesnapshot", name, "--subresource=status", "--type=merge", "-p"];
        let kubectl = theirs.cluster().kubectl_cmd().args(["--namespace", THEIRS, "--as", THIEF]);
        kubectl.args(patch).arg(status.to_string()).output()?;
    }
    theirs.told("pod", &["source", "no pod|gone|not found|does not exist"])?;
    theirs.told("path", &["ovl.csi.dev/source"])?;

    let (id, foreign) = (taken.id()?, format!("{}/ws", scene.namespace));
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
    let mut volumes: Vec<_> =
        names.map(|(snapshot, name)| (name, snapshots::of(snapshot), "snapshot")).into();
    // What is in the release's registry is no image for pods, whatever they know of it.
    let release = scene.snapshot("released", "source", "ovl-csi")?;
    ensure!(release.image()? != taken.image()?, "two registries were asked for: {release:?}");
    volumes.push(("by-image", json!({ "image": release.image()? }), "not allowed"));
    let worker = scene.stage.worker();
    let mut made = Vec::new();
    for (name, attributes, says) in volumes {
        let pod = Pod::new(name, attributes).on(&worker.name);
        as_thief(theirs, &serde_json::from_str(&pod.manifest())?)?;
        made.push((name, theirs.uid(name)?, says));
    }
    for (name, uid, says) in made {
        // What may still become a snapshot is waited for as long as the kubelet waits.
        theirs.told_within(name, &["FailedMount", says], seconds(300))?;
        let pod = theirs.json(&["get", "pod", name])?;
        ensure!(!crate::pods::is_ready(&pod), "{name} has its volume");
        worker.forgets(&uid)?;
    }
    let orders = scene.cluster().kubectl(&["get", "overlaysnapshots", "-o", "json"])?;
    ensure!(!orders.contains(THEIRS), "the thief gave orders: {orders}");
    Ok(())
}

fn as_thief(theirs: &Scene<'_>, object: &Value) -> Result<()> {
    let kubectl = theirs.cluster().kubectl_cmd().args(["--namespace", THEIRS, "--as", THIEF]);
    kubectl.args(["create", "-f", "-"]).stdin(object.to_string()).output().map(drop)
}

/// What a user may get wrong, in the own namespace: told, with what it is about.
fn mistakes(scene: &Scene<'_>) -> Result<()> {
    let with = |name: &str, source: &str| {
        let mut asked = snapshots::manifest(scene.namespace, name, "source", "local");
        asked["metadata"]["annotations"]["ovl.csi.dev/source"] = json!(source);
        asked
    };
    let mut taken = with("taken", "source/work");
    taken["spec"]["source"]["volumeSnapshotContentName"] = json!(format!("{}-ws", scene.namespace));
    let mut plain = with("plain", "plain/scratch");
    plain["spec"]["source"]["volumeSnapshotContentName"] =
        json!(format!("{}-plain", scene.namespace));
    let pod = Pod::new("plain", json!({}));
    let mut pod: Value = serde_json::from_str(&pod.manifest())?;
    let Some(volumes) = pod["spec"]["volumes"].as_array_mut() else { bail!("no volumes") };
    volumes.push(json!({ "name": "scratch", "emptyDir": {} }));
    scene.apply(&pod.to_string())?;
    scene.ready("plain")?;
    for (asked, says) in [
        (with("no-pod", "nobody/work"), ["nobody", ""]),
        (with("no-volume", "source/play"), ["play", ""]),
        (
            with("no-slash", "source"),
            ["ovl.csi.dev/source", "POD/VOLUME|<pod>/<volume>|pod/volume"],
        ),
        (plain, ["scratch", ""]),
        (taken, ["-ws", ""]),
    ] {
        scene.apply(&asked.to_string())?;
        let name = asked["metadata"]["name"].as_str().unwrap_or_default();
        scene.told(name, &says)?;
        ensure!(!scene.look(name)?.is_ready(), "{name} is ready");
        scene.delete_snapshot(name)?;
    }
    Ok(())
}
