//! A volume's whole life: an image's files are read, changed, and gone with the pod; another pod
//! on the same layers sees none of it, and the layers stay as they are.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Case, When};
use crate::look;
use crate::pods::{Pod, Scene};

/// Two pods on one image.
pub const CASE: Case = Case {
    name: "whole-life",
    what: "two pods write to volumes of one image, and go",
    when: When::Together,
    play,
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

fn play(scene: &Scene<'_>) -> Result<()> {
    let pod = |name| Pod::new(name, json!({ "image": scene.stage.image }));
    let first = scene.start(&pod("first"))?;
    let node = scene.node("first")?;
    let mount = node.volume_mount(&first)?;
    ensure!(mount.kind == "overlay", "not an overlay: {mount:?}");

    scene.facts("first", FACTS)?;
    // Others pull layers at the same time, and what nobody needs is collected; those that are here
    // have to stay as they are.
    let (before, own) = (node.layers()?, node.layers_of(&scene.stage.image)?);
    let unchanged = || -> Result<()> {
        let after = node.layers()?;
        look::unchanged(&before, &after)?;
        let here = |layer: &String| after.keys().any(|path| path.contains(layer));
        ensure!(own.iter().all(here), "of {own:?}, only these are here: {:?}", after.keys());
        Ok(())
    };
    scene.shell("first", CHANGES)?;
    scene.facts("first", CHANGED)?;
    unchanged()?;

    let second = scene.start(&pod("second").on(&node.name))?;
    scene.facts("second", FACTS)?;
    scene.facts("second", &[("test -e /work/note || echo none", "none")])?;
    scene.shell("second", CHANGES)?;
    scene.facts("first", CHANGED)?;

    scene.delete("first")?;
    node.forgets(&first)?;
    scene.facts("second", CHANGED)?;
    scene.delete("second")?;
    node.forgets(&second)?;
    unchanged()
}
