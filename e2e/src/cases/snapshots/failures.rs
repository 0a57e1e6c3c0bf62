//! Failures while a snapshot is taken: the registry, the driver at each step, the controller. Each
//! snapshot becomes ready, or fails with a reason, and no pod stays frozen.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::cases::driver_pod::{replace_driver, restart_driver};
use crate::cases::writer::Writer;
use crate::cluster::registry_proxy::ProxyState;
use crate::env::chart::NAMESPACE;
use crate::env::namespace::TestNamespace;
use crate::env::pods::{POD_TIMEOUT, Pod};
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "snapshot-broken",
    what: "registry, driver and controller fail while snapshots are taken",
    concurrency: Concurrency::Exclusive,
    run: |ns| {
        let ran = run(ns);
        // The next case must find the proxy open.
        ns.env.proxies()?.controlled.set_state(ProxyState::Open);
        ran
    },
};

/// Large enough that packing takes a moment.
const LARGE: &str = "head -c 150000000 /dev/urandom > /work/large && echo whole > /work/whole";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (node, controlled) = (ns.env.worker(), &ns.env.proxies()?.controlled);
    let writer = Writer::start(ns)?;
    ns.start(&Pod::new("large", json!({ "image": ns.env.image })).on(&node.name))?;
    ns.shell("large", LARGE)?;

    // The registry is down. The snapshot can be used on its node, and is pushed when the registry
    // is back.
    controlled.set_state(ProxyState::Refusing);
    ns.request_snapshot("registry-down", "large", "controlled")?;
    ns.wait_for_annotation("registry-down", "phase", |phase| phase == "Pushing")?;
    ns.restore("meanwhile", "registry-down", &node.name)?;
    ns.expect_output("meanwhile", &[("cat /work/whole", "whole")])?;
    ns.delete("meanwhile")?;
    controlled.set_state(ProxyState::Open);
    ns.wait_snapshot_ready("registry-down").context("after the registry was down")?.image()?;

    controlled.set_state(ProxyState::Held);
    ns.request_snapshot("in-the-push", "large", "controlled")?;
    wait_for("the push to reach the registry", POD_TIMEOUT, || {
        Ok((controlled.held_requests() > 0).then_some(()))
    })?;
    replace_driver(ns.env, &node)?;
    controlled.set_state(ProxyState::Open);
    ns.wait_snapshot_ready("in-the-push").context("after the driver died in the push")?.image()?;
    writer.check_still_writing()?;

    ns.request_snapshot("in-the-pack", "large", "pushed")?;
    ns.wait_for_annotation("in-the-pack", "phase", |phase| phase == "Pushing" || phase == "Ready")?;
    replace_driver(ns.env, &node)?;
    ns.wait_snapshot_ready("in-the-pack").context("after the driver died in the pack")?.image()?;

    for (how, pod) in [("killed", "large"), ("killed", "writer"), ("ended", "large")] {
        let name = format!("{how}-in-the-capture-of-{pod}");
        ns.request_snapshot(&name, pod, "local")?;
        let object = format!("overlaysnapshot/{}", ns.get_snapshot(&name)?.id()?);
        ns.kubectl(&["wait", "--for=create", &object, "--timeout=60s"])?;
        match how {
            "killed" => replace_driver(ns.env, &node)?,
            _ => restart_driver(ns.env, &node)?,
        }
        let ended = ns
            .wait_snapshot_finished(&name)
            .with_context(|| format!("{how} in the capture of {pod}"))?;
        ensure!(ended.is_ready() || ended.annotation("message").is_some(), "no reason: {ended:?}");
        writer.check_still_writing()?;
    }

    ns.request_snapshot("without-controller", "writer", "pushed")?;
    let selector = "app.kubernetes.io/name=ovl-csi,app.kubernetes.io/component=controller";
    let delete = ["delete", "pods", "--namespace", NAMESPACE, "--selector", selector];
    ns.cluster().kubectl(&[&delete[..], &["--grace-period=0", "--force"]].concat())?;
    ns.wait_snapshot_ready("without-controller").context("after the controllers died")?;

    let other = &ns.env.cluster.nodes[0];
    for snapshot in ["registry-down", "in-the-push", "in-the-pack"] {
        let pod = format!("of-{snapshot}");
        ns.restore(&pod, snapshot, other)?;
        let facts = [("cat /work/whole; stat -c %s /work/large", "whole\n150000000")];
        ns.expect_output(&pod, &facts)?;
        ns.delete(&pod)?;
    }
    writer.finish()?;
    let frozen = node.frozen()?;
    ensure!(frozen.is_empty(), "still frozen: {frozen}");
    node.wait_until_staging_empty()
}
