//! The errors of an overlay mount whose plan was valid.
//!
//! Deliberately absent: rules that can be checked without a disk. Those are in `PlanError`.

use std::io;
use std::path::PathBuf;

use crate::error::Class;
use crate::sys::mounts::MountError;

/// An overlay mount that failed. Nothing is mounted then.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Upper and work are on two file systems. The kernel requires one.
    #[error(
        "the work directory {} is not on the file system of the upper {}",
        work.display(), upper.display()
    )]
    OtherFileSystem {
        /// The upper.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// The work directory has entries that no overlay made.
    #[error(
        "the work directory {} must be empty but has an entry {entry:?}; give the volume a work directory of its own",
        work.display()
    )]
    WorkNotEmpty {
        /// The work directory.
        work: PathBuf,
        /// The name of the first entry found.
        entry: String,
    },
    /// A volatile overlay wrote to the upper, and its marker was not removed since. So the data may be incomplete.
    #[error(
        "{} was last written by a volatile overlay and was not synced before this mount, so its files may be \
         incomplete; report this as a fault of the driver",
        upper.display()
    )]
    VolatileMarker {
        /// The upper.
        upper: PathBuf,
    },
    /// The kernel mounted a writable overlay read-only. It wrote its reason to its log only.
    #[error(
        "the kernel mounted the overlay on {} read-only, because it could not use the work directory {} \
         (immutable, full, or without extended attributes); the kernel's log has the reason",
        upper.display(), work.display()
    )]
    FellBackToReadOnly {
        /// The upper.
        upper: PathBuf,
        /// The work directory.
        work: PathBuf,
    },
    /// Upper or work could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Inspect {
        /// The path that could not be read: upper, work, or an entry in work.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl OverlayError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::OtherFileSystem { .. }
            | Self::WorkNotEmpty { .. }
            | Self::VolatileMarker { .. }
            | Self::FellBackToReadOnly { .. } => Class::Precondition,
            Self::Inspect { .. } => Class::Internal,
            Self::Mount(e) => e.class(),
        }
    }
}
