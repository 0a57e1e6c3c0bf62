//! `kubectl ovl` as users and CronJobs run it. It is a command of the driver's program.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::machine::process::Outcome;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-plugin",
    what: "kubectl ovl takes, forks, lists and deletes snapshots",
    concurrency: Concurrency::Parallel,
    run,
};

/// The resource of VolumeSnapshots, as kubectl prints it.
const RESOURCE: &str = "volumesnapshot.snapshot.storage.k8s.io";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let worker = ns.env.worker().name;
    ns.start(&Pod::new("demo", json!({ "image": ns.env.image })).on(&worker))?;
    ns.shell("demo", "echo one > /work/note")?;

    // The pod has one volume. Nothing that passes by itself is shown.
    let taken = succeeds(ns, &["snapshot", "demo", "ws-1", "--class", "local", "-o", "name"])?;
    ensure!(taken.stdout.trim() == format!("{RESOURCE}/ws-1"), "it printed {:?}", taken.stdout);
    ensure!(!taken.stderr.contains("missing"), "it printed {:?}", taken.stderr);

    failures(ns)?;
    lineage(ns, &worker)?;
    ended(ns, &worker)?;
    forks(ns)?;
    cron_job(ns)
}

/// A command that fails leaves nothing.
fn failures(ns: &TestNamespace<'_>) -> Result<()> {
    let bad = fails(ns, 1, &["snapshot", "demo", "work", "bad", "--class", "none"])?;
    ensure!(bad.contains("VolumeSnapshotClass none does not exist"), "it printed {bad:?}");
    ensure!(!ns.exists("volumesnapshot", "bad")?, "the refused snapshot stays");
    let denied = fails(ns, 1, &["list", "--as", "dev", "--as-group", "devs"])?;
    ensure!(denied.contains("refused to list VolumeSnapshots"), "it printed {denied:?}");
    let nowhere = fails(ns, 2, &["fork", "demo", "--node", "nosuch", "--apply"])?;
    let named =
        nowhere.contains("there is no node nosuch") && nowhere.contains(&ns.env.worker().name);
    ensure!(named, "it printed {nowhere:?}");
    let dry = succeeds(ns, &["snapshot", "demo", "dry", "--class", "local", "--dry-run=server"])?;
    let line = format!("{RESOURCE}/dry created (server dry run)");
    ensure!(dry.stdout.trim() == line, "it printed {:?}", dry.stdout);
    ensure!(!ns.exists("volumesnapshot", "dry")?, "a dry run created a snapshot");
    let tree = succeeds(ns, &["tree", "-A"])?.stdout;
    let row = |line: &str| line.split_whitespace().eq([ns.namespace, "ws-1"]);
    ensure!(tree.lines().any(row), "the tree is {tree:?}");
    // One that kubectl created stays, and the list has the reason.
    ns.request_snapshot("refused", "demo", "none")?;
    ns.wait_for_annotation("refused", "phase", |phase| phase == "Refused")?;
    let list = succeeds(ns, &["list", "--no-headers"])?.stdout;
    let line = list.lines().find(|line| line.starts_with("refused ")).unwrap_or_default();
    let whole =
        line.contains("Refused") && line.contains("VolumeSnapshotClass none does not exist");
    ensure!(whole, "the list is {list:?}");
    let deleted = succeeds(ns, &["delete", "refused", "--wait"])?.stderr;
    ensure!(!deleted.contains("does not exist"), "it printed the former reason: {deleted:?}");
    Ok(())
}

/// The parent of a snapshot is known by its uid, and what is in use is not deleted by mistake.
fn lineage(ns: &TestNamespace<'_>, worker: &str) -> Result<()> {
    let fork =
        ["fork", "demo/work", "--snapshot", "ws-1", "--node", worker, "--apply", "-o", "name"];
    let made = succeeds(ns, &fork)?.stdout;
    ensure!(made.trim() == "pod/demo-fork-1", "it printed {made:?}");
    ns.ready("demo-fork-1")?;
    ns.expect_output("demo-fork-1", &[("cat /work/note", "one")])?;
    succeeds(ns, &["snapshot", "demo-fork-1", "work", "ws-2", "--class", "local"])?;
    let used = describe(ns, "ws-1")?["usedBy"].clone();
    ensure!(used == json!(["demo-fork-1/work"]), "it is used by {used}");
    let used = fails(ns, 2, &["delete", "ws-1"])?;
    ensure!(used.contains("demo-fork-1/work") && used.contains("--force"), "it printed {used:?}");

    let content = ns.get_snapshot("ws-1")?.content()?.to_owned();
    succeeds(ns, &["delete", "ws-1", "--force", "--wait"])?;
    let events = json!(ns.warnings_about(&content)?);
    ensure!(events == json!([]), "a deletion that succeeds warns: {events}");
    succeeds(ns, &["snapshot", "demo", "work", "ws-1", "--class", "local"])?;
    let (old, new) = (describe(ns, "ws-2")?, describe(ns, "ws-1")?);
    let ancestors = json!([{ "name": "ws-1", "deleted": true }]);
    ensure!(old["ancestors"] == ancestors, "the ancestors are {}", old["ancestors"]);
    ensure!(new["children"] == json!([]), "the children are {}", new["children"]);
    let list = succeeds(ns, &["list"])?.stdout;
    ensure!(list.contains("(ws-1, deleted)\n└─ ws-2"), "the list is {list:?}");
    ns.delete("demo-fork-1")
}

