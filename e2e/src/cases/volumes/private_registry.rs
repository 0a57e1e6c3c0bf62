//! A private registry. A pod with the Secret gets the image. A pod without it is refused, although
//! the layers are on its node.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::cluster::registry_proxy::PASSWORD;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::oci::image::{Layer, push};

/// See the module.
pub const CASE: Case = Case {
    name: "private",
    what: "a private image needs its Secret",
    concurrency: Concurrency::Parallel,
    run,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let proxies = ns.env.proxies()?;
    for (way, proxy) in [("basic", &proxies.basic), ("bearer", &proxies.bearer)] {
        let layer = Layer::new().file("file", way)?;
        let image = format!("private/{way}:1");
        let blobs = push(ns.env.registry.here, &image, vec![layer])?;
        let attributes = json!({ "image": proxy.name(&image) });
        let pod = |name: &str| Pod::new(&format!("{way}-{name}"), attributes.clone());
        let (key, wrong) = (format!("{way}-key"), format!("{way}-wrong"));
        ns.docker_secret(&key, &proxy.docker_config(PASSWORD))?;
        ns.docker_secret(&wrong, &proxy.docker_config("a-wrong-one"))?;

        ns.start(&pod("with").secret(&key))?;
        ns.expect_output(&format!("{way}-with"), &[("cat /work/file", way)])?;
        let node = ns.node(&format!("{way}-with"))?;
        let without = ns.create(&pod("without").on(&node.name))?;
        let mistaken = ns.create(&pod("mistaken").secret(&wrong).on(&node.name))?;
        ns.start(&pod("again").secret(&key).on(&node.name))?;
        for (name, uid) in [("without", &without), ("mistaken", &mistaken)] {
            let name = format!("{way}-{name}");
            ns.wait_for_event(
                &name,
                &["FailedMount", &image, "credential|secret|password|denied|401"],
            )?;
            node.wait_until_removed(uid)?;
        }
        for blob in blobs {
            let times = proxy.blob_stats(&blob).times;
            ensure!(times == 1, "by {way}, the layer was fetched {times} times for two pods");
        }
    }
    Ok(())
}
