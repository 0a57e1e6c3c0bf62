//! The CSI specification's own tests on the controller, at its socket, on the node that it runs on.
//!
//! Deliberately absent: specs that make their volume by CreateVolume, which the driver does not have.
//! What they are about is the other cases' as well.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cases::{Case, When};
use crate::pods::{Pod, Scene, is_ready};
use crate::progress::seconds;
use crate::render::NAMESPACE;
use crate::suites::ginkgo;

/// See the module.
pub const CASE: Case = Case {
    name: "controller-sanity",
    what: "csi-sanity at the controller's socket",
    // Some specs count all snapshots that there are.
    when: When::Last,
    play,
};

/// The services that the controller has.
const FOCUS: &str =
    "Identity Service|Controller Service|ListSnapshots|GetSnapshot|CreateSnapshot|DeleteSnapshot";

/// The specs that make their volume by CreateVolume without asking whether there is any.
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

/// As many as one spec would make if they were not there.
const SNAPSHOTS: usize = 6;

/// Longer than all of it takes.
const LIMIT: Duration = seconds(300);

/// Where the program goes on the node: not below a folder that is in memory, which `docker cp` does not see.
const PROGRAM: &str = "/usr/local/bin/csi-sanity";

fn play(scene: &Scene<'_>) -> Result<()> {
    let stage = scene.stage;
    let source = Pod::new("source", json!({ "image": stage.image }));
    scene.start(&source.on(&stage.worker().name))?;
    for number in 0..SNAPSHOTS {
        scene.ask(&format!("ws-{number}"), "source", "local")?;
    }
    for number in 0..SNAPSHOTS {
        scene.taken(&format!("ws-{number}"))?;
    }
    let (node, socket) = controller(scene)?;
    let engine = &stage.cluster.ground.engine;
    let program = stage.programs()?.sanity.display().to_string();
    engine.docker(["cp", &program, &format!("{node}:{PROGRAM}")]).output()?;
    let skip = NEED_VOLUMES.join("|");
    let specs = engine.docker(["exec", &node, PROGRAM, "--csi.endpoint", &socket]);
    let specs = specs.args(["--ginkgo.focus", FOCUS, "--ginkgo.skip", &skip, "--ginkgo.no-color"]);
    let done = specs.limit(LIMIT).outcome()?;
    let end = || done.stdout.lines().rev().take(60).collect::<Vec<_>>();
    let quote = || end().into_iter().rev().collect::<Vec<_>>().join("\n");
    let Some(tally) = ginkgo::tally(&done.stdout) else {
        bail!("it broke off: {}\n{}", done.stderr, quote());
    };
    ensure!(tally.failures.is_empty(), "{:?} failed:\n{}", tally.failures, quote());
    ensure!(done.status.success(), "it did not end well:\n{}", quote());
    ensure!(tally.passed >= 12, "only {} specs ran:\n{}", tally.passed, quote());
    Ok(())
}

/// A node with a controller, and the controller's socket as that node sees it.
fn controller(scene: &Scene<'_>) -> Result<(String, String)> {
    let selector = "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component=controller";
    let pods = ["get", "pods", "--namespace", NAMESPACE, "--selector", selector];
    let pods = scene.cluster().kubectl_json(&pods)?;
    let pods = pods["items"].as_array().context("no items")?;
    let pod = pods.iter().find(|pod| is_ready(pod)).context("no controller is ready")?;
    let text = |pointer| pod.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let uid = text("/metadata/uid").context("a pod without a uid")?;
    let folder =
        format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/socket/csi.sock");
    Ok((text("/spec/nodeName").context("a pod on no node")?, format!("unix://{folder}")))
}
