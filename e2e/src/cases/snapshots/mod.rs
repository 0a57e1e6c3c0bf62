//! Cases of snapshots, one behaviour a file.

mod authorization;
mod content_names;
mod csi_sanity;
mod deletion;
mod diff;
mod failures;
mod fifty;
mod file_trees;
mod fork;
mod freeze;
mod lifecycle;
mod lost_image;
mod nested;
mod node_local;
mod owners;
mod plugin;
mod roles;
mod run_as_image;
mod tenants;

use crate::cases::case::Case;

/// All of them.
pub const ALL: &[Case] = &[
    tenants::CASE,
    nested::CASE,
    deletion::CASE,
    diff::CASE,
    lifecycle::CASE,
    file_trees::PORTABLE,
    file_trees::NATIVE,
    run_as_image::CASE,
    owners::CASE,
    plugin::CASE,
    roles::CASE,
    content_names::CASE,
    node_local::CASE,
    node_local::LOCKED,
    authorization::CASE,
    freeze::CASE,
    fork::CASE,
    deletion::GHOST,
    fifty::CASE,
    failures::CASE,
    csi_sanity::CASE,
    lost_image::CASE,
];
