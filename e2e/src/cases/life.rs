//! A volume's whole life: an image's files are read, changed, and gone with the pod; another pod
//! on the same layers sees none of it, and the layers stay as they are.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Case, nothing_left, volume_of};
use crate::look::Node;
use crate::pods::{self, Pod};
use crate::stage::Stage;

/// Two pods on one image.
pub const CASE: Case = Case {
    name: "whole-life",
    what: "two pods write to volumes of one image, and go",
    pods: &["first", "second"],
    play,
};

/// The same with a volatile upper, as far as it differs.
pub const VOLATILE: Case = Case {
    name: "volatile",
    what: "a volatile volume is mounted so",
    pods: &["volatile"],
    play: volatile,
};

/// What the demonstration's image has at its end: one line a fact, as a shell in the pod sees it.
const FACTS: &[(&str, &str)] = &[
    ("cat /work/demo/hello", "from the image"),
    ("cat /work/demo/changed", "from the second layer"),
    ("test -e /work/demo/removed || echo none", "none"),
    ("readlink /work/demo/symlink", "hello"),
    ("cat /work/demo/symlink", "from the image"),
    ("cat /work/demo/hardlink", "one file, two names"),
    ("stat -c %h /work/demo/twin", "2"),
    ("stat -c %a:%u /work/demo/setuid", "4755:0"),
    ("stat -c %a:%u:%g /work/demo/owned", "640:1234:5678"),
    ("test -x /work/bin/sh && echo yes", "yes"),
];

/// Every kind of change: written, appended (copied up), removed, renamed, made.
const CHANGES: &str = "cd /work && echo mine > note && echo more >> demo/hello \
     && rm demo/owned && mv demo/changed demo/moved && mkdir -p new/folder && ln note linked";

/// What the changes have to show as, to whoever made them.
const CHANGED: &[(&str, &str)] = &[
    ("cat /work/note /work/linked", "mine\nmine"),
    ("cat /work/demo/hello", "from the image\nmore"),
    ("test -e /work/demo/owned || echo none", "none"),
    ("cat /work/demo/moved", "from the second layer"),
    ("test -d /work/new/folder && echo yes", "yes"),
];

fn play(stage: &Stage) -> Result<()> {
    let pod =
        |name| Pod { name, attributes: json!({ "image": stage.image }), runs: "sleep infinity" };
    let cluster = &stage.cluster;
    cluster.kubectl_apply(&pod("first").manifest())?;
    let first = pods::ready(cluster, "first")?;
    let node = Node::of_pod(stage, "first")?;
    let (volume, mount) = volume_of(&node, &first)?;
    ensure!(mount.kind == "overlay", "not an overlay: {mount:?}");
    for option in ["nosuid", "nodev", "redirect_dir=on", "metacopy=on"] {
        ensure!(mount.has(option), "no {option} in {mount:?}");
    }
    ensure!(!mount.has("volatile") && !mount.has("fsync=volatile"), "volatile: {mount:?}");

    facts(stage, "first", FACTS)?;
    let before = node.layers()?;
    pods::shell(cluster, "first", CHANGES)?;
    facts(stage, "first", CHANGED)?;
    ensure!(node.layers()? == before, "the layers changed: {before:?} became {:?}", node.layers()?);

    cluster.kubectl_apply(&pod("second").manifest())?;
    let second = pods::ready(cluster, "second")?;
    let other = Node::of_pod(stage, "second")?;
    facts(stage, "second", FACTS)?;
    facts(stage, "second", &[("test -e /work/note || echo none", "none")])?;
    let (second_volume, _) = volume_of(&other, &second)?;

    pods::delete(cluster, "first")?;
    nothing_left(&node, &first, &volume)?;
    facts(stage, "second", FACTS)?;
    pods::delete(cluster, "second")?;
    nothing_left(&other, &second, &second_volume)?;
    ensure!(node.layers()? == before, "the layers did not outlive their volumes unchanged");
    Ok(())
}

fn volatile(stage: &Stage) -> Result<()> {
    let attributes = json!({ "image": stage.image, "volatile": "true" });
    let pod = Pod { name: "volatile", attributes, runs: "sleep infinity" };
    stage.cluster.kubectl_apply(&pod.manifest())?;
    let uid = pods::ready(&stage.cluster, "volatile")?;
    let node = Node::of_pod(stage, "volatile")?;
    let (volume, mount) = volume_of(&node, &uid)?;
    // Kernels call it one or the other.
    ensure!(mount.has("volatile") || mount.has("fsync=volatile"), "not volatile: {mount:?}");
    pods::shell(&stage.cluster, "volatile", CHANGES)?;
    facts(stage, "volatile", CHANGED)?;
    pods::delete(&stage.cluster, "volatile")?;
    nothing_left(&node, &uid, &volume)
}

fn facts(stage: &Stage, pod: &str, facts: &[(&str, &str)]) -> Result<()> {
    for (command, want) in facts {
        let said = pods::shell(&stage.cluster, pod, command)?;
        ensure!(said == *want, "`{command}` in pod {pod} says `{said}`, not `{want}`");
    }
    Ok(())
}
