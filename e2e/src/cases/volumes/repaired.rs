//! Mistakes of a pod's author. The pod's Event names the mistake and its fix, and the node keeps
//! nothing. After a fix in place, the pod starts by itself.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::PASSWORD;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::machine::progress::seconds;
use crate::oci::image::{Layer, push};

/// A missing image, and a Secret with the wrong password.
pub const REPAIRED: Case = Case {
    name: "repaired",
    what: "a missing image and a wrong Secret are reported, and fixed in place",
    concurrency: Concurrency::Parallel,
    run,
};

/// Invalid attributes.
pub const ATTRIBUTES: Case = Case {
    name: "bad-attributes",
    what: "an invalid attribute is reported, with the valid ones",
    concurrency: Concurrency::Parallel,
    run: attributes,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (registry, proxies) = (&ns.env.registry, ns.env.proxies()?);
    let layer = |text: &str| -> Result<_> { Ok(vec![Layer::new().file("file", text)?]) };
    push(registry.here, "repaired/locked:1", layer("behind a password")?)?;
    let (late, locked) =
        (registry.name("repaired/late:1"), proxies.basic.name("repaired/locked:1"));
    ns.docker_secret("key", &proxies.basic.docker_config("a-wrong-one"))?;
    let of = |image: &str| json!({ "image": image });
    let missing = ns.create(&Pod::new("missing", of(&late)))?;
    let refused = ns.create(&Pod::new("refused", of(&locked)).secret("key"))?;
    ns.wait_for_event(
        "missing",
        &["FailedMount", &late, "not found|no such|does not exist|unknown"],
    )?;
    ns.wait_for_event(
        "refused",
        &["FailedMount", &locked, "credential|secret|password|denied|401"],
    )?;
    for (pod, uid) in [("missing", &missing), ("refused", &refused)] {
        ns.node(pod)?.wait_until_removed(uid)?;
        let events = ns.events(pod, "")?.join("\n");
        ensure!(!events.contains("a-wrong-one"), "an Event of {pod} has the password: {events}");
    }

    push(registry.here, "repaired/late:1", layer("there at last")?)?;
    ns.docker_secret("key", &proxies.basic.docker_config(PASSWORD))?;
    // The kubelet's backoff between two attempts grows to two minutes.
    ns.ready_within("missing", seconds(240))?;
    ns.ready_within("refused", seconds(240))?;
    ns.expect_output("missing", &[("cat /work/file", "there at last")])?;
    ns.expect_output("refused", &[("cat /work/file", "behind a password")])
}

/// A pod's name, its attribute beside the image with its value, and the words that its Event must
/// contain.
const BAD: &[(&str, &str, &str, &[&str])] = &[
    ("no-word", "volatile", "maybe", &["volatile", "maybe", "true", "false"]),
    ("unknown-key", "volatil", "true", &["volatil", "expected"]),
    ("no-policy", "pullPolicy", "Sometimes", &["pullPolicy", "Sometimes", "IfNotPresent"]),
    ("no-owner", "owner", "a-user", &["owner", "a-user", "UID:GID|uid:gid"]),
    ("no-option", "mountOptions", "noexec,upperdir=/etc", &["mountOptions", "upperdir"]),
    ("no-size", "size", "plenty", &["size", "plenty"]),
    ("twice", "images", "registry.example/other:1", &["image", "images", "one of"]),
    ("a-file", "onUnclean", "hope", &["onUnclean", "discard", "fail"]),
    ("up-and-out", "preCopyUp", "../../etc/passwd", &["preCopyUp", "..|relative|outside"]),
    ("no-snapshot", "snapshot", "monday", &["no snapshot", "monday"]),
    ("no-name", "snapshot", "../monday", &["snapshot", "../monday"]),
];

fn attributes(ns: &TestNamespace<'_>) -> Result<()> {
    let mut made = Vec::new();
    for (pod, key, value, words) in BAD {
        let attributes = json!({ "image": ns.env.image, *key: value });
        made.push((*pod, ns.create(&Pod::new(pod, attributes))?, *words));
    }
    let local = Pod::new("local-file", json!({ "image": "oci:/etc" }));
    made.push(("local-file", ns.create(&local)?, &["oci:"]));
    let fs_type = Pod::new("fs-type", json!({ "image": ns.env.image }));
    let fs_type = fs_type.with("/spec/volumes/0/csi/fsType", Value::from("ext4"));
    made.push(("fs-type", ns.create(&fs_type)?, &["fsType", "ext4", "overlay"]));
    for (pod, uid, words) in &made {
        ns.wait_for_event(pod, &[&["FailedMount"], *words].concat())?;
        ns.node(pod)?.wait_until_removed(uid)?;
    }
    Ok(())
}
