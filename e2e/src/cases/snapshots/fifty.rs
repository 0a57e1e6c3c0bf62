//! Fifty snapshots of ten pods, asked for at once.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::{Case, When};
use crate::cluster::wait_for;
use crate::pods::{Pod, Scene};
use crate::progress::seconds;
use crate::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-fifty",
    what: "fifty snapshots at once of ten pods",
    when: When::Alone,
    play,
};

const PODS: usize = 10;
const EACH: usize = 5;

fn play(scene: &Scene<'_>) -> Result<()> {
    let node = scene.stage.worker().name;
    for pod in 0..PODS {
        let pod = Pod::new(&format!("pod-{pod}"), json!({ "image": scene.stage.image }));
        let runs = "hostname > /work/who; while :; do echo x >> /work/log; sleep 0.2; done";
        scene.make(&pod.runs(runs).on(&node))?;
    }
    for pod in 0..PODS {
        let pod = format!("pod-{pod}");
        scene.ready(&pod)?;
        scene.until_true(&pod, "test -s /work/who")?;
    }
    let name = |pod: usize, number: usize| format!("pod-{pod}-{number}");
    let all = (0..PODS).flat_map(|pod| (0..EACH).map(move |number| (pod, number)));
    let asked = all.map(|(pod, number)| {
        snapshots::manifest(scene.namespace, &name(pod, number), &format!("pod-{pod}"), "local")
    });
    let asked = json!({ "apiVersion": "v1", "kind": "List", "items": asked.collect::<Vec<_>>() });
    scene.apply(&asked.to_string())?;
    // Kubernetes' own controllers ask the API server a few times a second, whatever there is to do.
    wait_for("fifty snapshots to be ready", seconds(600), || {
        let list = scene.json(&["get", "volumesnapshots"])?;
        let list = list["items"].as_array().context("no items")?;
        let ready = list.iter().filter(|item| item["status"]["readyToUse"] == true).count();
        ensure!(ready == PODS * EACH, "{ready} of {} are ready", list.len());
        Ok(Some(()))
    })?;
    let orders = scene.stage.cluster.kubectl_json(&["get", "overlaysnapshots"])?;
    let of_ours = |order: &&Value| order["spec"]["source"]["namespace"] == scene.namespace;
    let orders = orders["items"].as_array().context("no items")?.iter().filter(of_ours).count();
    ensure!(orders == PODS * EACH, "{orders} orders for {} snapshots", PODS * EACH);

    for pod in [0, PODS - 1] {
        let (restored, snapshot) = (format!("of-{pod}"), name(pod, EACH - 1));
        scene.restore(&restored, &snapshot, &node)?;
        scene.facts(&restored, &[("cat /work/who", &format!("pod-{pod}"))])?;
    }
    // Nobody was left standing still.
    for pod in 0..PODS {
        let pod = format!("pod-{pod}");
        let lines = || -> Result<u64> { Ok(scene.shell(&pod, "wc -l < /work/log")?.parse()?) };
        let before = lines()?;
        wait_for(&format!("{pod} to write on"), seconds(30), || {
            Ok((lines()? > before).then_some(()))
        })?;
    }
    scene.kubectl(&["delete", "volumesnapshots", "--all", "--wait=false"])?;
    wait_for("fifty snapshots to go", seconds(600), || {
        let left = scene.json(&["get", "volumesnapshots"])?;
        let left = left["items"].as_array().context("no items")?.len();
        ensure!(left == 0, "{left} are there");
        Ok(Some(()))
    })
}
