//! What a pod's author did wrong: the pod's Event says what and how to mend it, and the node keeps
//! nothing. What can be mended in place then starts by itself.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Case, When};
use crate::gate::PASSWORD;
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};
use crate::progress::seconds;

/// An image that is not there yet, and a Secret with the wrong password.
pub const MENDED: Case = Case {
    name: "mended",
    what: "a missing image and a wrong Secret are told, and mended in place",
    when: When::Together,
    play,
};

/// Attributes that cannot be.
pub const ATTRIBUTES: Case = Case {
    name: "bad-attributes",
    what: "a bad attribute is told, with what is accepted",
    when: When::Together,
    play: attributes,
};

fn play(scene: &Scene<'_>) -> Result<()> {
    let (registry, gates) = (&scene.stage.registry, scene.stage.gates()?);
    let layer = |text: &str| -> Result<_> { Ok(vec![Layer::new().file("file", text)?]) };
    push(registry.here, "mended/locked:1", layer("behind a password")?)?;
    let (late, locked) = (registry.name("mended/late:1"), gates.basic.name("mended/locked:1"));
    scene.docker_secret("key", &gates.basic.docker_config("a-wrong-one"))?;
    let of = |image: &str| json!({ "image": image });
    let missing = scene.make(&Pod::new("missing", of(&late)))?;
    let refused = scene.make(&Pod::new("refused", of(&locked)).secret("key"))?;
    scene.told("missing", &["FailedMount", &late, "not found|no such|does not exist|unknown"])?;
    scene.told("refused", &["FailedMount", &locked, "credential|secret|password|denied|401"])?;
    for (pod, uid) in [("missing", &missing), ("refused", &refused)] {
        scene.node(pod)?.forgets(uid)?;
        let events = scene.events(pod, "")?.join("\n");
        ensure!(!events.contains("a-wrong-one"), "an Event of {pod} has the password: {events}");
    }

    push(registry.here, "mended/late:1", layer("there at last")?)?;
    scene.docker_secret("key", &gates.basic.docker_config(PASSWORD))?;
    // The kubelet's pauses between two tries grow to two minutes.
    scene.ready_within("missing", seconds(240))?;
    scene.ready_within("refused", seconds(240))?;
    scene.facts("missing", &[("cat /work/file", "there at last")])?;
    scene.facts("refused", &[("cat /work/file", "behind a password")])
}

/// A pod's name, its attributes beside the image, and what its Event has to say.
const BAD: &[(&str, &str, &str, &[&str])] = &[
    ("no-word", "volatile", "maybe", &["volatile", "maybe", "true", "false"]),
    ("unknown-key", "volatil", "true", &["volatil", "accepted"]),
    ("no-policy", "pullPolicy", "Sometimes", &["pullPolicy", "Sometimes", "IfNotPresent"]),
    ("no-owner", "owner", "somebody", &["owner", "somebody", "UID:GID|uid:gid"]),
    ("no-option", "mountOptions", "noexec,upperdir=/etc", &["mountOptions", "upperdir"]),
    ("no-size", "size", "plenty", &["size", "plenty"]),
    ("twice", "images", "registry.example/other:1", &["image", "images", "one of"]),
    ("a-file", "onUnclean", "hope", &["onUnclean", "discard", "fail"]),
    ("up-and-out", "preCopyUp", "../../etc/passwd", &["preCopyUp", "..|relative|outside"]),
    ("no-snapshot", "snapshot", "monday", &["VolumeSnapshot", "monday"]),
    ("no-name", "snapshot", "../monday", &["snapshot", "../monday"]),
];

fn attributes(scene: &Scene<'_>) -> Result<()> {
    let mut made = Vec::new();
    for (pod, key, value, says) in BAD {
        let attributes = json!({ "image": scene.stage.image, *key: value });
        made.push((*pod, scene.make(&Pod::new(pod, attributes))?, *says));
    }
    let local = Pod::new("local-file", json!({ "image": "oci:/etc" }));
    made.push(("local-file", scene.make(&local)?, &["oci:"]));
    let fs_type = Pod::new("fs-type", json!({ "image": scene.stage.image }));
    let fs_type = fs_type.with("/spec/volumes/0/csi/fsType", Value::from("ext4"));
    made.push(("fs-type", scene.make(&fs_type)?, &["fsType", "ext4", "overlay"]));
    for (pod, uid, says) in &made {
        scene.told(pod, &[&["FailedMount"], *says].concat())?;
        scene.node(pod)?.forgets(uid)?;
    }
    Ok(())
}
