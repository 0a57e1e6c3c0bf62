//! What can go wrong with a mount, in words that say which part of the request the kernel minded.
//!
//! Deliberately absent: advice that needs to know what the mount was for.

use std::io;
use std::path::{Path, PathBuf};

use super::TEXT_LIMIT;
use crate::error::Class;
use crate::sys::{Errno, host};

/// A failure to make, attach, find or remove a mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Nothing is mounted exactly there.
    #[error("nothing is mounted at {}", target.display())]
    NotMounted {
        /// Where a mount was expected.
        target: PathBuf,
    },
    /// Something is mounted there already, and nothing is ever stacked on it.
    #[error("something is mounted at {} already: unmount it first", target.display())]
    Occupied {
        /// The directory asked for.
        target: PathBuf,
    },
    /// The mount is in use, and was for as long as we asked.
    #[error("{} is still in use: {}", target.display(), user(within.as_deref()))]
    Busy {
        /// The mount that stays.
        target: PathBuf,
        /// What is mounted within it, if anything is.
        within: Option<PathBuf>,
    },
    /// The directory cannot be used as it was named.
    #[error("cannot use the directory {}: {why} ({errno})", path.display())]
    Dir {
        /// The directory as asked for.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// The kernel's number for it.
        errno: Errno,
    },
    /// This kernel lacks a feature.
    #[error("this kernel ({kernel}) cannot {what} ({errno}): {needs}")]
    Unsupported {
        /// What was asked of it.
        what: String,
        /// What would be needed.
        needs: &'static str,
        /// Its release.
        kernel: String,
        /// The number it answered with.
        errno: Errno,
    },
    /// A text parameter is longer than the kernel takes.
    #[error("the value of {key} has {length} bytes, and the kernel takes at most {TEXT_LIMIT}")]
    TooLong {
        /// The parameter.
        key: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// All parameters together are longer than `mount(2)` takes.
    #[error(
        "the overlay's parameters have {length} bytes, and this kernel ({kernel}) takes {limit} at most: stack fewer \
         layers, give the store a shorter path, or take Linux 6.8"
    )]
    DataTooLong {
        /// Their length in bytes.
        length: usize,
        /// The most that is taken.
        limit: usize,
        /// The kernel's release.
        kernel: String,
    },
    /// The kernel refused, for a reason that it may have given.
    #[error("cannot {what}: {errno}{}", words(kernel_log))]
    Refused {
        /// What was tried, with the parameter.
        what: String,
        /// The kernel's number.
        errno: Errno,
        /// The lines that the kernel left in the context's log; often none.
        kernel_log: Vec<String>,
    },
    /// The mount table could not be read.
    #[error("cannot read the mount table: {0}")]
    Table(#[source] io::Error),
}

/// Who uses a mount.
fn user(within: Option<&Path>) -> String {
    match within {
        Some(path) => {
            format!("something is mounted within it, at {}: unmount that first", path.display())
        }
        None => "a process has a file or its directory there".to_owned(),
    }
}

impl MountError {
    /// What the failure means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::NotMounted { .. } => Class::NotFound,
            Self::Busy { .. } => Class::Busy,
            Self::Occupied { .. }
            | Self::Unsupported { .. }
            | Self::TooLong { .. }
            | Self::DataTooLong { .. } => Class::Precondition,
            Self::Dir { errno, .. } | Self::Refused { errno, .. } => match errno {
                Errno::ENOSPC | Errno::EDQUOT | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => {
                    Class::Exhausted
                }
                _ => Class::Internal,
            },
            Self::Table(_) => Class::Internal,
        }
    }

    /// The kernel's number, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Dir { errno, .. }
            | Self::Unsupported { errno, .. }
            | Self::Refused { errno, .. } => Some(*errno),
            Self::NotMounted { .. }
            | Self::Occupied { .. }
            | Self::Busy { .. }
            | Self::TooLong { .. }
            | Self::DataTooLong { .. }
            | Self::Table(_) => None,
        }
    }
}

/// A refusal of a call that keeps no log.
pub(super) fn refused(what: String, errno: Errno) -> MountError {
    MountError::Refused { what, errno, kernel_log: Vec::new() }
}

/// A refusal whose reason is that the kernel lacks something.
pub(super) fn unsupported(what: String, needs: &'static str, errno: Errno) -> MountError {
    MountError::Unsupported { what, needs, kernel: host::release(), errno }
}

/// Why a file system type cannot be set up at all.
pub(super) fn no_context(fs_type: &str, errno: Errno) -> MountError {
    match errno {
        Errno::ENODEV => unsupported(
            format!("mount the file system type {fs_type}"),
            "build or load its module",
            errno,
        ),
        errno => refused(format!("open a context for {fs_type}"), errno),
    }
}

/// The kernel's lines as the end of a sentence.
fn words(log: &[String]) -> String {
    match log {
        [] => String::new(),
        lines => format!("; the kernel says: {}", lines.join("; ")),
    }
}
