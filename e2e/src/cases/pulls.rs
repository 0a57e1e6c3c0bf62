//! The three pull policies, on an image whose tag moves.

use anyhow::{Context, Result};
use serde_json::json;

use super::{Case, When};
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "pull-policy",
    what: "each pull policy, with a tag that moves",
    when: When::Together,
    play,
};

/// A step: the tag moves before it (to an image that says this), then a pod with this policy reads
/// what it gets.
const STEPS: &[(Option<&str>, &str, &str)] = &[
    (Some("one"), "IfNotPresent", "one"),
    (Some("two"), "IfNotPresent", "one"),
    (None, "Never", "one"),
    (None, "Always", "two"),
    (None, "Never", "two"),
    (None, "IfNotPresent", "two"),
    (Some("three"), "Always", "three"),
];

fn play(scene: &Scene<'_>) -> Result<()> {
    let registry = &scene.stage.registry;
    let image = registry.name("moving:1");
    let attributes = |policy: &str| json!({ "image": image, "pullPolicy": policy });
    let never = scene.make(&Pod::new("absent", attributes("Never")))?;
    scene.told("absent", &["FailedMount", &image, "Never"])?;
    let node = scene.node("absent")?;
    node.forgets(&never)?;
    scene.delete("absent")?;
    for (at, (moves, policy, reads)) in STEPS.iter().enumerate() {
        if let Some(text) = moves {
            push(registry.here, "moving:1", vec![Layer::new().file("file", text)?])?;
        }
        let name = format!("step-{}", at + 1);
        let step = || format!("step {}, {policy}", at + 1);
        scene.start(&Pod::new(&name, attributes(policy)).on(&node.name)).with_context(step)?;
        scene.facts(&name, &[("cat /work/file", reads)]).with_context(step)?;
    }
    Ok(())
}
