//! The CSI specification's own tests on the controller, at its socket, on its node.
//!
//! Deliberately absent: specs that create their volume with CreateVolume, which the driver does not
//! have. Other cases cover them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::chart::NAMESPACE;
use crate::env::namespace::TestNamespace;
use crate::env::pods::{Pod, is_ready};
use crate::machine::progress::seconds;
use crate::report::ginkgo;

/// See the module.
pub const CASE: Case = Case {
    name: "controller-sanity",
    what: "csi-sanity at the controller's socket",
    // Some specs count all snapshots in the cluster.
    concurrency: Concurrency::Last,
    run,
};

/// The services that the controller has.
const FOCUS: &str =
    "Identity Service|Controller Service|ListSnapshots|GetSnapshot|CreateSnapshot|DeleteSnapshot";

/// Specs that call CreateVolume without a check that it exists.
const NEED_VOLUMES: &[&str] = &[
    "ListSnapshots .*should return snapshots that match the specified snapshot id",
    "ListSnapshots .*should return snapshots that match the specified source volume id",
    "ListSnapshots .*check the presence of new snapshots in the snapshot list",
    "GetSnapshot .*should return snapshot that match the specified snapshot id",
    "DeleteSnapshot .*should return appropriate values",
    "CreateSnapshot .*already existing name and same source volume ID",
    "CreateSnapshot .*already existing name and different source volume ID",
    "CreateSnapshot .*maximum-length name",
    "CreateSnapshot .*accessibility requirements",
    "ValidateVolumeCapabilities should fail when no volume capabilities are provided",
    "ValidateVolumeCapabilities should return appropriate values",
];

/// As many as one spec would otherwise create.
const SNAPSHOTS: usize = 6;

/// Longer than all of it takes.
const LIMIT: Duration = seconds(300);

/// The path of the program on the node. It must not be on a file system in memory, which `docker
/// cp` does not see.
const PROGRAM: &str = "/usr/local/bin/csi-sanity";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let env = ns.env;
    let source = Pod::new("source", json!({ "image": env.image }));
    ns.start(&source.on(&env.worker().name))?;
    for number in 0..SNAPSHOTS {
        ns.request_snapshot(&format!("ws-{number}"), "source", "local")?;
    }
    for number in 0..SNAPSHOTS {
        ns.wait_snapshot_ready(&format!("ws-{number}"))?;
    }
    let (node, socket) = controller(ns)?;
    let engine = &env.cluster.prerequisites.engine;
    let program = env.programs()?.sanity.display().to_string();
    engine.docker(["cp", &program, &format!("{node}:{PROGRAM}")]).output()?;
    let skip = NEED_VOLUMES.join("|");
    let specs = engine.docker(["exec", &node, PROGRAM, "--csi.endpoint", &socket]);
    let specs = specs.args(["--ginkgo.focus", FOCUS, "--ginkgo.skip", &skip, "--ginkgo.no-color"]);
    let done = specs.limit(LIMIT).outcome()?;
    let end = || done.stdout.lines().rev().take(60).collect::<Vec<_>>();
    let quote = || end().into_iter().rev().collect::<Vec<_>>().join("\n");
    let Some(report) = ginkgo::parse(&done.stdout) else {
        bail!("it stopped early: {}\n{}", done.stderr, quote());
    };
    ensure!(report.failures.is_empty(), "{:?} failed:\n{}", report.failures, quote());
    ensure!(done.status.success(), "it failed:\n{}", quote());
    ensure!(report.passed >= 12, "only {} specs ran:\n{}", report.passed, quote());
    Ok(())
}

/// A node with a controller, and the controller's socket as that node sees it.
fn controller(ns: &TestNamespace<'_>) -> Result<(String, String)> {
    let selector = "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component=controller";
    let pods = ["get", "pods", "--namespace", NAMESPACE, "--selector", selector];
    let pods = ns.cluster().kubectl_json(&pods)?;
    let pods = pods["items"].as_array().context("no items")?;
    let pod = pods.iter().find(|pod| is_ready(pod)).context("no controller is ready")?;
    let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let uid = text("/metadata/uid").context("a pod without a uid")?;
    let dir =
        format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/socket/csi.sock");
    Ok((text("/spec/nodeName").context("a pod on no node")?, format!("unix://{dir}")))
}
