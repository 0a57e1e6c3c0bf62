//! The mount has the requested options: each attribute is visible in the node's mount table.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cases::case::{Case, Concurrency};
use crate::env::namespace::TestNamespace;
use crate::env::node::Mount;
use crate::env::pods::Pod;

/// See the module.
pub const CASE: Case = Case {
    name: "options",
    what: "every option is seen in the mount",
    concurrency: Concurrency::Parallel,
    run,
};

/// A pod's name, one attribute of its volume with its value, the options that the mount has, and
/// those that it does not have. Kernels have different names for one option (`|`), and do not show
/// their defaults.
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

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let attributes = |key: &str, value: &str| json!({ "image": ns.env.image, key: value });
    for (pod, key, value, ..) in ROWS {
        ns.create(&Pod::new(pod, attributes(key, value)))?;
    }
    let read_only = Pod::new("read-only", json!({ "image": ns.env.image }));
    ns.create(&read_only.with("/spec/volumes/0/csi/readOnly", Value::Bool(true)))?;
    for (pod, key, value, with, without) in ROWS {
        ns.ready(pod).with_context(|| format!("with {key}: {value}"))?;
        check(&ns.mount(pod)?, with, without).with_context(|| format!("{key}: {value}"))?;
        let written = ns.shell(pod, "echo new > /work/demo/hello && cat /work/demo/hello")?;
        ensure!(written == "new", "with {key}: {value}, what was written reads `{written}`");
    }
    ns.ready("read-only")?;
    let mount = ns.mount("read-only")?;
    check(&mount, &["ro"], &["rw"]).context("readOnly: true")?;
    ensure!(mount.value("upperdir").is_none(), "a volume only to be read has an upper: {mount:?}");
    ns.expect_output("read-only", &[("touch /work/new 2>/dev/null || echo refused", "refused")])
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
