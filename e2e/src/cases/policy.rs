//! What the cluster's owner does not allow is refused, with the reason.

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::{Case, When};
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};
use crate::stage::GUARDED;

/// Images by name. Its namespace is the one that the chart's values guard.
pub const IMAGES: Case = Case {
    name: GUARDED,
    what: "an image that its namespace may not use is refused",
    when: When::Together,
    play: images,
};

/// Pods with users of their own, for which the kernel has no overlay.
pub const USERS: Case = Case {
    name: "host-users",
    what: "hostUsers: false is refused with the reason",
    when: When::Together,
    play: users,
};

fn images(scene: &Scene<'_>) -> Result<()> {
    let registry = &scene.stage.registry;
    for name in ["allowed/image:1", "other/image:1"] {
        push(registry.here, name, vec![Layer::new().file("file", name)?])?;
    }
    let (allowed, other) = (registry.name("allowed/image:1"), registry.name("other/image:1"));
    let of = |images: &str| json!({ "images": images });
    let uid = scene.make(&Pod::new("other", of(&other)))?;
    let both = scene.make(&Pod::new("both", of(&format!("{allowed} {other}"))))?;
    scene.start(&Pod::new("allowed", of(&allowed)))?;
    scene.facts("allowed", &[("cat /work/file", "allowed/image:1")])?;
    for (pod, uid) in [("other", uid), ("both", both)] {
        scene.told(pod, &["FailedMount", &other, "allow"])?;
        scene.node(pod)?.forgets(&uid)?;
    }
    Ok(())
}

fn users(scene: &Scene<'_>) -> Result<()> {
    let pod = Pod::new("own-users", json!({ "image": scene.stage.image }));
    match scene.make(&pod.with("/spec/hostUsers", json!(false))) {
        Ok(_) => bail!("the API server took a pod with hostUsers: false"),
        Err(error) => {
            let said = format!("{error:#}");
            let reason = said.contains("hostUsers") && said.contains("overlay");
            ensure!(reason, "it is refused without the reason: {said}");
        }
    }
    // The rule is about pods with such a volume, and about no other.
    let pod = Pod::new("no-volume", json!({})).with("/spec/hostUsers", json!(false));
    let pod = pod.with("/spec/volumes", json!([]));
    let pod = pod.with("/spec/containers/0/volumeMounts", json!([]));
    scene.make(&pod).map(drop)
}
