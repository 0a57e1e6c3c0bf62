//! Comparisons of snapshots and of running pods, requested by users with few rights: one with the
//! role `edit`, and others who may not see the names of files.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::chart::{NAMESPACE, RELEASE};
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::env::snapshots;
use crate::machine::process::Cmd;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-diff",
    what: "a node compares snapshots and running pods, for users who may see their files",
    concurrency: Concurrency::Parallel,
    run,
};

/// A user with the role `edit`.
const EDITOR: &str = "diff-editor@example.org";
/// A user with the role `view`, which includes the right to read VolumeSnapshots.
const VIEWER: &str = "diff-viewer@example.org";
/// A user who may create OverlayDiffs and nothing else.
const CREATOR: &str = "diff-creator@example.org";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    users(ns)?;
    let (other, worker) = (ns.env.cluster.nodes[0].clone(), ns.env.worker());
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker.name))?;
    let write = "mkdir /work/made && cd /work/made && echo 1 | tee one two gone";
    ns.shell("source", write)?;
    ns.snapshot("first", "source", "pushed")?;
    ns.shell(
        "source",
        "cd /work/made && echo 2 > one && chmod 600 two && rm gone && echo > three",
    )?;
    ns.snapshot("second", "source", "local")?;

    let found = compared(
        ns,
        "two",
        json!({ "volumeSnapshotName": "second", "baseVolumeSnapshotName": "first" }),
    )?;
    expect(
        &found,
        &[
            "removed made/gone ",
            "changed made/one content",
            "added made/three ",
            "changed made/two mode",
        ],
    )?;
    // Against the image from which the volume started.
    let found = compared(ns, "start", json!({ "volumeSnapshotName": "first" }))?;
    expect(&found, &["added made ", "added made/gone ", "added made/one ", "added made/two "])?;
    let pod = json!({ "name": "source", "volume": "work" });
    let found = compared(ns, "none", json!({ "pod": pod, "baseVolumeSnapshotName": "second" }))?;
    expect(&found, &[])?;
    // A pod on another node, which has pulled its snapshot.
    let far = Pod::new("far", snapshots::volume_attributes("first")).on(&other);
    ns.start(&far)?;
    ns.shell("far", "rm /work/made/one")?;
    let pod = json!({ "name": "far", "volume": "work" });
    let found = compared(ns, "far", json!({ "pod": pod }))?;
    expect(&found, &["removed made/one "])?;
    ensure!(found["nodeName"] == *other, "not compared on {other}: {found}");
    for (name, spec, words) in [
        ("apart", json!({ "pod": pod, "baseVolumeSnapshotName": "second" }), "only on node"),
        (
            "no-pod",
            json!({ "pod": { "name": "none", "volume": "work" } }),
            "pod none does not exist",
        ),
        ("no-snapshot", json!({ "volumeSnapshotName": "none" }), "no VolumeSnapshot none"),
    ] {
        let error = compared(ns, name, spec)?["error"].to_string();
        ensure!(error.contains(words), "{name}: no `{words}` in {error}");
    }
    refused(ns)?;
    // The result ends with its request.
    as_user(ns, EDITOR).args(["delete", "overlaydiff", "two"]).output()?;
    ns.wait_until_deleted("overlaydiffresult", "two")
}

/// Gives the users their roles in the namespace.
fn users(ns: &TestNamespace<'_>) -> Result<()> {
    let rules = json!([{
        "apiGroups": ["ovl.csi.dev"], "resources": ["overlaydiffs"], "verbs": ["create"],
    }]);
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": "create-diffs" },
        "rules": rules,
    });
    ns.apply(&role.to_string())?;
    for (name, role, user) in [
        ("editor", "--clusterrole=edit", EDITOR),
        ("viewer", "--clusterrole=view", VIEWER),
        ("creator", "--role=create-diffs", CREATOR),
    ] {
        ns.kubectl(&["create", "rolebinding", name, role, &format!("--user={user}")])?;
    }
    Ok(())
}

fn as_user(ns: &TestNamespace<'_>, user: &str) -> Cmd {
    ns.cluster().kubectl_cmd().args(["--namespace", ns.namespace, "--as", user])
}

fn request(name: &str, mut spec: Value) -> Value {
    spec["driver"] = json!("ovl.csi.dev");
    json!({
        "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiff",
        "metadata": { "name": name }, "spec": spec,
    })
}

