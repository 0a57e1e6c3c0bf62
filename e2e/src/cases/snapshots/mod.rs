//! Snapshots, one theme a file.

mod attacks;
mod broken;
mod deep;
mod deleted;
mod fifty;
mod fork;
mod frozen;
mod life;
mod local;
mod owners;
mod run;
mod sanity;
mod tenants;
mod trees;

use super::Case;

/// All of them.
pub const ALL: &[Case] = &[
    tenants::CASE,
    deep::CASE,
    deleted::CASE,
    life::CASE,
    trees::PORTABLE,
    trees::NATIVE,
    run::CASE,
    owners::CASE,
    local::CASE,
    local::LOCKED,
    attacks::CASE,
    frozen::CASE,
    fork::CASE,
    deleted::GHOST,
    fifty::CASE,
    broken::CASE,
    sanity::CASE,
];
