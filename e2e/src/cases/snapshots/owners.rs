//! Volumes with an owner: captured, pushed, restored, and run as an image, in which the owner's
//! files belong to root again.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::run_as_image;
use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-owners",
    what: "volumes of an owner and of a group are captured, restored and run",
    concurrency: Concurrency::Parallel,
    run,
};

/// What the owner writes and then sees. `demo/owned` has its owner from the image.
const OWNS: &str = "cd /work && echo mine > mine && echo more >> demo/hello && mkdir directory && echo in > directory/in";
const OWNED: (&str, &str) = (
    "cd /work && stat -c '%n %u:%g' mine demo/hello demo/changed demo/owned directory/in",
    "mine 1000:1000\ndemo/hello 1000:1000\ndemo/changed 1000:1000\ndemo/owned 1234:5678\ndirectory/in 1000:1000",
);

/// The same in the image.
const OF_ROOT: (&str, &str) = (
    "cd / && stat -c '%n %u:%g' mine demo/hello demo/changed demo/owned directory/in",
    "mine 0:0\ndemo/hello 0:0\ndemo/changed 0:0\ndemo/owned 1234:5678\ndirectory/in 0:0",
);

/// What a member of the group writes and then sees.
const BELONGS: &str = "cd /work && echo mine > mine && mkdir directory && echo in > directory/in";
const BELONGING: (&str, &str) = (
    "cd /work && stat -c '%n %u:%g' . mine demo/hello directory/in",
    ". 0:2000\nmine 1000:2000\ndemo/hello 0:0\ndirectory/in 1000:2000",
);

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (nodes, image) = (&ns.env.cluster.nodes, &ns.env.image);
    let user = |group: Value| json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": group });
    let pod = |name: &str, attributes: Value, group: Value, node: &str| {
        Pod::new(name, attributes).with("/spec/securityContext", user(group)).on(node)
    };
    let owned =
        |name: &str, attributes: Value, node: &str| pod(name, attributes, Value::Null, node);
    let of_image = json!({ "image": image, "owner": "1000:1000" });
    let of = |owner: &str| json!({ "snapshot": "owned", "owner": owner });
    ns.create(&owned("owner", of_image, &nodes[1]))?;
    ns.create(&pod("member", json!({ "image": image }), json!(2000), &nodes[1]))?;
    for (name, writes, has) in [("owner", OWNS, OWNED), ("member", BELONGS, BELONGING)] {
        ns.ready(name)?;
        ns.shell(name, writes)?;
        ns.expect_output(name, &[has]).with_context(|| name.to_owned())?;
    }
    ns.request_snapshot("owned", "owner", "pushed")?;
    let member = ns.snapshot("member", "member", "pushed")?;
    let owner = ns.wait_snapshot_ready("owned")?;

    // Another owner would give another tree.
    for (name, other) in [("another", "2000:2000"), ("without-owner", "")] {
        let attributes = if other.is_empty() { json!({ "snapshot": "owned" }) } else { of(other) };
        ns.create(&owned(name, attributes, &nodes[1]))?;
    }
    for (at, node) in nodes.iter().enumerate() {
        let (one, two) = (format!("owner-{at}"), format!("member-{at}"));
        ns.start(&owned(&one, of("1000:1000"), node))?;
        ns.expect_output(&one, &[OWNED]).with_context(|| format!("on {node}"))?;
        let more = "echo more >> /work/mine && rm /work/demo/hello && echo done";
        ns.expect_output(&one, &[(more, "done")]).with_context(|| format!("on {node}"))?;
        ns.start(&pod(&two, json!({ "snapshot": "member" }), json!(2000), node))?;
        ns.expect_output(&two, &[BELONGING]).with_context(|| format!("on {node}"))?;
    }
    for name in ["another", "without-owner"] {
        ns.wait_for_event(name, &["FailedMount", "owner", "1000:1000"])?;
    }
    ns.start(&run_as_image::as_image("owners-image", owner.image()?))?;
    ns.expect_output("owners-image", &[OF_ROOT])?;
    ns.start(&run_as_image::as_image("members-image", member.image()?))?;
    ns.expect_output(
        "members-image",
        &[("stat -c %u:%g /mine /directory/in", "1000:2000\n1000:2000")],
    )
}