/// Requests a comparison as the editor, and returns the spec of its result.
fn compared(ns: &TestNamespace<'_>, name: &str, spec: Value) -> Result<Value> {
    create(ns, EDITOR, &request(name, spec))?;
    wait_for(&format!("the result of OverlayDiff {name}"), POD_TIMEOUT, || {
        let get = ["get", "overlaydiffresult", name, "--ignore-not-found", "-o", "json"];
        let output = as_user(ns, EDITOR).args(get).output()?;
        if output.trim().is_empty() {
            return Ok(None);
        }
        let result: Value = serde_json::from_str(&output)?;
        Ok(Some(result["spec"].clone()))
    })
}

fn create(ns: &TestNamespace<'_>, user: &str, object: &Value) -> Result<String> {
    as_user(ns, user).args(["create", "-f", "-"]).stdin(object.to_string()).output()
}

/// Checks the differences: change, path and properties of each.
fn expect(result: &Value, want: &[&str]) -> Result<()> {
    ensure!(result["error"].is_null(), "it failed: {result}");
    let words = |change: &Value| {
        let word = |key: &str| change[key].as_str().unwrap_or_default().to_owned();
        let properties = change["properties"].as_array().into_iter().flatten();
        let properties: Vec<_> = properties.filter_map(Value::as_str).collect();
        format!("{} {} {}", word("change"), word("path"), properties.join("+"))
    };
    let changes = result["changes"].as_array().into_iter().flatten();
    let have: Vec<_> = changes.map(words).collect();
    ensure!(have == want, "the differences are {have:?}, not {want:?}");
    let counts =
        ["added", "changed", "removed"].map(|key| result[key].as_u64().unwrap_or_default());
    ensure!(counts.iter().sum::<u64>() == want.len() as u64, "the counts are {counts:?}");
    Ok(())
}

/// Users without the rights on the files, and what not even an administrator can do.
fn refused(ns: &TestNamespace<'_>) -> Result<()> {
    let of_snapshot = request("refused", json!({ "volumeSnapshotName": "first" }));
    let of_base = request(
        "refused",
        json!({ "pod": { "name": "source", "volume": "work" }, "baseVolumeSnapshotName": "first" }),
    );
    let of_pod = request("refused", json!({ "pod": { "name": "source", "volume": "work" } }));
    let right = "needs the right to get that VolumeSnapshot";
    for (user, object, words) in [
        (VIEWER, &of_snapshot, "cannot create resource"),
        (CREATOR, &of_snapshot, right),
        (CREATOR, &of_base, right),
        (CREATOR, &of_pod, "needs the right to run kubectl exec"),
    ] {
        fails(create(ns, user, object), words).with_context(|| format!("{user}: {object}"))?;
    }
    let get = ["get", "overlaydiffresults"];
    for user in [VIEWER, CREATOR] {
        fails(as_user(ns, user).args(get).output(), "cannot list resource")?;
    }
    for component in ["node", "controller"] {
        let account = format!("system:serviceaccount:{NAMESPACE}:{RELEASE}-{component}");
        for verb in ["get", "list", "watch", "update", "delete"] {
            let can_i = ["auth", "can-i", verb, "overlaydiffresults.ovl.csi.dev"];
            let output = as_user(ns, &account).args(can_i).outcome()?.stdout;
            ensure!(output.trim() == "no", "{account} can {verb} results: {output}");
        }
    }
    let patch = |more: &[&str], changes: &str| {
        let kubectl = ns.cluster().kubectl_cmd().args(["--namespace", ns.namespace]);
        kubectl
            .args(["patch", "overlaydiff", "two", "--type=merge"])
            .args(more)
            .args(["-p", changes])
            .output()
    };
    fails(patch(&[], "{\"spec\":{\"volumeSnapshotName\":\"first\"}}"), "immutable")?;
    let status = patch(&["--subresource=status"], "{\"status\":{\"nodeName\":\"x\"}}");
    fails(status, "only the controller of")?;
    let result = json!({
        "apiVersion": "ovl.csi.dev/v1alpha1", "kind": "OverlayDiffResult",
        "metadata": { "name": "made-up" }, "spec": { "driver": "ovl.csi.dev", "added": 1 },
    });
    let kubectl = ns.cluster().kubectl_cmd().args(["--namespace", ns.namespace]);
    let made = kubectl.args(["create", "-f", "-"]).stdin(result.to_string()).output();
    fails(made, "only the driver may create")
}

fn fails(done: Result<String>, words: &str) -> Result<()> {
    match done {
        Ok(output) => bail!("it was not refused: {output}"),
        Err(error) => {
            let output = format!("{error:#}");
            ensure!(output.contains(words), "no `{words}` in {output}");
            Ok(())
        }
    }
}
