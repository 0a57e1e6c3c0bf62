//! What must hold on a real cluster. Each case runs in a namespace of its own in a test environment, and leaves the
//! environment as it was.
//!
//! Deliberately absent: order. No case builds on another. [`Concurrency`] says which of them run at the same time.
//!
//! May use: machine, toolchain, oci, pages, cluster, env, report

mod case;
mod driver_pod;
mod metrics;
mod pages;
mod snapshots;
mod volumes;
mod writer;

pub use case::{Case, Concurrency};

/// All cases, the long ones first.
pub fn all() -> impl Iterator<Item = &'static Case> {
    snapshots::ALL.iter().chain(pages::ALL).chain(volumes::ALL).chain(metrics::ALL)
}
