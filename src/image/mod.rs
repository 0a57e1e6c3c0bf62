//! Resolves references, and streams blobs whose digests are checked on the way; takes blobs and manifests back.
//!
//! ```text
//! Reference ── Registries::resolve ──> Image { layers, bottom first } ── Registries::blob ──> BlobReader
//!                  │ hosts      whom to ask, mirrors first (hosts_file: what a file says; reach: CAs and the like)
//!                  │ attempts   each of them with the secrets that the keyring has for it
//!                  │ transport  one request (ask): token (auth), redirects, retries (pace), bounds
//!                  │ doubts     whom to ask last for a blob that went wrong
//!                  │ policy     whom not to contact, whoever says so
//!                  │ resolve    document after document; HEAD first where a tag is known
//!                  │ manifest   what the bytes say; platform: which of an index is ours; config: what is kept of it
//!                  │ flow       whether a blob still comes
//!
//! Repository ── Registries::{has_blob, mount_blob, push_blob, push_manifest, delete_manifest} (push)
//!                  │ upload     one blob's upload, taken up where it broke off
//!                  │ payload    what goes with a request, and whether it still goes
//!
//! "oci:/path" ──── Local::open ──> LocalImage { layers, bottom first } ── Local::blob ──> LocalBlob
//!                  │ layout     a folder of blobs; docker: an archive of `docker save`
//! ```
//!
//! Everything that a registry sends or a file holds is a stranger's: bounded, checked against the digest that led
//! to it, and never quoted in a message. Secrets are a tenant's: shown to nobody but the server that they are for.
//! Deliberately absent: anything written to disk; this room stores nothing, and decompresses nothing. A pod names
//! a [`Reference`], which never leads to a file of the node.
//!
//! May use: changeset

mod annotations;
mod ask;
mod attempts;
mod auth;
mod blob;
mod config;
mod docker;
mod doubts;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod flow;
mod hosts;
mod hosts_error;
mod hosts_file;
mod keyring;
mod layout;
mod local;
mod manifest;
mod networks;
mod pace;
mod payload;
mod platform;
mod policy;
#[cfg(test)]
mod private_tests;
#[cfg(test)]
mod published_tests;
mod push;
#[cfg(test)]
mod push_tests;
mod reach;
mod reference;
mod registries;
mod repository;
mod resolve;
mod rewrite;
mod secret;
#[cfg(test)]
mod tls_tests;
mod transport;
mod upload;
#[cfg(test)]
mod upload_tests;

pub use blob::BlobReader;
pub use error::ImageError;
pub use hosts::Hosts;
pub use hosts_error::HostsError;
pub use keyring::{Access, Keyring, KeyringError};
pub use local::{Local, LocalBlob, LocalError, LocalImage};
pub use networks::{Network, NetworkError};
pub use platform::architecture;
pub use reference::{Reference, ReferenceError};
pub use registries::Registries;
pub use repository::Repository;
pub use resolve::Known;
pub use transport::SetUpError;

use crate::{
    changeset::{Compression, Format},
    digest::Digest,
};

/// An image as this machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What was asked for.
    pub reference: Reference,
    /// The manifest for this machine; for an index the one it leads to.
    pub digest: Digest,
    /// The index that the reference means, if it means one.
    pub index: Option<Digest>,
    /// As whom its manifest was read.
    pub access: Access,
    /// The fields of its config (image-spec, config.md) that a snapshot's image goes on from: JSON, at most 64 KiB beside the
    /// diff ids.
    pub config: String,
    /// The digest of the whole config.
    pub config_digest: Digest,
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
    /// As the manifest has it.
    pub media_type: String,
    /// What its whiteouts and the like look like, by its media type.
    pub format: Format,
    /// What is around the tar.
    pub compression: Compression,
    /// Of the tar, as the image's config claims; whoever unpacks it checks.
    pub diff_id: Digest,
}
