//! Fifty snapshots of ten pods, requested at once.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;
use crate::machine::progress::seconds;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-fifty",
    what: "fifty snapshots at once of ten pods",
    concurrency: Concurrency::Exclusive,
    run,
};

const PODS: usize = 10;
const EACH: usize = 5;

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let node = ns.env.worker().name;
    for pod in 0..PODS {
        let pod = Pod::new(&format!("pod-{pod}"), json!({ "image": ns.env.image }));
        let runs = "hostname > /work/who; while :; do echo x >> /work/log; sleep 0.2; done";
        ns.create(&pod.runs(runs).on(&node))?;
    }
    for pod in 0..PODS {
        let pod = format!("pod-{pod}");
        ns.ready(&pod)?;
        ns.wait_for_command(&pod, "test -s /work/who")?;
    }
    let name = |pod: usize, number: usize| format!("pod-{pod}-{number}");
    let all = (0..PODS).flat_map(|pod| (0..EACH).map(move |number| (pod, number)));
    let requested = all.map(|(pod, number)| {
        snapshots::manifest(ns.namespace, &name(pod, number), &format!("pod-{pod}"), "local")
    });
    let requested =
        json!({ "apiVersion": "v1", "kind": "List", "items": requested.collect::<Vec<_>>() });
    ns.apply(&requested.to_string())?;
    // Kubernetes' own controllers send only a few requests a second to the API server.
    wait_for("fifty snapshots to be ready", seconds(600), || {
        let list = ns.json(&["get", "volumesnapshots"])?;
        let list = list["items"].as_array().context("no items")?;
        let ready = list.iter().filter(|item| item["status"]["readyToUse"] == true).count();
        ensure!(ready == PODS * EACH, "{ready} of {} are ready", list.len());
        Ok(Some(()))
    })?;
    let objects = ns.env.cluster.kubectl_json(&["get", "overlaysnapshots"])?;
    let of_ours = |object: &&Value| object["spec"]["source"]["namespace"] == ns.namespace;
    let objects = objects["items"].as_array().context("no items")?.iter().filter(of_ours).count();
    ensure!(objects == PODS * EACH, "{objects} OverlaySnapshots for {} snapshots", PODS * EACH);

    for pod in [0, PODS - 1] {
        let (restored, snapshot) = (format!("of-{pod}"), name(pod, EACH - 1));
        ns.restore(&restored, &snapshot, &node)?;
        ns.expect_output(&restored, &[("cat /work/who", &format!("pod-{pod}"))])?;
    }
    // No pod stays frozen.
    for pod in 0..PODS {
        let pod = format!("pod-{pod}");
        let lines = || -> Result<u64> { Ok(ns.shell(&pod, "wc -l < /work/log")?.parse()?) };
        let before = lines()?;
        wait_for(&format!("{pod} to write on"), seconds(30), || {
            Ok((lines()? > before).then_some(()))
        })?;
    }
    ns.kubectl(&["delete", "volumesnapshots", "--all", "--wait=false"])?;
    wait_for("the deletion of fifty snapshots", seconds(600), || {
        let left = ns.json(&["get", "volumesnapshots"])?;
        let left = left["items"].as_array().context("no items")?.len();
        ensure!(left == 0, "{left} are there");
        Ok(Some(()))
    })
}
