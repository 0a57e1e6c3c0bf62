//! Errors of the layer store: one enum per operation.

use std::{io, path::PathBuf};

use super::{FREE_DISK, key::LayerKey, lock_holders::LockHolders, reserve_error::ReserveError};
use crate::{
    changeset::UnpackError, digest::DiffId, erofs::WriteError, error::Class, format,
    sys::mounts::MountError,
};

/// The store cannot be opened, so the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file system operation failed.
    #[error("cannot open the store: {0}")]
    Disk(#[from] io::Error),
    /// The kernel accepts at most 255 bytes as the source of a mount.
    #[error(
        "the store's path {path} is too long for the kernel to mount layers from; use a shorter one",
        path = path.display()
    )]
    TooLong {
        /// The root directory of the store.
        path: PathBuf,
    },
    /// A node needs the store alone, and other processes use it.
    #[error(
        "the store {path} is in use by {by}, and a node needs its store alone; wait until no process uses it, or start \
         the node with another --root",
        path = path.display()
    )]
    InUse {
        /// The root directory of the store.
        path: PathBuf,
        /// The processes.
        by: LockHolders,
    },
    /// A node uses the store, and shares it with no other process.
    #[error(
        "the store {path} is in use by `ovl node` ({by}), and commands cannot use the store of a running node; use \
         another store (--root), or stop the node",
        path = path.display()
    )]
    OfNode {
        /// The root directory of the store.
        path: PathBuf,
        /// The process of the node.
        by: LockHolders,
    },
    /// The store was written by an unknown version.
    #[error("{path} is not a store that this version can use: {why}", path = path.display())]
    Unknown {
        /// The path of `store.json`.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl OpenError {
    /// The class of the failure for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Disk(source) => Class::of_disk(source),
            Self::InUse { .. } | Self::OfNode { .. } => Class::Busy,
            Self::TooLong { .. } | Self::Unknown { .. } => Class::Precondition,
        }
    }
}

/// A layer cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The download failed, or its bytes are not a layer.
    #[error("layer {diff_id}: {source}")]
    Unpack {
        /// The layer.
        diff_id: DiffId,
        /// What failed.
        source: UnpackError,
    },
    /// The bytes are another layer.
    #[error(
        "layer {expected}: its content has the diff ID {found}; the image's config and its layers \
         disagree: rebuild the image or push it again"
    )]
    DiffId {
        /// The diff ID in the image's config.
        expected: DiffId,
        /// The diff ID of the bytes that arrived.
        found: DiffId,
    },
    /// A layer below it cannot be opened.
    #[error("layer {diff_id} needs the layers below it: {source}")]
    LayerBelow {
        /// The layer.
        diff_id: DiffId,
        /// Why the layer below cannot be opened.
        source: LowerError,
    },
    /// A file system operation failed.
    #[error("layer {diff_id}: {source}")]
    Disk {
        /// The layer.
        diff_id: DiffId,
        /// The error of the operating system.
        source: io::Error,
    },
    /// No space could be reserved, at the start or when the layer grew.
    #[error("layer {diff_id}: {source}")]
    NoSpace {
        /// The layer.
        diff_id: DiffId,
        /// Why not, with the numbers.
        source: ReserveError,
    },
    /// The disk or its quota was used up while the layer was written, although space was reserved.
    #[error(
        "layer {diff_id}: the disk or quota of {dir} was used up while it was unpacked: {} were reserved for it, and \
         {} are free without it; {FREE_DISK}",
        format::bytes(*promised), format::bytes(*free), dir = dir.display()
    )]
    Filled {
        /// The layer.
        diff_id: DiffId,
        /// The root directory of the store.
        dir: PathBuf,
        /// Bytes that were reserved for it.
        promised: u64,
        /// Bytes that are free after its partial content was removed.
        free: u64,
    },
}

