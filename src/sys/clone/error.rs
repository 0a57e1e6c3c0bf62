//! Why a tree was not copied.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::bounds::ExceededBound;
use crate::budget::OverBudget;

/// Why a tree was not copied. The message completes "the volume cannot be copied: …".
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// `go_on` returned false.
    #[error("the copy was stopped before it was complete")]
    Stopped,
    /// Data that was written to the tree did not reach the disk.
    #[error("cannot sync {path}: {source}", path = path.display())]
    Sync {
        /// The directory of the tree, or of its copy.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An entry is larger than a layer can hold.
    #[error("{}: {what}", shown(path))]
    ExceedsBound {
        /// The entry, relative to the tree.
        path: PathBuf,
        /// Which bound, and what to do.
        what: ExceededBound,
    },
    /// The tree has more entries than a layer may have.
    #[error(
        "it has more than {0} files and directories, and a layer can have no more; remove some, or keep them \
        in a volume of another kind"
    )]
    TooMany(u64),
    /// The names need more memory than one operation may use.
    #[error("cannot keep the names of its files in memory: {0}")]
    Memory(OverBudget),
    /// The records of a round cannot be written or read.
    #[error("cannot keep the records of its files: {0}")]
    Records(#[source] io::Error),
    /// An entry cannot be read, or its copy cannot be made.
    #[error("{}: {source}", shown(path))]
    Entry {
        /// The entry, relative to the tree.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".into() } else { path.display().to_string() }
}
