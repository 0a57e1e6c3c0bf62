//! What is asked for is what is mounted: each attribute is seen in the node's mount table.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Case, When};
use crate::look::Mount;
use crate::pods::{Pod, Scene};

/// See the module.
pub const CASE: Case =
    Case { name: "options", what: "every option is seen in the mount", when: When::Together, play };

/// A pod's name, one attribute of its volume with its value, what the mount then has and has not.
/// Kernels call one option by one name or another (`|`), and leave out what is their own default.
type Row =
    (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const ROWS: &[Row] = &[
    (
        "defaults",
        "volatile",
        "false",
        &["nosuid", "nodev", "rw", "redirect_dir=on", "metacopy=on"],
        &["volatile", "fsync=volatile", "noexec", "index=on", "nfs_export=on", "xino=on"],
    ),
    ("volatile", "volatile", "true", &["volatile|fsync=volatile"], &[]),
    ("no-metacopy", "metacopy", "off", &[], &["metacopy=on"]),
    ("no-redirects", "redirectDir", "off", &[], &["redirect_dir=on"]),
    ("index", "index", "on", &["index=on"], &[]),
    ("mount-options", "mountOptions", "noexec,noatime", &["noexec", "noatime"], &[]),
];

fn play(scene: &Scene<'_>) -> Result<()> {
    let attributes = |key: &str, value: &str| json!({ "image": scene.stage.image, key: value });
    for (pod, key, value, ..) in ROWS {
        scene.make(&Pod::new(pod, attributes(key, value)))?;
    }
    let read_only = Pod::new("read-only", json!({ "image": scene.stage.image }));
    scene.make(&read_only.with("/spec/volumes/0/csi/readOnly", Value::Bool(true)))?;
    for (pod, key, value, with, without) in ROWS {
        scene.ready(pod).with_context(|| format!("with {key}: {value}"))?;
        check(&scene.mount(pod)?, with, without).with_context(|| format!("{key}: {value}"))?;
        let written = scene.shell(pod, "echo new > /work/demo/hello && cat /work/demo/hello")?;
        ensure!(written == "new", "with {key}: {value}, what was written reads `{written}`");
    }
    scene.ready("read-only")?;
    let mount = scene.mount("read-only")?;
    check(&mount, &["ro"], &["rw"]).context("readOnly: true")?;
    ensure!(mount.value("upperdir").is_none(), "a volume only to be read has an upper: {mount:?}");
    scene.facts("read-only", &[("touch /work/new 2>/dev/null || echo refused", "refused")])
}

fn check(mount: &Mount, with: &[&str], without: &[&str]) -> Result<()> {
    for option in with {
        let there = option.split('|').any(|option| mount.has(option));
        ensure!(there, "no {option} in {mount:?}");
    }
    for option in without {
        ensure!(!mount.has(option), "{option} in {mount:?}");
    }
    Ok(())
}
