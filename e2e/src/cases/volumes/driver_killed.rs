//! The driver dies while a pod writes. The pod is not disturbed. The next driver serves new pods
//! and cleans up after old ones.

use anyhow::Result;

use crate::cases::case::{Case, Concurrency};
use crate::cases::driver_pod::DriverPod;
use crate::cases::writer::{Writer, start_another_pod};
use crate::env::chart::NAMESPACE;
use crate::env::namespace::TestNamespace;
use crate::env::pods::POD_TIMEOUT;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "driver-killed",
    what: "the driver dies twice while a pod writes",
    concurrency: Concurrency::Exclusive,
    run,
};

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let (env, writer) = (ns.env, Writer::start(ns)?);
    let node = writer.node.name.clone();
    let driver = DriverPod::on(env, &node)?;
    let delete =
        ["delete", "pod", &driver.pod, "--namespace", NAMESPACE, "--grace-period=0", "--force"];
    env.cluster.kubectl(&delete)?;
    let driver = wait_for("another driver's pod", POD_TIMEOUT, || {
        Ok(DriverPod::ready_on(env, &node)?.filter(|new| new.uid != driver.uid))
    })?;
    writer.check_still_writing()?;

    writer.node.kill_driver()?;
    wait_for("the driver's container to be started again", POD_TIMEOUT, || {
        let now = DriverPod::ready_on(env, &node)?;
        Ok(now.filter(|now| now.uid == driver.uid && now.restarts > driver.restarts))
    })?;
    writer.check_still_writing()?;
    start_another_pod(ns, "newcomer")?;
    let node = writer.node.clone();
    writer.finish()?;
    node.wait_until_staging_empty()
}
