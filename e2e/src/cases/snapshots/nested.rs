//! A snapshot of a snapshot, ten deep. Each step is restored, and a stack that is too deep is
//! squashed.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-deep",
    what: "a snapshot of a snapshot, ten deep, and squashed",
    concurrency: Concurrency::Parallel,
    run,
};

const DEEP: usize = 10;

/// The number of layers above which the class squashes.
const SQUASHED_ABOVE: u64 = 4;

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let nodes = &ns.env.cluster.nodes;
    ns.start(&Pod::new("step-0", json!({ "image": ns.env.image })).on(&nodes[1]))?;
    for step in 1..=DEEP {
        let (before, now) = (format!("step-{}", step - 1), format!("step-{step}"));
        let name = || format!("step {step}");
        // A new file, a file that changes in every step, and a removed file of an earlier step.
        let write = format!(
            "cd /work && echo {step} > new-{step} && echo {step} >> log && rm -f new-{} && \
             mkdir -p directory && mv directory directory-{step} && mkdir directory && echo {step} > directory/it",
            step.saturating_sub(2)
        );
        ns.shell(&before, &write).with_context(name)?;
        ns.snapshot(&now, &before, "squashed").with_context(name)?;
        // Mostly on the same node. Twice the snapshot must come from the registry.
        let node = if step % 4 == 0 { &nodes[step / 4 % 2] } else { &ns.node(&before)?.name };
        ns.restore(&now, &now, node).with_context(name)?;
        ns.delete(&before)?;
    }
    let last = format!("step-{DEEP}");
    let log: Vec<String> = (1..=DEEP).map(|step| step.to_string()).collect();
    let there = format!("new-{}\nnew-{DEEP}", DEEP - 1);
    let facts = [
        ("cat /work/log", log.join("\n")),
        ("cd /work && ls -d new-* | sort -V", there),
        ("cat /work/directory-2/it", String::from("1")),
        ("cat /work/directory/it", DEEP.to_string()),
        ("cat /work/demo/changed", String::from("from the second layer")),
    ];
    let facts: Vec<(&str, &str)> =
        facts.iter().map(|(command, output)| (*command, output.as_str())).collect();
    ns.expect_output(&last, &facts)?;

    let squashed = ns.wait_for_annotation(&last, "own-layers", |value| {
        value.parse().is_ok_and(|layers: u64| layers <= SQUASHED_ABOVE)
    })?;
    let parent = format!("step-{}", DEEP - 1);
    ensure!(
        squashed.annotation("parent") == Some(&parent),
        "its parent is {:?}",
        squashed.annotation("parent")
    );
    let tree = ns.tree(&last, "/work")?;
    for (pod, node) in [("squashed-0", &nodes[0]), ("squashed-1", &nodes[1])] {
        ns.start(&Pod::new(pod, snapshots::volume_attributes(&last)).on(node))?;
        let what = format!("the squashed volume on {node}");
        snapshots::check_same_tree(&what, &tree, &ns.tree(pod, "/work")?)?;
    }
    Ok(())
}