/// A garbage collection round that could not run; it removes no layer.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A record that may need layers cannot be read.
    #[error("garbage collection removes no layer in this round: {0}")]
    IncompleteRoots(String),
    /// A file system operation failed.
    #[error("garbage collection removes no layer in this round: {0}")]
    Disk(#[from] io::Error),
}

impl AddError {
    /// The failed reservation that caused it, or itself if there was none.
    pub(super) fn no_space(self) -> Result<ReserveError, Self> {
        let source = match self {
            Self::Unpack { source: UnpackError::Image(WriteError::Io(source)), .. }
            | Self::Unpack { source: UnpackError::Names(source), .. }
            | Self::Disk { source, .. }
                if ReserveError::within(&source).is_some() =>
            {
                source
            }
            other => return Err(other),
        };
        Ok(source.downcast().unwrap_or_else(ReserveError::Disk))
    }

    /// Whether the layer only needs the layers below it: then [`super::Layers::add_with_layers_below`] can add it.
    pub fn needs_layers_below(&self) -> bool {
        let Self::Unpack { source, .. } = self else { return false };
        matches!(source, UnpackError::LinkElsewhere { .. } | UnpackError::DirElsewhere { .. })
    }

    /// Whether the cause is the layer's content or its promised digest, so that another download fails in the same way.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Unpack { source: UnpackError::Blob(_), .. } => false,
            Self::Unpack { .. } if self.needs_layers_below() => false,
            Self::Unpack { source, .. } => {
                source.class() != Class::Exhausted && source.class() != Class::Internal
            }
            Self::DiffId { .. } => true,
            Self::LayerBelow { .. }
            | Self::Disk { .. }
            | Self::NoSpace { .. }
            | Self::Filled { .. } => false,
        }
    }

    /// The class of the failure for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Unpack { source, .. } => source.class(),
            Self::DiffId { .. } => Class::Corrupt,
            Self::LayerBelow { source, .. } => source.class(),
            Self::Disk { source, .. } => Class::of_disk(source),
            Self::NoSpace { source, .. } => source.class(),
            Self::Filled { .. } => Class::Exhausted,
        }
    }
}

/// A layer cannot be opened as a lower.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// The layer is not in the store.
    #[error("layer {0} is not in the store")]
    Absent(LayerKey),
    /// `ovl fsck --repair` has moved it away.
    #[error(
        "layer {key} was damaged or missing, and is in the quarantine {place}; why.json there says what was wrong; pull or import \
         its image again, or move the layer back to the directory that why.json names",
        place = place.display()
    )]
    Quarantined {
        /// The layer.
        key: LayerKey,
        /// Its entry in the quarantine.
        place: PathBuf,
    },
    /// Its `layer.json` cannot be read.
    #[error(
        "layer {key}: {source}; an administrator must stop the driver on this node and remove the layer's \
         directory, then it is pulled again"
    )]
    Metadata {
        /// The layer.
        key: LayerKey,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Its image has not the size that was written.
    #[error(
        "layer {key}: its image has {found} bytes, but {written} were written; an administrator must stop the \
         driver on this node and remove the layer's directory, then it is pulled again"
    )]
    Damaged {
        /// The layer.
        key: LayerKey,
        /// The size in `layer.json`, in bytes.
        written: u64,
        /// The size of the file, in bytes.
        found: u64,
    },
    /// It cannot be mounted.
    #[error("layer {key}: {source}")]
    Mount {
        /// The layer.
        key: LayerKey,
        /// The error of the kernel.
        source: MountError,
    },
}

impl LowerError {
    /// The class of the failure for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent(_) | Self::Quarantined { .. } => Class::Precondition,
            Self::Metadata { .. } | Self::Damaged { .. } => Class::Corrupt,
            Self::Mount { source, .. } => source.class(),
        }
    }
}

/// The record of an image cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot read or write an image record: {0}")]
pub struct ImagesError(#[from] io::Error);

impl ImagesError {
    /// The class of the failure for the caller.
    pub fn class(&self) -> Class {
        Class::of_disk(&self.0)
    }
}
