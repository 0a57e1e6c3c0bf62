//! The kubelet starts anew: the driver is registered with it again, by itself.

use anyhow::{Result, ensure};

use super::writer::{Writer, newcomer};
use super::{Case, When};
use crate::cluster::wait_for;
use crate::pods::{PATIENCE, Scene};

/// See the module.
pub const CASE: Case = Case {
    name: "kubelet-restarted",
    what: "the kubelet starts anew while a pod writes",
    when: When::Alone,
    play,
};

/// The kubelet's process on its node.
const PROCESS: &str = "systemctl show --property MainPID --value kubelet";

fn play(scene: &Scene<'_>) -> Result<()> {
    let writer = Writer::start(scene)?;
    let before = writer.node.shell(PROCESS)?;
    writer.node.shell("systemctl restart kubelet")?;
    wait_for("another kubelet", PATIENCE, || {
        let now = writer.node.shell(PROCESS)?;
        ensure!(now != before && now != "0", "its process is {now}, and was {before}");
        Ok(Some(()))
    })?;
    writer.goes_on()?;
    // Nothing is mounted by a kubelet that does not know the driver.
    newcomer(scene, "newcomer")?;
    writer.end()
}
