//! The driver refuses what the cluster administrator does not allow, and gives the reason.

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::cases::case::{Case, Concurrency};
use crate::env::environment::GUARDED;
use crate::env::namespace::TestNamespace;
use crate::env::pods::Pod;
use crate::oci::image::{Layer, push};

/// Images by name. Its namespace is the one that the values of the chart restrict.
pub const IMAGES: Case = Case {
    name: GUARDED,
    what: "an image that its namespace may not use is refused",
    concurrency: Concurrency::Parallel,
    run: images,
};

/// Pods with a user namespace, which overlay does not support.
pub const USERS: Case = Case {
    name: "host-users",
    what: "hostUsers: false is refused with the reason",
    concurrency: Concurrency::Parallel,
    run: users,
};

fn images(ns: &TestNamespace<'_>) -> Result<()> {
    let registry = &ns.env.registry;
    for name in ["allowed/image:1", "other/image:1"] {
        push(registry.here, name, vec![Layer::new().file("file", name)?])?;
    }
    let (allowed, other) = (registry.name("allowed/image:1"), registry.name("other/image:1"));
    let of = |images: &str| json!({ "images": images });
    let uid = ns.create(&Pod::new("other", of(&other)))?;
    let both = ns.create(&Pod::new("both", of(&format!("{allowed} {other}"))))?;
    ns.start(&Pod::new("allowed", of(&allowed)))?;
    ns.expect_output("allowed", &[("cat /work/file", "allowed/image:1")])?;
    for (pod, uid) in [("other", uid), ("both", both)] {
        ns.wait_for_event(pod, &["FailedMount", &other, "allow"])?;
        ns.node(pod)?.wait_until_removed(&uid)?;
    }
    Ok(())
}

fn users(ns: &TestNamespace<'_>) -> Result<()> {
    let pod = Pod::new("own-users", json!({ "image": ns.env.image }));
    match ns.create(&pod.with("/spec/hostUsers", json!(false))) {
        Ok(_) => bail!("the API server accepted a pod with hostUsers: false"),
        Err(error) => {
            let output = format!("{error:#}");
            let reason = output.contains("hostUsers") && output.contains("overlay");
            ensure!(reason, "it is refused without the reason: {output}");
        }
    }
    // The rule applies only to pods with such a volume.
    let pod = Pod::new("no-volume", json!({})).with("/spec/hostUsers", json!(false));
    let pod = pod.with("/spec/volumes", json!([]));
    let pod = pod.with("/spec/containers/0/volumeMounts", json!([]));
    ns.create(&pod).map(drop)
}
