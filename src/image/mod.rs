//! Registry client: resolves image references, pulls blobs with verified digests, and pushes blobs and manifests.
//!
//! ```text
//! Reference ── Registries::resolve ──> Image { layers, bottom first } ── Registries::blob ──> BlobReader
//!                  │ hosts            the servers of a registry, mirrors first (hosts_file: a hosts.toml; tls: CAs …)
//!                  │ candidates       each server with each credential that the keyring has for it
//!                  │ transport        one request (request): token (auth), redirects, retries (retry), limits
//!                  │ suspect_mirrors  the servers to try last for a blob that they did not deliver correctly
//!                  │ addresses        the addresses that are never contacted
//!                  │ route            whether a request goes to a proxy (clients: with which HTTP client)
//!                  │ resolve          one document after the other; HEAD first where the digest of a tag is known
//!                  │ manifest         parses manifests (platform: the entry for this host; config: the fields we keep)
//!                  │ min_throughput   the minimum speed of a download
//!
//! Repository ── Registries::{has_blob, has_manifest, mount_blob, push_blob, push_manifest, delete_manifest} (push)
//!                  │ upload           the upload of one blob, resumed where it broke off
//!                  │ body             the body of a request, and whether the server still reads it
//!
//! "oci:/path" ──── Local::open ──> LocalImage { layers, bottom first } ── Local::blob ──> LocalBlob
//!                  │ layout           an OCI layout, a directory or a tar; docker: an archive of `docker save`
//!
//! NewConfig, new_manifest: the documents of an image that is pushed or written
//! ```
//!
//! Everything that a registry sends or a file contains is untrusted input: it is limited in size, it is checked against
//! the digest that led to it, and no message quotes it. A secret is sent only to the server that its key names.
//! Deliberately absent: writes to disk, and decompression. A pod names a
//! [`Reference`], which never leads to a file of the node.
//!
//! May use: changeset

mod addresses;
mod advice;
mod annotations;
mod auth;
mod blob;
mod body;
mod candidates;
mod clients;
mod config;
mod docker;
mod endpoint;
mod error;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hosts;
mod hosts_error;
mod hosts_file;
mod keyring;
mod layout;
mod local;
mod local_files;
mod manifest;
mod min_throughput;
mod networks;
mod new_config;
mod new_manifest;
mod platform;
#[cfg(test)]
mod private_tests;
mod proxy_fault;
#[cfg(test)]
mod proxy_tests;
#[cfg(test)]
mod published_tests;
mod pull_policy;
mod push;
#[cfg(test)]
mod push_tests;
mod refusal;
mod registries;
mod request;
mod resolve;
mod retry;
mod rewrite;
mod route;
mod secret;
mod suspect_mirrors;
mod target;
mod tls;
#[cfg(test)]
mod tls_tests;
mod transport;
mod upload;
#[cfg(test)]
mod upload_tests;

pub use blob::BlobReader;
pub use clients::SetUpError;
pub use error::ImageError;
pub use hosts::Hosts;
pub use hosts_error::HostsError;
pub use keyring::{Access, Keyring, KeyringError};
pub use local::{Local, LocalBlob};
pub use local_files::{LocalError, LocalImage};
pub use networks::{Network, NetworkError};
pub use new_config::NewConfig;
pub use new_manifest::{NewLayerBlob, new_manifest};
pub use platform::architecture;
pub use pull_policy::PullPolicy;
pub use registries::Registries;
pub use resolve::KnownImage;

use crate::{
    digest::{BlobDigest, DiffId, ManifestDigest},
    media_type::{Compression, Format},
    reference::{Reference, Repository},
};

/// A resolved image: the manifest for this host, with its config and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The reference that was resolved.
    pub reference: Reference,
    /// Digest of the manifest for this host. Where the reference names an index, this is the manifest chosen from it.
    pub digest: ManifestDigest,
    /// Digest of the index that the reference names; `None` where it names a manifest.
    pub index: Option<ManifestDigest>,
    /// The credential that the registry required for the image's documents.
    pub access: Access,
    /// The fields of the config (image-spec, config.md) that the image of a snapshot inherits: JSON, at most 64 KiB
    /// plus the diff IDs.
    pub config: String,
    /// Digest of the complete config.
    pub config_digest: BlobDigest,
    /// Bottom first, as in the manifest. Empty and repeated layers are kept.
    pub layers: Vec<LayerBlob>,
}

/// One layer, as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the blob, compressed as it is stored in the registry.
    pub digest: BlobDigest,
    /// Size of the blob in bytes, compressed as it is stored in the registry.
    pub size: u64,
    /// Media type in the manifest; empty for a layer of a docker archive.
    pub media_type: String,
    /// How the layer represents whiteouts and the like; the media type says it.
    pub format: Format,
    /// Compression of the tar.
    pub compression: Compression,
    /// Digest of the uncompressed tar, as the image's config claims. The code that unpacks the layer checks it.
    pub diff_id: DiffId,
}
