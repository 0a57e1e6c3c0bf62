//! Cases of volumes, one behaviour a file.

mod check;
mod driver_killed;
mod fifty_pods;
mod helm;
mod kubelet_restart;
mod lifecycle;
mod manifests;
mod node_proxy;
mod node_restart;
mod options;
mod owner;
mod policy;
mod private_registry;
mod pull_policy;
mod repaired;
mod slow_pull;
mod stacked_images;

use super::case::Case;

/// All of them.
pub const ALL: &[Case] = &[
    slow_pull::CASE,
    repaired::REPAIRED,
    private_registry::CASE,
    lifecycle::CASE,
    stacked_images::CASE,
    options::CASE,
    pull_policy::CASE,
    owner::CASE,
    repaired::ATTRIBUTES,
    policy::IMAGES,
    policy::USERS,
    manifests::CASE,
    check::CASE,
    fifty_pods::CASE,
    driver_killed::CASE,
    kubelet_restart::CASE,
    node_restart::CASE,
    helm::CASE,
];