/// The volume of a pod that has ended is gone.
fn ended(ns: &TestNamespace<'_>, worker: &str) -> Result<()> {
    let pod = Pod::new("ended", json!({ "image": ns.env.image })).on(worker);
    ns.create(&pod.runs("echo result > /work/result"))?;
    ns.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "pod/ended",
        "--timeout=120s",
    ])?;
    let refused = fails(ns, 1, &["snapshot", "ended", "late"])?;
    ensure!(refused.contains("pod ended has ended"), "it printed {refused:?}");
    ensure!(!ns.exists("volumesnapshot", "late")?, "a snapshot was created");
    ns.request_snapshot("late", "ended", "local")?;
    let late = ns.wait_for_annotation("late", "phase", |phase| phase == "Refused")?;
    let message = late.annotation("message").unwrap_or_default();
    ensure!(message.contains("take the snapshot while the pod runs"), "it says {message:?}");
    succeeds(ns, &["delete", "late", "--wait"]).map(drop)
}

/// The snapshot of a fork goes with the fork.
fn forks(ns: &TestNamespace<'_>) -> Result<()> {
    let before = names(ns)?;
    let printed = succeeds(ns, &["fork", "demo", "work", "-o", "name"])?.stdout;
    ensure!(
        printed.contains("pod/demo-fork-1") && printed.contains(RESOURCE),
        "it printed {printed:?}"
    );
    ensure!(names(ns)? == before, "a fork that is only printed took a snapshot");
    let fork = ["fork", "demo", "work", "--class", "local", "--name-prefix", "short", "--apply"];
    succeeds(ns, &fork)?;
    ns.ready("short-1")?;
    let after = names(ns)?;
    let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    let [snapshot] = new.as_slice() else { anyhow::bail!("the snapshots are {after:?}") };
    ns.delete("short-1")?;
    ns.wait_until_deleted("volumesnapshot", snapshot)?;

    let labels = json!({ "app": "web" });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": Pod::new("web", json!({ "image": ns.env.image })).spec(),
            },
        },
    });
    ns.apply(&deployment.to_string())?;
    let rollout = |name: &str| {
        ns.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=120s"])
    };
    rollout("web")?;
    succeeds(ns, &["fork", "--of", "deployment/web", "--class", "local", "--apply"])?;
    rollout("web-fork")?;
    ns.kubectl(&["delete", "deployment", "web", "web-fork", "--timeout=120s"])?;
    wait_for("the deletion of the snapshot of the Deployment's fork", seconds(180), || {
        Ok((names(ns)? == before).then_some(()))
    })
}

/// The example of a CronJob, run at once.
fn cron_job(ns: &TestNamespace<'_>) -> Result<()> {
    let file = ns.env.repo.join("deploy/examples/cronjob.yaml");
    let text = fs::read_to_string(file).context("reading the example")?;
    let image = "image: localhost/ovl-csi:0.1.0\n            imagePullPolicy: IfNotPresent";
    ensure!(text.contains(image), "the example has another image");
    let ours = format!("image: {}\n            imagePullPolicy: Never", ns.env.driver_image());
    ns.apply(&text.replace(image, &ours))?;
    ns.kubectl(&["create", "job", "now", "--from=cronjob/nightly"])?;
    ns.kubectl(&["wait", "--for=condition=complete", "job/now", "--timeout=180s"])
        .with_context(|| ns.kubectl(&["logs", "job/now"]).unwrap_or_default())?;
    let nightly = names(ns)?.into_iter().find(|name| name.starts_with("nightly-"));
    let nightly = nightly.context("there is no such snapshot")?;
    ensure!(ns.get_snapshot(&nightly)?.is_ready(), "{nightly} is not ready");
    Ok(())
}

/// Runs `kubectl ovl`, which must succeed.
fn succeeds(ns: &TestNamespace<'_>, args: &[&str]) -> Result<Outcome> {
    let done = ns.kubectl_ovl(args).limit(POD_TIMEOUT).outcome()?;
    ensure!(done.status.success(), "kubectl ovl {}: {}", args.join(" "), done.stderr);
    Ok(done)
}

/// Runs `kubectl ovl`, which must fail with this exit code. Returns its standard error.
fn fails(ns: &TestNamespace<'_>, code: i32, args: &[&str]) -> Result<String> {
    let done = ns.kubectl_ovl(args).limit(POD_TIMEOUT).outcome()?;
    let (status, line) = (done.status, args.join(" "));
    ensure!(status.code() == Some(code), "kubectl ovl {line}: {status}: {}", done.stderr);
    Ok(done.stderr)
}

/// The JSON of `kubectl ovl describe`.
fn describe(ns: &TestNamespace<'_>, name: &str) -> Result<Value> {
    let text = succeeds(ns, &["describe", name, "-o", "json"])?.stdout;
    serde_json::from_str(&text).with_context(|| format!("it printed {text:?}"))
}

/// The names of the snapshots in the namespace.
fn names(ns: &TestNamespace<'_>) -> Result<Vec<String>> {
    let list = succeeds(ns, &["list", "-o", "name"])?.stdout;
    let names = list.lines().filter_map(|line| line.strip_prefix(RESOURCE)?.strip_prefix('/'));
    Ok(names.map(str::to_owned).collect())
}
