//! Resolves references and streams blobs whose digests are checked on the way.
//!
//! ```text
//! Reference ── Registries::resolve ──> Image { layers, bottom first } ── Registries::blob ──> BlobReader
//!                  │ hosts      whom to ask, mirrors first
//!                  │ transport  one GET: token (auth), redirects, retries (pace), bounds
//!                  │ doubts     whom to ask last for a blob that went wrong
//!                  │ policy     whom not to contact, whoever says so
//!                  │ manifest   what the bytes say; platform: which of an index is ours
//!                  │ flow       whether a blob still comes
//! ```
//!
//! Everything that a registry sends is a stranger's: bounded, checked against the digest that led to it, and
//! never quoted in a message. Deliberately absent: anything on disk; this room stores nothing, and decompresses
//! nothing.
//!
//! May use: changeset

mod auth;
mod blob;
mod doubts;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod flow;
mod hosts;
mod manifest;
mod pace;
mod platform;
mod policy;
mod reference;
mod registries;
mod transport;

pub use blob::BlobReader;
pub use error::ImageError;
pub use hosts::{Hosts, HostsError};
pub use reference::{Reference, ReferenceError};
pub use registries::Registries;
pub use transport::SetUpError;

use crate::{changeset::Compression, digest::Digest};

/// An image as this machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What was asked for.
    pub reference: Reference,
    /// The manifest for this machine; for an index the one it leads to.
    pub digest: Digest,
    /// Bottom first, as in the manifest. Empty and repeated layers are kept.
    pub layers: Vec<LayerBlob>,
}

/// One layer as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Of the bytes that travel.
    pub digest: Digest,
    /// Of the bytes that travel.
    pub size: u64,
    /// What is around the tar.
    pub compression: Compression,
    /// Of the tar, as the image's config claims; whoever unpacks it checks.
    pub diff_id: Digest,
}
