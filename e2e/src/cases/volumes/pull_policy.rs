//! The three pull policies, with a tag that moves.

use anyhow::{Context, Result};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::oci::image::{Layer, push};

/// See the module.
pub const CASE: Case = Case {
    name: "pull-policy",
    what: "each pull policy, with a tag that moves",
    concurrency: Concurrency::Parallel,
    run,
};

/// A step: the new content of the tag, if it moves before the step; the policy of the pod; and what
/// the pod reads.
const STEPS: &[(Option<&str>, &str, &str)] = &[
    (Some("one"), "IfNotPresent", "one"),
    (Some("two"), "IfNotPresent", "one"),
    (None, "Never", "one"),
    (None, "Always", "two"),
    (None, "Never", "two"),
    (None, "IfNotPresent", "two"),
    (Some("three"), "Always", "three"),
];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let registry = &ns.env.registry;
    let image = registry.name("moving:1");
    let attributes = |policy: &str| json!({ "image": image, "pullPolicy": policy });
    let never = ns.create(&Pod::new("absent", attributes("Never")))?;
    ns.wait_for_event("absent", &["FailedMount", &image, "Never"])?;
    let node = ns.node("absent")?;
    node.wait_until_removed(&never)?;
    ns.delete("absent")?;
    for (at, (moves, policy, reads)) in STEPS.iter().enumerate() {
        if let Some(text) = moves {
            push(registry.here, "moving:1", vec![Layer::new().file("file", text)?])?;
        }
        let name = format!("step-{}", at + 1);
        let step = || format!("step {}, {policy}", at + 1);
        ns.start(&Pod::new(&name, attributes(policy)).on(&node.name)).with_context(step)?;
        ns.expect_output(&name, &[("cat /work/file", reads)]).with_context(step)?;
    }
    Ok(())
}
