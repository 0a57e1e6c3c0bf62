//! What the node's engine and the cluster have to say to one another: notices become Events on pods, OverlaySnapshots are carried
//! out, and snapshots are found by the names that pods know them by.
//!
//! ```text
//! OverlaySnapshots of this node ── run ──> a worker for each that changed ── engine ──> cut, squash, push, remove
//!                                              │ order    what its spec means
//!                                              └ status   what is said of it
//! somebody on a node without a cluster ── local ── engine ──> the same
//! VolumeSnapshot ── lookup ──> its content ──> its OverlaySnapshot ──> what a volume can be made of
//! ```
//!
//! May use: cluster, volumes, snapshots, layers, image, changeset
//!
//! Deliberately absent: what a publish waits for, but for the lookup of a snapshot: the engine works the same while the API server
//! is away.

mod engine;
mod events;
mod leave;
mod local;
mod lookup;
mod order;
mod pushes;
mod run;
mod secret;
mod send;
mod status;
#[cfg(test)]
mod work_tests;
mod worker;

pub use local::{Failure, Local, LocalLookup, LocalParts, Told};
pub use lookup::SnapshotsByName;
pub use run::{Agent, Parts};
