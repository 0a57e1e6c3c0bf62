//! The kubelet restarts. The driver registers with it again by itself.

use anyhow::{Result, ensure};

use crate::cases::case::{Case, Concurrency};
use crate::cases::writer::{Writer, start_another_pod};
use crate::env::namespace::TestNamespace;
use crate::env::pods::POD_TIMEOUT;
use crate::machine::wait::wait_for;

/// See the module.
pub const CASE: Case = Case {
    name: "kubelet-restarted",
    what: "the kubelet restarts while a pod writes",
    concurrency: Concurrency::Exclusive,
    run,
};

/// Prints the kubelet's process on its node.
const PROCESS: &str = "systemctl show --property MainPID --value kubelet";

fn run(ns: &TestNamespace<'_>) -> Result<()> {
    let writer = Writer::start(ns)?;
    let before = writer.node.shell(PROCESS)?;
    writer.node.shell("systemctl restart kubelet")?;
    wait_for("another kubelet", POD_TIMEOUT, || {
        let now = writer.node.shell(PROCESS)?;
        ensure!(now != before && now != "0", "its process is {now}, and was {before}");
        Ok(Some(()))
    })?;
    writer.check_still_writing()?;
    // A kubelet that does not know the driver mounts nothing.
    start_another_pod(ns, "newcomer")?;
    writer.finish()
}
