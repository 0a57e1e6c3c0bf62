//! The Kubernetes API client: reads, writes and watches objects, records Events and elects a leader.
//!
//! It defines the OverlaySnapshot CRD (`overlay_snapshot`) and the types of snapshot.storage.k8s.io (`snapshot_api`),
//! writes Secrets (`core_v1`), and wraps kube's `applier` for the loop of the controller (`reconcile`).
//!
//! This module turns every failed request into a [`ClusterError`] with a class. No other module reads HTTP status
//! codes.
//!
//! May use: nothing
//!
//! Deliberately absent: which Events to record, what an object should contain and, except for Events, watches and the
//! election, when to retry (`agent`, `controller`).

pub mod annotation_keys;
mod api;
mod client;
mod core_v1;
mod error;
mod events;
#[cfg(test)]
mod events_tests;
#[cfg(test)]
pub(crate) mod fake;
mod kubeconfig;
mod lease;
mod networks;
pub mod overlay_diff;
pub mod overlay_snapshot;
mod reconcile;
mod recorder;
pub mod snapshot_api;
mod status;
#[cfg(test)]
mod tests;
mod untyped;
mod watch;

pub use api::Kind;
pub use client::Client;
pub use core_v1::{NodeState, Pod, PodVolume, SecretData, SecretKind};
pub use error::ClusterError;
pub use events::Events;
pub use kubeconfig::{BearerToken, Connection};
pub use lease::Lease;
pub use reconcile::{Action, Values};
pub use recorder::{Event, EventType, Regarding};
pub use untyped::{JsonKind, Selection};
pub use watch::{Change, Watch};
