//! The differences between two trees, and why they could not be found.

use std::io;

use crate::{
    budget::OverBudget, changeset::error::EntryName, error::Class, sys::tree_reader::EntryType,
};

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path from the root, without a leading slash; empty for the root. Any bytes but NUL.
    pub path: Vec<u8>,
    /// What has happened to the path.
    pub change: Change,
    /// The type in the second tree; in the first one, if the second lacks the path.
    pub kind: EntryType,
    /// The size of a regular file in bytes, in the tree that `kind` is from.
    pub size: Option<u64>,
    /// The properties that differ. Empty unless the path is changed.
    pub properties: Vec<Property>,
}

/// What has happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has it.
    Added,
    /// Both trees have it, and it differs.
    Changed,
    /// Only the first tree has it.
    Removed,
}

/// A property of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// The type of the file. Then only the attributes are compared besides.
    Type,
    /// The length of a regular file.
    Size,
    /// The bytes of a regular file. They are not compared where the mtime counts and differs.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The numbers of a device.
    Device,
    /// Permission, setuid, setgid and sticky bits.
    Mode,
    /// The user id or the group id.
    Owner,
    /// Extended attributes and ACLs, without those of overlay and the host's labels.
    Xattrs,
    /// The time of the last write, in a comparison with times.
    Mtime,
}

/// Why two trees were not compared to the end.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Something in a tree cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path of the file or directory.
        path: EntryName,
        /// The system's error.
        source: io::Error,
    },
    /// A path has too many parts.
    #[error("{path} is too deep: at most {most} parts of a path are compared; move or remove it")]
    Deep {
        /// The directory.
        path: EntryName,
        /// The most parts.
        most: u32,
    },
    /// The memory budget does not allow it.
    #[error(transparent)]
    Memory(#[from] OverBudget),
    /// The caller stopped it.
    #[error("the comparison was stopped")]
    Stopped,
}

impl CompareError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => Class::of_disk(source),
            Self::Deep { .. } => Class::Precondition,
            Self::Memory(source) => source.class(),
            Self::Stopped => Class::Unavailable,
        }
    }

    /// The error for a path that cannot be read.
    pub(super) fn reading(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        let path = if path.is_empty() { b"/" } else { path };
        move |source| Self::Read { path: EntryName::new(path), source }
    }
}
