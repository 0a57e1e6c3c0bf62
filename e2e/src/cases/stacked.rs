//! Two images in one volume: the later covers the earlier, whichever that is, and both are there to write to.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Case, When};
use crate::oci::{Layer, push};
use crate::pods::{Pod, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "stacked",
    what: "two images are one volume, the later on top",
    when: When::Together,
    play,
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

/// And with the base above the tools: nothing of the base is hidden.
const BASE_ON_TOP: &[(&str, &str)] = &[
    ("cat /work/both", "base"),
    ("ls /work/merged", "base\ntools"),
    ("ls /work/opaque", "base\ntools"),
    ("cat /work/removed", "base"),
];

/// Writing to, over and across both; `$?` of each is in the answer.
const WRITES: &[(&str, &str)] = &[
    ("echo pod >> /work/both && cat /work/both", "tools\npod"),
    ("echo new > /work/merged/pod && ls /work/merged", "base\npod\ntools"),
    ("rm /work/base && mv /work/tools /work/moved && cat /work/moved", "tools"),
    ("mv /work/merged /work/elsewhere && ls /work/elsewhere", "base\npod\ntools"),
    ("echo again > /work/removed && cat /work/removed", "again"),
    ("ls /work", "both\nelsewhere\nmoved\nopaque\nremoved"),
];

fn play(scene: &Scene<'_>) -> Result<()> {
    let registry = &scene.stage.registry;
    let base = Layer::new().file("both", "base")?.file("base", "base")?.file("removed", "base")?;
    let base = base.folder("merged")?.file("merged/base", "base")?;
    let base = base.folder("opaque")?.file("opaque/base", "base")?;
    push(registry.here, "stacked/base:1", vec![base])?;
    let tools = Layer::new().file("both", "tools\n")?.file("tools", "tools")?;
    let tools = tools.file(".wh.removed", "")?.folder("merged")?.file("merged/tools", "tools")?;
    let tools = tools.folder("opaque")?.file("opaque/.wh..wh..opq", "")?;
    push(registry.here, "stacked/tools:1", vec![tools.file("opaque/tools", "tools")?])?;

    let (base, tools) = (registry.name("stacked/base:1"), registry.name("stacked/tools:1"));
    let pod = |name, images| Pod::new(name, json!({ "images": images }));
    scene.make(&pod("reversed", format!("{tools}\n{base}")))?;
    let uid = scene.start(&pod("stacked", format!("{base} {tools}")))?;
    scene.facts("stacked", TOOLS_ON_TOP)?;
    scene.facts("stacked", WRITES)?;
    let upper = scene.node("stacked")?.upper(&uid)?;
    ensure!(upper.iter().any(|line| line == "c base"), "what was removed left no mark: {upper:?}");

    scene.ready("reversed").context("with the images the other way round")?;
    scene.facts("reversed", BASE_ON_TOP)
}
