//! Volumes whose files are somebody's: kept, pushed, restored, and run as an image, where what the
//! owner had is root's again.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::run;
use crate::cases::{Case, When};
use crate::pods::{Pod, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-owners",
    what: "volumes of an owner and of a group are kept, restored and run",
    when: When::Together,
    play,
};

/// What the owner writes and then has; the second is the image's own.
const OWNS: &str = "cd /work && echo mine > mine && echo more >> demo/hello && mkdir folder && echo in > folder/in";
const OWNED: (&str, &str) = (
    "cd /work && stat -c '%n %u:%g' mine demo/hello demo/changed demo/owned folder/in",
    "mine 1000:1000\ndemo/hello 1000:1000\ndemo/changed 1000:1000\ndemo/owned 1234:5678\nfolder/in 1000:1000",
);

/// The same in the image.
const OF_ROOT: (&str, &str) = (
    "cd / && stat -c '%n %u:%g' mine demo/hello demo/changed demo/owned folder/in",
    "mine 0:0\ndemo/hello 0:0\ndemo/changed 0:0\ndemo/owned 1234:5678\nfolder/in 0:0",
);

/// What a member of the group writes and then has.
const BELONGS: &str = "cd /work && echo mine > mine && mkdir folder && echo in > folder/in";
const BELONGING: (&str, &str) = (
    "cd /work && stat -c '%n %u:%g' . mine demo/hello folder/in",
    ". 0:2000\nmine 1000:2000\ndemo/hello 0:0\nfolder/in 1000:2000",
);

fn play(scene: &Scene<'_>) -> Result<()> {
    let (nodes, image) = (&scene.stage.cluster.nodes, &scene.stage.image);
    let user = |group: Value| json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": group });
    let pod = |name: &str, attributes: Value, group: Value, node: &str| {
        Pod::new(name, attributes).with("/spec/securityContext", user(group)).on(node)
    };
    let owned =
        |name: &str, attributes: Value, node: &str| pod(name, attributes, Value::Null, node);
    let of_image = json!({ "image": image, "owner": "1000:1000" });
    let of = |owner: &str| json!({ "snapshot": "owned", "owner": owner });
    scene.make(&owned("owner", of_image, &nodes[1]))?;
    scene.make(&pod("member", json!({ "image": image }), json!(2000), &nodes[1]))?;
    for (name, writes, has) in [("owner", OWNS, OWNED), ("member", BELONGS, BELONGING)] {
        scene.ready(name)?;
        scene.shell(name, writes)?;
        scene.facts(name, &[has]).with_context(|| name.to_owned())?;
    }
    scene.ask("owned", "owner", "pushed")?;
    let member = scene.snapshot("member", "member", "pushed")?;
    let owner = scene.taken("owned")?;

    // Another owner would be another tree.
    for (name, other) in [("another", "2000:2000"), ("nobody", "")] {
        let attributes = if other.is_empty() { json!({ "snapshot": "owned" }) } else { of(other) };
        scene.make(&owned(name, attributes, &nodes[1]))?;
    }
    for (at, node) in nodes.iter().enumerate() {
        let (one, two) = (format!("owner-{at}"), format!("member-{at}"));
        scene.start(&owned(&one, of("1000:1000"), node))?;
        scene.facts(&one, &[OWNED]).with_context(|| format!("on {node}"))?;
        let more = "echo more >> /work/mine && rm /work/demo/hello && echo done";
        scene.facts(&one, &[(more, "done")]).with_context(|| format!("on {node}"))?;
        scene.start(&pod(&two, json!({ "snapshot": "member" }), json!(2000), node))?;
        scene.facts(&two, &[BELONGING]).with_context(|| format!("on {node}"))?;
    }
    for name in ["another", "nobody"] {
        scene.told(name, &["FailedMount", "owner", "1000:1000"])?;
    }
    scene.start(&run::as_image("owners-image", owner.image()?))?;
    scene.facts("owners-image", &[OF_ROOT])?;
    scene.start(&run::as_image("members-image", member.image()?))?;
    scene.facts("members-image", &[("stat -c %u:%g /mine /folder/in", "1000:2000\n1000:2000")])
}
