//! The name of the VolumeSnapshotContent: filled by the API server, refused where it cannot be filled or belongs to
//! others, and taken as long as an earlier snapshot's content is retained.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-names",
    what: "a snapshot's content gets a name that is its own",
    concurrency: Concurrency::Parallel,
    run,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let worker = ns.env.worker().name;
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker))?;
    filled(ns)?;
    for (request, words) in [
        (
            request(ns, json!({ "generateName": "nightly-" }), json!({ "source": {} })),
            "metadata.generateName gets its name too late",
        ),
        (
            request(ns, json!({ "name": "a".repeat(250) }), json!({})),
            "has more than 253 characters",
        ),
    ] {
        match create(ns, &request, &[]) {
            Ok(output) => bail!("the API server accepted {request}: {output}"),
            Err(error) => {
                let output = format!("{error:#}");
                ensure!(output.contains(words), "the refusal does not say `{words}`: {output}");
            }
        }
    }
    reserved(ns)?;
    retained(ns)
}

/// A VolumeSnapshot of the pod `source`, without the name of a content.
fn request(ns: &TestNamespace<'_>, metadata: Value, spec: Value) -> Value {
    let mut request = snapshots::manifest(ns.namespace, "", "source", "local");
    let annotations = request["metadata"]["annotations"].clone();
    request["metadata"] = metadata;
    request["metadata"]["annotations"] = annotations;
    request["spec"] = spec;
    request
}

fn create(ns: &TestNamespace<'_>, object: &Value, more: &[&str]) -> Result<String> {
    let kubectl = ns.cluster().kubectl_cmd().args(["--namespace", ns.namespace]);
    kubectl.args(["create", "-f", "-"]).args(more).stdin(object.to_string()).output()
}

/// The API server fills the name.
fn filled(ns: &TestNamespace<'_>) -> Result<()> {
    let local = || json!({ "volumeSnapshotClassName": "local" });
    let mut empty = local();
    empty["source"] = json!({});
    let mut named = local();
    named["source"] = json!({ "volumeSnapshotContentName": "a-name-of-its-own" });
    let own = format!("{}.ws", ns.namespace);
    for (spec, expected) in
        [(json!({}), own.as_str()), (empty, own.as_str()), (named, "a-name-of-its-own")]
    {
        let request = request(ns, json!({ "name": "ws" }), spec);
        let output = create(ns, &request, &["--dry-run=server", "--output", "json"])?;
        let created: Value = serde_json::from_str(&output)?;
        let name = &created["spec"]["source"]["volumeSnapshotContentName"];
        ensure!(*name == expected, "the content of {request} is called {name}");
    }
    create(ns, &request(ns, json!({ "name": "ws" }), local()), &[])?;
    let ready = ns.wait_snapshot_ready("ws")?;
    ensure!(ready.content()? == own, "it is bound to {}", ready.content()?);
    ns.delete_snapshot("ws")
}

/// The names of another namespace are refused, also before there is such a namespace.
fn reserved(ns: &TestNamespace<'_>) -> Result<()> {
    let mut request = snapshots::manifest(ns.namespace, "reserved", "source", "local");
    request["spec"]["source"]["volumeSnapshotContentName"] = json!("no-such-namespace.ws");
    ns.apply(&request.to_string())?;
    ns.wait_for_event("reserved", &["SnapshotSourceInvalid", "namespace no-such-namespace"])?;
    ensure!(!ns.exists("volumesnapshotcontent", "no-such-namespace.ws")?, "it has its content");
    ns.delete_snapshot("reserved")
}

/// A retained content keeps its name until an administrator deletes it. The new snapshot then starts by itself.
fn retained(ns: &TestNamespace<'_>) -> Result<()> {
    let spec = || json!({ "volumeSnapshotClassName": "retained" });
    let request = request(ns, json!({ "name": "kept" }), spec());
    create(ns, &request, &[])?;
    let first = ns.wait_snapshot_ready("kept")?;
    ns.delete_snapshot("kept")?;
    create(ns, &request, &[])?;
    ns.wait_for_event("kept", &["SnapshotContentNameTaken", "deletionPolicy is Retain"])?;
    let content = first.content()?;
    let delete = "{\"spec\":{\"deletionPolicy\":\"Delete\"}}";
    ns.kubectl(&["patch", "volumesnapshotcontent", content, "--type=merge", "-p", delete])?;
    // Whichever comes first: without the policy, the controller deletes it too.
    let delete_it = ["delete", "volumesnapshotcontent", content];
    ns.kubectl(&[&delete_it[..], &["--ignore-not-found", "--timeout=120s"]].concat())?;
    let second = ns.wait_snapshot_ready("kept")?;
    ensure!(second.id()? != first.id()?, "it is the same snapshot");
    // Nothing stays: this class retains.
    ns.kubectl(&["patch", "volumesnapshotcontent", content, "--type=merge", "-p", delete])?;
    ns.delete_snapshot("kept")?;
    ns.wait_until_deleted("volumesnapshotcontent", content)
}
