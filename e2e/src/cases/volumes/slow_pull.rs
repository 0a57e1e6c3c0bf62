//! A pull that takes longer than the kubelet waits. It is one pull, the pod's Events report its
//! progress, and the pod starts.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::SLOW_LAYER;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::machine::progress::seconds;
use crate::oci::image::{Layer, push};

/// See the module.
pub const CASE: Case = Case {
    name: "slow-pull",
    what: "a pull takes longer than the kubelet waits",
    concurrency: Concurrency::FirstNode,
    run,
};

/// How long the kubelet waits for one call (csiTimeout in Kubernetes' pkg/volume/csi).
const KUBELET: Duration = seconds(120);

/// The longest that all of it may take: the slow layer, and the kubelet's backoff.
const LIMIT: Duration = seconds(420);

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let proxy = &ns.env.proxies()?.slow;
    let layer = |name: &str| Layer::new().noise(name, SLOW_LAYER, name);
    let blobs = push(ns.env.registry.here, "slow:1", vec![layer("one")?, layer("two")?])?;
    // The first node, which no other case disturbs.
    let pod = |name| {
        Pod::new(name, json!({ "image": proxy.name("slow:1") })).on(&ns.env.cluster.nodes[0])
    };
    ns.create(&pod("first"))?;
    ns.create(&pod("second"))?;
    ns.wait_for_event("first", &["Pulling", "of", "MiB|KiB"])?;
    ns.ready_within("first", LIMIT)?;
    ns.ready("second")?;
    let size = SLOW_LAYER.to_string();
    for name in ["first", "second"] {
        ns.expect_output(
            name,
            &[("stat -c %s /work/one", &size), ("stat -c %s /work/two", &size)],
        )?;
    }
    for blob in blobs {
        let passed = proxy.blob_stats(&blob);
        ensure!(passed.times == 1, "{blob} was fetched {} times", passed.times);
        ensure!(passed.took > KUBELET, "{blob} took {:?}: too fast for this test", passed.took);
    }
    Ok(())
}
