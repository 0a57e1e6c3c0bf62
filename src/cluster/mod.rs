//! The API server, as far as a node asks it: Events on pods.
//!
//! Every answer of the API server becomes a [`ClusterError`] with a class here, so that nobody else reads status codes.
//!
//! May use: nothing
//!
//! Deliberately absent: what is worth an Event and when to try again (`agent`), and any watch or list: a node reads nothing.

mod client;
mod error;
mod events;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use error::ClusterError;
pub use events::{PodEvent, Recorder, Severity};
