//! What the node's engine needs of the cluster, carried out beside it: notices become Events on pods.
//!
//! May use: cluster, volumes
//!
//! Deliberately absent: what a call would wait for. The engine works the same while the API server is away.

mod events;
#[cfg(test)]
mod tests;

pub use events::Events;
