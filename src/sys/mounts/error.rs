//! Errors of mount operations. They name the part of the request that the kernel refused.
//!
//! Deliberately absent: advice that depends on the purpose of the mount.

use std::io;
use std::path::{Path, PathBuf};

use super::request::TEXT_LIMIT;
use crate::error::Class;
use crate::sys::{Errno, host};

/// A failure to make, attach, find or remove a mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The path is not the root of a mount.
    #[error("nothing is mounted at {}", target.display())]
    NotMounted {
        /// Where a mount was expected.
        target: PathBuf,
    },
    /// The target is already the root of a mount. A second mount is never stacked on it.
    #[error("a file system is already mounted at {}: unmount it first", target.display())]
    Occupied {
        /// The target of the refused mount.
        target: PathBuf,
    },
    /// The mount is in use, also after all retries.
    #[error("mount {} is still in use: {}", target.display(), busy_reason(within.as_deref()))]
    Busy {
        /// The target of the mount that remains.
        target: PathBuf,
        /// The target of a mount within it, if there is one.
        within: Option<PathBuf>,
    },
    /// The path does not lead to a usable directory.
    #[error("cannot use the directory {}: {why} ({errno})", path.display())]
    Dir {
        /// The path as given by the caller.
        path: PathBuf,
        /// The reason, as a clause.
        why: &'static str,
        /// The kernel's error number.
        errno: Errno,
    },
    /// This kernel lacks a feature.
    #[error("this kernel ({kernel}) cannot {what} ({errno}): {needs}")]
    Unsupported {
        /// The operation, as a verb phrase.
        what: String,
        /// The requirement for it, as a clause.
        needs: &'static str,
        /// The kernel's release.
        kernel: String,
        /// The kernel's error number.
        errno: Errno,
    },
    /// A text value is longer than the kernel takes.
    #[error(
        "the value of mount option {key} has {length} bytes, but the kernel takes at most {TEXT_LIMIT}"
    )]
    TooLong {
        /// The mount option.
        key: &'static str,
        /// The length of the value in bytes.
        length: usize,
    },
    /// All mount options together are longer than `mount(2)` takes.
    #[error(
        "the overlay's mount options have {length} bytes, but this kernel ({kernel}) takes at most {limit}: use fewer \
         layers, a store with a shorter path, or Linux 6.8 or newer"
    )]
    DataTooLong {
        /// The length of the options in bytes.
        length: usize,
        /// The maximum length in bytes.
        limit: usize,
        /// The kernel's release.
        kernel: String,
    },
    /// The kernel refused the operation. It may have logged a reason.
    #[error("cannot {what}: {errno}{}", log_suffix(kernel_log))]
    Refused {
        /// The operation with its parameter, as a verb phrase.
        what: String,
        /// The kernel's error number.
        errno: Errno,
        /// The lines of the file system context's log. Often empty.
        kernel_log: Vec<String>,
    },
    /// The mount table could not be read.
    #[error("cannot read the mount table: {0}")]
    Table(#[source] io::Error),
}

/// Says what keeps a mount busy.
fn busy_reason(within: Option<&Path>) -> String {
    match within {
        Some(path) => {
            format!(
                "another file system is mounted within it, at {}: unmount it first",
                path.display()
            )
        }
        None => "a process has an open file or its working directory there".to_owned(),
    }
}

impl MountError {
    /// The class of the failure, from which callers derive their response.
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

    /// The kernel's error number. `None` if the error does not come from the kernel.
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

/// A refusal by a call without a log.
pub(super) fn refused(what: String, errno: Errno) -> MountError {
    MountError::Refused { what, errno, kernel_log: Vec::new() }
}

/// A refusal because the kernel lacks a feature.
pub(super) fn unsupported(what: String, needs: &'static str, errno: Errno) -> MountError {
    MountError::Unsupported { what, needs, kernel: host::release(), errno }
}

/// The error for a file system type whose context cannot be opened with `fsopen(2)`.
pub(super) fn no_context(fs_type: &str, errno: Errno) -> MountError {
    match errno {
        Errno::ENODEV => unsupported(
            format!("mount the file system type {fs_type}"),
            "build or load its kernel module",
            errno,
        ),
        errno => refused(format!("open a context for {fs_type}"), errno),
    }
}

/// The kernel's log lines as the end of an error message.
fn log_suffix(log: &[String]) -> String {
    match log {
        [] => String::new(),
        lines => format!("; the kernel says: {}", lines.join("; ")),
    }
}
