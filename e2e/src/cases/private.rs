//! A private registry: a pod with the Secret gets the image; one without is refused although the
//! layers are on its node.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Case, When};
use crate::gate::PASSWORD;
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "private",
    what: "a private image is for those with its Secret",
    when: When::Together,
    play,
};

fn play(scene: &Scene<'_>) -> Result<()> {
    let gates = scene.stage.gates()?;
    for (way, gate) in [("basic", &gates.basic), ("bearer", &gates.bearer)] {
        let layer = Layer::new().file("file", way)?;
        let image = format!("private/{way}:1");
        let blobs = push(scene.stage.registry.here, &image, vec![layer])?;
        let attributes = json!({ "image": gate.name(&image) });
        let pod = |name: &str| Pod::new(&format!("{way}-{name}"), attributes.clone());
        let (key, wrong) = (format!("{way}-key"), format!("{way}-wrong"));
        scene.docker_secret(&key, &gate.docker_config(PASSWORD))?;
        scene.docker_secret(&wrong, &gate.docker_config("a-wrong-one"))?;

        scene.start(&pod("with").secret(&key))?;
        scene.facts(&format!("{way}-with"), &[("cat /work/file", way)])?;
        let node = scene.node(&format!("{way}-with"))?;
        let without = scene.make(&pod("without").on(&node.name))?;
        let mistaken = scene.make(&pod("mistaken").secret(&wrong).on(&node.name))?;
        scene.start(&pod("again").secret(&key).on(&node.name))?;
        for (name, uid) in [("without", &without), ("mistaken", &mistaken)] {
            let name = format!("{way}-{name}");
            scene.told(&name, &["FailedMount", &image, "credential|secret|password|denied|401"])?;
            node.forgets(uid)?;
        }
        for blob in blobs {
            let times = gate.passed(&blob).times;
            ensure!(times == 1, "by {way}, the layer was fetched {times} times for two pods");
        }
    }
    Ok(())
}
