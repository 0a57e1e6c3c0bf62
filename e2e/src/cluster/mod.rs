//! A Kubernetes cluster of two nodes, with its prerequisites and its registry.
//!
//! ```text
//! lifecycle ──> kind ─┬─> prerequisites ──> node_image, kubectl, preflight ──> engine      A ──> B: A uses B
//!     │    registry ──┘
//!     └──> snapshotter     registry_proxy ──> engine
//! ```
//!
//! Deliberately absent: the driver.
//!
//! May use: machine, toolchain, oci

pub mod cleanup;
pub mod engine;
pub mod kind;
mod kubectl;
pub mod lifecycle;
mod node_image;
mod pod_network;
mod preflight;
pub mod prerequisites;
pub mod purpose;
pub mod registry;
pub mod registry_proxy;
pub mod snapshotter;
