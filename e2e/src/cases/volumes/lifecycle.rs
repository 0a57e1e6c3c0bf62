//! The lifecycle of a volume: a pod reads and changes the files of an image, and the changes are
//! removed with the pod. Another pod on the same layers sees none of them, and the layers do not
//! change.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::node;
use crate::env::pods::Pod;

/// Two pods on one image.
pub const CASE: Case = Case {
    name: "whole-life",
    what: "two pods write to volumes of one image",
    concurrency: Concurrency::Parallel,
    run,
};

/// The content of the demonstration's image, as a shell in the pod sees it: a command and its
/// output.
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

/// Every kind of change: written, appended (copied up), removed, renamed, created.
const CHANGES: &str = "cd /work && echo mine > note && echo more >> demo/hello \
     && rm demo/owned && mv demo/changed demo/moved && mkdir -p new/directory && ln note linked";

/// The changes, as the pod that made them sees them.
const CHANGED: &[(&str, &str)] = &[
    ("cat /work/note /work/linked", "mine\nmine"),
    ("cat /work/demo/hello", "from the image\nmore"),
    ("test -e /work/demo/owned || echo none", "none"),
    ("cat /work/demo/moved", "from the second layer"),
    ("test -d /work/new/directory && echo yes", "yes"),
];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let pod = |name| Pod::new(name, json!({ "image": ns.env.image }));
    let first = ns.start(&pod("first"))?;
    let node = ns.node("first")?;
    let mount = node.volume_mount(&first)?;
    ensure!(mount.kind == "overlay", "not an overlay: {mount:?}");

    ns.expect_output("first", FACTS)?;
    // Other cases pull layers at the same time, and unused layers are collected. The layers of this
    // image must stay unchanged.
    let (before, own) = (node.layers()?, node.layers_of(&ns.env.image)?);
    let unchanged = || -> Result<()> {
        let after = node.layers()?;
        node::check_unchanged(&before, &after)?;
        let here = |layer: &String| after.keys().any(|path| path.contains(layer));
        ensure!(own.iter().all(here), "of {own:?}, only these are here: {:?}", after.keys());
        Ok(())
    };
    ns.shell("first", CHANGES)?;
    ns.expect_output("first", CHANGED)?;
    unchanged()?;

    let second = ns.start(&pod("second").on(&node.name))?;
    ns.expect_output("second", FACTS)?;
    ns.expect_output("second", &[("test -e /work/note || echo none", "none")])?;
    ns.shell("second", CHANGES)?;
    ns.expect_output("first", CHANGED)?;

    ns.delete("first")?;
    node.wait_until_removed(&first)?;
    ns.expect_output("second", CHANGED)?;
    ns.delete("second")?;
    node.wait_until_removed(&second)?;
    unchanged()
}
