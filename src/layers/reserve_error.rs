//! The error of a reservation of disk space.

use std::{io, path::PathBuf};

use crate::{error::Class, format};

/// What to do about a full disk, as a part of a message. A pod's user can do neither.
pub const FREE_DISK: &str = "an administrator must delete files on that disk, or lower disk.highPercent of the driver's chart";

/// A reservation that failed.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Not enough space is free.
    #[error(
        "not enough free space on {dir}: {} more are needed; {} are free, and {} are reserved or must stay free; \
         an administrator must delete files on that disk, or lower disk.highPercent or disk.minFreePercent of the \
         driver's chart",
        format::bytes(*wanted), format::bytes(*free), format::bytes(reserved.saturating_add(*kept)),
        dir = dir.display()
    )]
    Full {
        /// The root directory of the store.
        dir: PathBuf,
        /// Bytes that are requested.
        wanted: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes of `free` that are reserved and not yet written.
        reserved: u64,
        /// Bytes of `free` that have to stay free.
        kept: u64,
    },
    /// The captures would exceed their limit.
    #[error(
        "the snapshots of {whose} on this node would take {}, more than the limit of {}; delete some of them, or ask \
         an administrator to raise {setting} of the driver's chart",
        format::bytes(*wanted), format::bytes(*most)
    )]
    Captures {
        /// `namespace <name>`, or `all namespaces`.
        whose: String,
        /// Bytes of all their captures, with the requested ones.
        wanted: u64,
        /// The limit, in bytes.
        most: u64,
        /// The value of the driver's chart that sets the limit.
        setting: &'static str,
    },
    /// The space of the disk cannot be read.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl ReserveError {
    /// The class of the failure for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Full { .. } | Self::Captures { .. } => Class::Exhausted,
            Self::Disk(source) => Class::of_disk(source),
        }
    }

    /// Converts to an I/O error, of kind [`io::ErrorKind::StorageFull`] if space is missing. [`Self::within`] finds it
    /// again.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::Disk(source) => source,
            error => io::Error::new(io::ErrorKind::StorageFull, error),
        }
    }

    /// The reservation error that [`Self::into_io`] has put into `error`.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}
