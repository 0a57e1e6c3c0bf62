//! The API server, as far as it is asked: objects read, made, changed and watched, Events told, and who leads.
//!
//! Every answer of the API server becomes a [`ClusterError`] with a class here, so that nobody else reads status codes.
//!
//! May use: nothing
//!
//! Deliberately absent: what is worth an Event, what an object ought to be, and, but for Events, when to try again (`agent`,
//! `controller`).

mod client;
mod core_v1;
mod error;
mod events;
#[cfg(test)]
mod events_tests;
#[cfg(test)]
pub(crate) mod fake;
mod kind;
mod lease;
mod networks;
pub mod overlay_snapshot;
mod recorder;
mod report;
pub mod snapshot_api;
#[cfg(test)]
mod tests;
mod user;
mod watch;

pub use client::Client;
pub use core_v1::{NodeState, Pod, PodVolume, SecretData, SecretKind};
pub use error::ClusterError;
pub use events::Events;
pub use kind::Kind;
pub use lease::Lease;
pub use recorder::{About, Event, Severity};
pub use watch::{Change, Watch};
