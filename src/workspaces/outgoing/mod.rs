//! Images that leave the store: states of the store as images in files, and in registries.
//!
//! ```text
//! SRC ── source ──► OutgoingImage ── pack ──► the tar of each layer ──► a blob of the destination
//!                        └───────── describe ──► config, manifest      layout, docker: files; push: a registry
//! ```
//!
//! Only the tree of a layer is in the store, not its tar. So the tar is made again. If its diff ID is another one than that
//! of the tar from which the layer came, the new image has the new one: a blob is always named by the digest of its bytes.
//!
//! Nothing shows before it is whole: an archive has a temporary name, and a layout is changed by the rename of its index.
//!
//! Deliberately absent: native layers, which only this driver reads.

mod describe;
mod destination;
mod docker;
mod error;
mod export;
mod layout;
mod layout_dir;
mod new_file;
mod push;
mod source;
#[cfg(test)]
mod tests;

pub use destination::Destination;
pub use error::OutgoingError;
pub use source::OutgoingImage;

use crate::digest::ManifestDigest;

/// An image that was written or pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The digest of its manifest. Of a docker archive, which has none: of its config.
    pub digest: ManifestDigest,
    /// The number of its layers.
    pub layers: usize,
    /// How many of them have another diff ID than the tar from which they came.
    pub new_diff_ids: usize,
    /// The bytes that were written or sent.
    pub bytes: u64,
}
