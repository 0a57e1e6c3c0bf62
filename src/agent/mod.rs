//! The agent of a node: it carries out OverlaySnapshots and OverlayDiffs, resolves the snapshots that pods name, and emits Events on
//! pods.
//!
//! ```text
//! OverlaySnapshots of this node ── controller ──> one reconciler each ── engine ──> capture, squash, push, delete
//!                                                     │ spec     the checked values of the spec
//!                                                     └ status   the conditions and the phase
//! once an hour ── checks ──> is the pushed image in the registry? ── lost_image ──> the reconciler pushes it again
//! `ovl node-snapshot` on a node without a cluster ── local ── engine ──> the same
//! OverlayDiffs of this node ── diffs ── lookup, comparison ──> an OverlayDiffResult each
//! VolumeSnapshot ── lookup ──> its content ──> its OverlaySnapshot ──> the layers or the image for a volume
//! ```
//!
//! May use: cluster, volumes, snapshots, layers, changeset, image
//!
//! Deliberately absent: anything that a publish waits for, except the lookup of a snapshot. While the API server is
//! away, volumes without `snapshot` are published as before.

mod checks;
#[cfg(test)]
mod checks_tests;
mod controller;
mod diff_result;
mod diffs;
mod engine;
mod events;
mod finalize;
mod local;
mod lookup;
mod lost_image;
mod push;
mod pushes;
mod reconcile;
#[cfg(test)]
mod reconcile_tests;
mod shared;
mod spec;
mod status;

pub use controller::{Agent, Parts};
pub use local::{Failure, LocalAgent, LocalLookup, LocalParts, LocalSnapshot};
pub use lookup::SnapshotsByName;
