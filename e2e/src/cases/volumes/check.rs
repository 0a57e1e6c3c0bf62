//! `ovl check` as the README runs it: in the driver's pod, and on a node from outside of the driver.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cases::case::{Case, Concurrency};
use crate::cases::driver_pod::DriverPod;
use crate::env::chart::NAMESPACE;
use crate::env::namespace::TestNamespace;
use crate::env::node::STORE;
use crate::env::pods::POD_TIMEOUT;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "check",
    what: "`ovl check` by kubectl exec and by kubectl debug",
    concurrency: Concurrency::Parallel,
    run,
};

/// The directory of the stores, where kubectl mounts the node's file system.
const ON_HOST: &str = "/host/var/lib/ovl-csi";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let node = ns.env.worker().name;
    let driver = DriverPod::on(ns.env, &node)?.pod;
    let exec = ["exec", "--namespace", NAMESPACE, &driver, "--", "ovl", "check"];
    expect_usable(&ns.cluster().kubectl(&exec)?, STORE)?;

    let (target, image) = (format!("node/{node}"), format!("--image={}", ns.env.driver_image()));
    let check = ["--", "ovl", "check", "--root", ON_HOST];
    ns.kubectl(&[&["debug", &target, "--profile=sysadmin", &image][..], &check].concat())?;
    let pods = ns.json(&["get", "pods"])?;
    let pods = pods["items"].as_array().into_iter().flatten();
    let mut names = pods.filter_map(|pod| pod["metadata"]["name"].as_str());
    let pod = names.find(|name| name.starts_with("node-debugger-"));
    let pod = pod.context("kubectl created no pod")?;
    wait_for("the end of the check", POD_TIMEOUT, || {
        let pod = ns.json(&["get", "pod", pod])?;
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        ensure!(phase != "Failed", "the check failed: {pod}");
        Ok((phase == "Succeeded").then_some(()))
    })?;
    expect_usable(&ns.kubectl(&["logs", pod])?, ON_HOST)?;
    ns.kubectl(&["delete", "pod", pod]).map(drop)
}

/// Checks the report about a directory that is fine.
fn expect_usable(report: &str, root: &str) -> Result<()> {
    ensure!(report.contains(&format!("\nstore   {root}\n")), "another directory:\n{report}");
    let last = report.lines().last().unwrap_or_default();
    ensure!(last.starts_with("usable: "), "it is not usable:\n{report}");
    Ok(())
}
