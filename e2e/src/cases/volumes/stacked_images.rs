//! Two images in one volume, in both orders. The later image covers the earlier one, and files of
//! both can be changed.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::oci::image::{Layer, push};

/// See the module.
pub const CASE: Case = Case {
    name: "stacked",
    what: "two images are one volume, the later on top",
    concurrency: Concurrency::Parallel,
    run,
};

/// What a pod sees with the tools above the base.
const TOOLS_ON_TOP: &[(&str, &str)] = &[
    ("cat /work/both", "tools"),
    ("cat /work/base", "base"),
    ("cat /work/tools", "tools"),
    ("ls /work/merged", "base\ntools"),
    ("ls /work/opaque", "tools"),
    ("test -e /work/removed || echo none", "none"),
];

/// What a pod sees with the base above the tools: nothing of the base is hidden.
const BASE_ON_TOP: &[(&str, &str)] = &[
    ("cat /work/both", "base"),
    ("ls /work/merged", "base\ntools"),
    ("ls /work/opaque", "base\ntools"),
    ("cat /work/removed", "base"),
];

/// Writes to, over and across both.
const WRITES: &[(&str, &str)] = &[
    ("echo pod >> /work/both && cat /work/both", "tools\npod"),
    ("echo new > /work/merged/pod && ls /work/merged", "base\npod\ntools"),
    ("rm /work/base && mv /work/tools /work/moved && cat /work/moved", "tools"),
    ("mv /work/merged /work/elsewhere && ls /work/elsewhere", "base\npod\ntools"),
    ("echo again > /work/removed && cat /work/removed", "again"),
    ("ls /work", "both\nelsewhere\nmoved\nopaque\nremoved"),
];

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let registry = &ns.env.registry;
    let base = Layer::new().file("both", "base")?.file("base", "base")?.file("removed", "base")?;
    let base = base.dir("merged")?.file("merged/base", "base")?;
    let base = base.dir("opaque")?.file("opaque/base", "base")?;
    push(registry.here, "stacked/base:1", vec![base])?;
    let tools = Layer::new().file("both", "tools\n")?.file("tools", "tools")?;
    let tools = tools.file(".wh.removed", "")?.dir("merged")?.file("merged/tools", "tools")?;
    let tools = tools.dir("opaque")?.file("opaque/.wh..wh..opq", "")?;
    push(registry.here, "stacked/tools:1", vec![tools.file("opaque/tools", "tools")?])?;

    let (base, tools) = (registry.name("stacked/base:1"), registry.name("stacked/tools:1"));
    let pod = |name, images| Pod::new(name, json!({ "images": images }));
    ns.create(&pod("reversed", format!("{tools}\n{base}")))?;
    let uid = ns.start(&pod("stacked", format!("{base} {tools}")))?;
    ns.expect_output("stacked", TOOLS_ON_TOP)?;
    ns.expect_output("stacked", WRITES)?;
    let upper = ns.node("stacked")?.upper(&uid)?;
    ensure!(
        upper.iter().any(|line| line == "c base"),
        "the removed file left no whiteout: {upper:?}"
    );

    ns.ready("reversed").context("with the images the other way round")?;
    ns.expect_output("reversed", BASE_ON_TOP)
}
