//! Pods that are not root: with `owner` and with an fsGroup they may write where they should, and
//! nothing is copied up but what they write.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Case, When};
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "owner",
    what: "a pod that is not root writes, and copies up nothing else",
    when: When::Together,
    play,
};

/// What an owner sees and may do.
const OWNS: &[(&str, &str)] = &[
    ("id -u", "1000"),
    ("stat -c %u:%g /work/folder /work/folder/file", "1000:1000\n1000:1000"),
    ("echo more >> /work/folder/file && cat /work/folder/file", "image\nmore"),
    ("echo new > /work/folder/new && stat -c %u /work/folder/new", "1000"),
    ("echo top > /work/top && stat -c %u /work/top", "1000"),
];

/// What of the owner's is then in the upper.
const OWNED: &[&str] = &["d folder", "f folder/file", "f folder/new", "f top"];

/// What a member of the fsGroup sees and may do: the volume's own folder is the group's, the image's are not.
const BELONGS: &[(&str, &str)] = &[
    ("stat -c %g /work", "2000"),
    ("stat -c %u:%g /work/folder/file", "0:0"),
    ("echo top > /work/top && stat -c %u:%g /work/top", "1000:2000"),
    ("mkdir /work/made && stat -c %g /work/made", "2000"),
    ("{ echo no >> /work/folder/file; } 2>/dev/null || echo refused", "refused"),
];

/// What of the member's is then in the upper.
const BELONGING: &[&str] = &["d made", "f top"];

fn play(scene: &Scene<'_>) -> Result<()> {
    let registry = &scene.stage.registry;
    let layer = Layer::new().folder("folder")?.file("folder/file", "image\n")?;
    push(registry.here, "owner:1", vec![layer.file("folder/other", "image\n")?])?;
    let image = registry.name("owner:1");
    let user = |fs_group: serde_json::Value| json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": fs_group });
    let owner = Pod::new("owner", json!({ "image": image, "owner": "1000:1000" }));
    let owner = owner.with("/spec/securityContext", user(json!(null)));
    let member = Pod::new("member", json!({ "image": image }));
    let member = member.with("/spec/securityContext", user(json!(2000)));
    scene.make(&owner)?;
    scene.make(&member)?;
    for (pod, facts, copied) in [("owner", OWNS, OWNED), ("member", BELONGS, BELONGING)] {
        let uid = scene.ready(pod)?;
        let node = scene.node(pod)?;
        let before = node.upper(&uid)?;
        ensure!(before.is_empty(), "pod {pod} has written nothing yet, and has {before:?}");
        scene.facts(pod, facts)?;
        let after = node.upper(&uid)?;
        ensure!(after == copied, "the upper of pod {pod} has {after:?}, not {copied:?}");
    }
    Ok(())
}
