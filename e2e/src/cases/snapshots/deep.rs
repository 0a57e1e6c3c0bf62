//! A snapshot of a snapshot, ten deep: each step is there, and what grew too deep is made one.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::{Case, When};
use crate::pods::{Pod, Scene};
use crate::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-deep",
    what: "a snapshot of a snapshot, ten deep, and squashed",
    when: When::Together,
    play,
};

const DEEP: usize = 10;

/// From how many layers on the class has them made one.
const SQUASHED_ABOVE: u64 = 4;

fn play(scene: &Scene<'_>) -> Result<()> {
    let nodes = &scene.stage.cluster.nodes;
    scene.start(&Pod::new("step-0", json!({ "image": scene.stage.image })).on(&nodes[1]))?;
    for step in 1..=DEEP {
        let (before, now) = (format!("step-{}", step - 1), format!("step-{step}"));
        let name = || format!("step {step}");
        // Something new, something changed again and again, something of the step before taken away.
        let write = format!(
            "cd /work && echo {step} > new-{step} && echo {step} >> log && rm -f new-{} && \
             mkdir -p folder && mv folder folder-{step} && mkdir folder && echo {step} > folder/it",
            step.saturating_sub(2)
        );
        scene.shell(&before, &write).with_context(name)?;
        scene.snapshot(&now, &before, "squashed").with_context(name)?;
        // Where it was cut for the most part; twice it has to come back from the registry.
        let node = if step % 4 == 0 { &nodes[step / 4 % 2] } else { &scene.node(&before)?.name };
        scene.restore(&now, &now, node).with_context(name)?;
        scene.delete(&before)?;
    }
    let last = format!("step-{DEEP}");
    let log: Vec<String> = (1..=DEEP).map(|step| step.to_string()).collect();
    let there = format!("new-{}\nnew-{DEEP}", DEEP - 1);
    let facts = [
        ("cat /work/log", log.join("\n")),
        ("cd /work && ls -d new-* | sort -V", there),
        ("cat /work/folder-2/it", String::from("1")),
        ("cat /work/folder/it", DEEP.to_string()),
        ("cat /work/demo/changed", String::from("from the second layer")),
    ];
    let facts: Vec<(&str, &str)> = facts.iter().map(|(ask, say)| (*ask, say.as_str())).collect();
    scene.facts(&last, &facts)?;

    let squashed = scene.until(&last, "own-layers", |said| {
        said.parse().is_ok_and(|layers: u64| layers <= SQUASHED_ABOVE)
    })?;
    let parent = format!("step-{}", DEEP - 1);
    ensure!(
        squashed.said("parent") == Some(&parent),
        "its parent is {:?}",
        squashed.said("parent")
    );
    let tree = scene.tree(&last, "/work")?;
    for (pod, node) in [("squashed-0", &nodes[0]), ("squashed-1", &nodes[1])] {
        scene.start(&Pod::new(pod, snapshots::of(&last)).on(node))?;
        let what = format!("the squashed volume on {node}");
        snapshots::same(&what, &tree, &scene.tree(pod, "/work")?)?;
    }
    Ok(())
}
