//! Why an image could not be written.

use std::io;

use crate::error::Class;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output failed.
    #[error("the EROFS image could not be written: {0}")]
    Io(#[from] io::Error),
    /// The image would need block addresses of more than 32 bits.
    #[error(
        "the EROFS image would exceed 16 TiB, the limit of its block addresses; rebuild the image with this layer split"
    )]
    TooLarge,
    /// The root's attributes do not fit: they share a block with the superblock, so the root has less space for them
    /// than other inodes.
    #[error("the layer's root has more than 254 extended attributes; rebuild the image with fewer")]
    RootXattrs,
    /// A caller wrote more or less content than it announced.
    #[error("a file was announced with {expected} bytes and has more or fewer")]
    Size {
        /// The announced bytes.
        expected: u64,
    },
}

impl WriteError {
    /// The error class, from which the gRPC code and retries follow.
    pub fn class(&self) -> Class {
        match self {
            // More free disk space helps against neither.
            Self::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => Class::Precondition,
            Self::TooLarge | Self::RootXattrs => Class::Precondition,
            Self::Io(error) => Class::of_disk(error),
            Self::Size { .. } => Class::Internal,
        }
    }
}
