//! Why an overlay that was planned well could not be made.
//!
//! Deliberately absent: rules that need no disk to be checked; those are `PlanError`.

use std::io;
use std::path::PathBuf;

use crate::fault::Class;
use crate::sys::mounts::MountError;

/// A failure to make an overlay mount. Nothing is mounted then.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Upper and work are not on one file system.
    #[error(
        "the work folder {} is not on the file system of the upper {}",
        work.display(), upper.display()
    )]
    OtherFileSystem {
        /// The upper.
        upper: PathBuf,
        /// The work folder.
        work: PathBuf,
    },
    /// The work folder has entries that no overlay made.
    #[error(
        "the work folder {} has to be empty and holds {entry:?}: give the volume its own",
        work.display()
    )]
    WorkNotEmpty {
        /// The work folder.
        work: PathBuf,
        /// One of the entries.
        entry: String,
    },
    /// A volatile overlay wrote here and nobody has said since that its data are whole.
    #[error(
        "{} was last written by a volatile overlay: what it holds may be torn; sync it in the same \
         boot, or discard it",
        upper.display()
    )]
    VolatileMarker {
        /// The upper.
        upper: PathBuf,
    },
    /// The kernel mounted read-only what should take writes, and gave its reason to its log only.
    #[error(
        "the overlay on {} came up read-only: the kernel could not use the work folder {} \
         (immutable, full, or without extended attributes); its log says why",
        upper.display(), work.display()
    )]
    FellBackToReadOnly {
        /// The upper.
        upper: PathBuf,
        /// The work folder.
        work: PathBuf,
    },
    /// Upper or work could not be looked at.
    #[error("cannot look at {}: {source}", path.display())]
    Look {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused.
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl OverlayError {
    /// What the failure means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::OtherFileSystem { .. }
            | Self::WorkNotEmpty { .. }
            | Self::VolatileMarker { .. }
            | Self::FellBackToReadOnly { .. } => Class::Precondition,
            Self::Look { .. } => Class::Internal,
            Self::Mount(e) => e.class(),
        }
    }
}
