//! Pods that do not run as root. With `owner` and with an fsGroup they can write where they should,
//! and only written files are copied up.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::oci::image::{Layer, push};

/// See the module.
pub const CASE: Case = Case {
    name: "owner",
    what: "a pod that is not root writes, and copies up nothing else",
    concurrency: Concurrency::Parallel,
    run,
};

/// What an owner sees and can do.
const OWNS: &[(&str, &str)] = &[
    ("id -u", "1000"),
    ("stat -c %u:%g /work/directory /work/directory/file", "1000:1000\n1000:1000"),
    ("echo more >> /work/directory/file && cat /work/directory/file", "image\nmore"),
    ("echo new > /work/directory/new && stat -c %u /work/directory/new", "1000"),
    ("echo top > /work/top && stat -c %u /work/top", "1000"),
];

/// The upper of the owner's volume after that.
const OWNED: &[&str] = &["d directory", "f directory/file", "f directory/new", "f top"];

/// What a member of the fsGroup sees and can do. The root directory of the volume belongs to the
/// group, the directories of the image do not.
const BELONGS: &[(&str, &str)] = &[
    ("stat -c %g /work", "2000"),
    ("stat -c %u:%g /work/directory/file", "0:0"),
    ("echo top > /work/top && stat -c %u:%g /work/top", "1000:2000"),
    ("mkdir /work/made && stat -c %g /work/made", "2000"),
    ("{ echo no >> /work/directory/file; } 2>/dev/null || echo refused", "refused"),
];

/// The upper of the member's volume after that.
const BELONGING: &[&str] = &["d made", "f top"];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let registry = &ns.env.registry;
    let layer = Layer::new().dir("directory")?.file("directory/file", "image\n")?;
    push(registry.here, "owner:1", vec![layer.file("directory/other", "image\n")?])?;
    let image = registry.name("owner:1");
    let user = |fs_group: serde_json::Value| json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": fs_group });
    let owner = Pod::new("owner", json!({ "image": image, "owner": "1000:1000" }));
    let owner = owner.with("/spec/securityContext", user(json!(null)));
    let member = Pod::new("member", json!({ "image": image }));
    let member = member.with("/spec/securityContext", user(json!(2000)));
    ns.create(&owner)?;
    ns.create(&member)?;
    for (pod, facts, copied) in [("owner", OWNS, OWNED), ("member", BELONGS, BELONGING)] {
        let uid = ns.ready(pod)?;
        let node = ns.node(pod)?;
        let before = node.upper(&uid)?;
        ensure!(before.is_empty(), "pod {pod} has written nothing yet, and has {before:?}");
        ns.expect_output(pod, facts)?;
        let after = node.upper(&uid)?;
        ensure!(after == copied, "the upper of pod {pod} has {after:?}, not {copied:?}");
    }
    Ok(())
}
