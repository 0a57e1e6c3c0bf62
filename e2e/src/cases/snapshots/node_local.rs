//! Where a snapshot can be used: one that was not pushed, only on its node; one in a registry with
//! a password, by pods with the password.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::PASSWORD;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::env::snapshots;

/// Without a repository.
pub const CASE: Case = Case {
    name: "snapshot-local",
    what: "a snapshot that was not pushed works only on its node",
    concurrency: Concurrency::Parallel,
    run,
};

/// With a password.
pub const LOCKED: Case = Case {
    name: "snapshot-locked",
    what: "a snapshot is pushed to a registry with a password",
    concurrency: Concurrency::Parallel,
    run: locked,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (other, worker) = (&ns.env.cluster.nodes[0], ns.env.worker());
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker.name))?;
    ns.shell("source", "echo kept > /work/note")?;
    let taken = ns.snapshot("ws", "source", "local")?;
    ensure!(taken.image().is_err(), "it was pushed: {taken:?}");
    // Its pod is gone; the snapshot is not.
    ns.delete("source")?;
    let far = ns.create(&Pod::new("far", snapshots::volume_attributes("ws")).on(other))?;
    ns.restore("near", "ws", &worker.name)?;
    ns.expect_output("near", &[("cat /work/note", "kept")])?;
    ns.wait_for_event("far", &["FailedMount", "ws", &worker.name, "push"])?;
    ns.node("far")?.wait_until_removed(&far)
}

fn locked(ns: &TestNamespace<'_>) -> Result<()> {
    let (other, worker) = (&ns.env.cluster.nodes[0], ns.env.worker());
    let proxy = &ns.env.proxies()?.basic;
    ns.start(&Pod::new("source", json!({ "image": ns.env.image })).on(&worker.name))?;
    ns.shell("source", "echo kept > /work/note")?;
    let taken = ns.snapshot("ws", "source", "locked")?;
    ensure!(taken.image()?.starts_with(&proxy.host), "pushed to {:?}", taken.image());
    let object = ns.overlay_snapshot(&taken.id()?)?.to_string();
    ensure!(!object.contains(PASSWORD), "the OverlaySnapshot has the password: {object}");

    ns.docker_secret("key", &proxy.docker_config(PASSWORD))?;
    let pod = |name: &str| Pod::new(name, snapshots::volume_attributes("ws")).on(other);
    ns.start(&pod("with").secret("key"))?;
    ns.expect_output("with", &[("cat /work/note", "kept")])
}
