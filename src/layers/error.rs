//! What can go wrong in the store, an enum for each operation.

use std::{io, path::PathBuf};

use super::ReserveError;
use crate::{
    changeset::UnpackError, digest::Digest, erofs::WriteError, error::Class,
    sys::mounts::MountError,
};

/// The store cannot be opened; the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk said no.
    #[error("store: {0}")]
    Disk(#[from] io::Error),
    /// The kernel takes no more than 255 bytes as the source of a mount.
    #[error("the store's path {path} is too long for the kernel to mount layers from; use a shorter one", path = path.display())]
    TooLong {
        /// The store.
        path: PathBuf,
    },
    /// Somebody else holds the store.
    #[error("{path} is locked: another ovl process uses this store; stop it, or give this one another --root", path = .0.display())]
    Locked(PathBuf),
    /// The store was written by a version we do not know.
    #[error("{path} is not a store this version can use: {why}", path = path.display())]
    Unknown {
        /// The description of the store.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl OpenError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Disk(source) => Class::of_disk(source),
            Self::Locked(_) => Class::Busy,
            Self::TooLong { .. } | Self::Unknown { .. } => Class::Precondition,
        }
    }
}

/// A layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The bytes that arrived are not a layer, or did not arrive.
    #[error("layer {diff_id}: {source}")]
    Unpack {
        /// Which layer.
        diff_id: Digest,
        /// What was wrong.
        source: UnpackError,
    },
    /// The bytes are a layer, but not this one.
    #[error(
        "layer {expected}: its content is {found}; the image's config and its layers disagree: rebuild or re-push the image"
    )]
    DiffId {
        /// What the image's config promised.
        expected: Digest,
        /// What arrived.
        found: Digest,
    },
    /// A layer that it is made onto cannot be opened.
    #[error("layer {diff_id} has hard links to files below it: {source}")]
    Below {
        /// Which layer.
        diff_id: Digest,
        /// What is wrong with the other.
        source: LowerError,
    },
    /// The disk said no.
    #[error("layer {diff_id}: {source}")]
    Disk {
        /// Which layer.
        diff_id: Digest,
        /// The system's words.
        source: io::Error,
    },
    /// There is no room, to begin with or for what it grew to.
    #[error("layer {diff_id}: {source}")]
    NoSpace {
        /// Which layer.
        diff_id: Digest,
        /// How much there is.
        source: ReserveError,
    },
    /// The disk or its quota was used up while it was written, whatever was promised.
    #[error(
        "layer {diff_id}: the disk or quota of {dir} was used up while it was unpacked: {promised} bytes were promised to it, \
         and {free} are free without it; make room on that disk, or lower --disk-high-percent",
        dir = dir.display()
    )]
    Filled {
        /// Which layer.
        diff_id: Digest,
        /// The store.
        dir: PathBuf,
        /// Bytes that it was to have.
        promised: u64,
        /// Bytes free after what was written of it was removed.
        free: u64,
    },
}

/// Why a round of collection removed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Something that may need layers could not be read.
    #[error("no layer is removed in this round: {0}")]
    IncompleteRoots(String),
    /// The disk said no.
    #[error("no layer is removed in this round: {0}")]
    Disk(#[from] io::Error),
}

impl AddError {
    /// The refusal of room that it comes from, if it comes from one.
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

    /// Whether only the layers below are missing: [`super::Store::add_onto`] can make it.
    pub fn needs_layers_below(&self) -> bool {
        let Self::Unpack { source, .. } = self else { return false };
        matches!(source, UnpackError::LinkElsewhere { .. } | UnpackError::DirElsewhere { .. })
    }

    /// Whether it lies in the bytes that were promised and came, and so comes again with them.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Unpack { source: UnpackError::Blob(_), .. } => false,
            Self::Unpack { .. } if self.needs_layers_below() => false,
            Self::Unpack { source, .. } => {
                source.class() != Class::Exhausted && source.class() != Class::Internal
            }
            Self::DiffId { .. } => true,
            Self::Below { .. } | Self::Disk { .. } | Self::NoSpace { .. } | Self::Filled { .. } => {
                false
            }
        }
    }

    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Unpack { source, .. } => source.class(),
            Self::DiffId { .. } => Class::Corrupt,
            Self::Below { source, .. } => source.class(),
            Self::Disk { source, .. } => Class::of_disk(source),
            Self::NoSpace { source, .. } => source.class(),
            Self::Filled { .. } => Class::Exhausted,
        }
    }
}

/// A layer could not be opened as a lower.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// It is not in the store.
    #[error("layer {0} is not in the store")]
    Absent(Digest),
    /// Its description cannot be read.
    #[error(
        "layer {diff_id}: {source}; remove its directory while the driver is stopped, to have it pulled again"
    )]
    Description {
        /// Which layer.
        diff_id: Digest,
        /// The system's words.
        source: io::Error,
    },
    /// Its image is not what was written.
    #[error(
        "layer {diff_id}: its image has {found} bytes and was written with {written}; remove its directory while the driver is stopped, to have it pulled again"
    )]
    Damaged {
        /// Which layer.
        diff_id: Digest,
        /// Bytes as recorded.
        written: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The kernel would not have it.
    #[error("layer {diff_id}: {source}")]
    Mount {
        /// Which layer.
        diff_id: Digest,
        /// The kernel's words.
        source: MountError,
    },
}

impl LowerError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent(_) => Class::Precondition,
            Self::Description { .. } | Self::Damaged { .. } => Class::Corrupt,
            Self::Mount { source, .. } => source.class(),
        }
    }
}

/// The record of an image could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("image record: {0}")]
pub struct ImagesError(#[from] io::Error);

impl ImagesError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        Class::of_disk(&self.0)
    }
}
