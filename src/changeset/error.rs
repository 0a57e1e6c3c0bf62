//! The errors of a layer, each with the entry at which it occurred.
//!
//! Deliberately absent: positions in the tar. Its author fixes files of an image, not blocks of a tar.

use std::{fmt, io};

use super::path::PathError;
use super::pax_value::PaxError;
use crate::budget::OverBudget;
use crate::erofs::{WriteError, XattrError};
use crate::error::Class;
use crate::format;

/// The name of a tar entry: untrusted bytes, displayed quoted, escaped and truncated to 200 characters.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EntryName(Vec<u8>);

impl EntryName {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The error for an invalid entry of this name.
    pub(super) fn refuse(&self, why: impl Into<InvalidLayer>) -> UnpackError {
        UnpackError::Entry { name: self.clone(), why: why.into() }
    }

    /// The error for a limit that is exceeded at the entry of this name.
    pub(super) fn exceed(&self, what: Exceeded) -> UnpackError {
        UnpackError::Limit { name: self.clone(), what }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        let shown: String = text.chars().take(200).collect();
        let rest = if shown.len() < text.len() { "…" } else { "" };
        write!(f, "{shown:?}{rest}")
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The blob's reader failed: the network, or a digest that is not what was promised.
    #[error("cannot read the layer's blob: {0}")]
    Blob(#[source] io::Error),
    /// The blob is not gzip, is damaged, or ends too early.
    #[error("the layer's blob is not complete gzip data: {0}")]
    Gzip(#[source] io::Error),
    /// The blob is not zstd, is damaged, or ends too early.
    #[error("the layer's blob is not complete zstd data: {0}")]
    Zstd(#[source] io::Error),
    /// The system cannot start a thread.
    #[error(
        "cannot start a thread to unpack the layer: {0}; an administrator must raise pids.max of the driver's container"
    )]
    Thread(#[source] io::Error),
    /// An entry is invalid.
    #[error("the layer's entry {name} is refused: {why}")]
    Entry {
        /// The entry's name.
        name: EntryName,
        /// The reason.
        why: InvalidLayer,
    },
    /// The layer exceeds a limit.
    #[error("the layer exceeds a limit of this driver at its entry {name}: {what}")]
    Limit {
        /// The entry at which it was exceeded, or the last one before.
        name: EntryName,
        /// The exceeded limit.
        what: Exceeded,
    },
    /// A hard link to a file that is not in this layer: it is in a layer below, or nowhere. Only unpacking without the
    /// layers below returns this; see [`super::layer_to_erofs_with_layers_below`].
    #[error("the layer's entry {name} is a hard link to {target}, which is not in this layer")]
    LinkElsewhere {
        /// The entry's name.
        name: EntryName,
        /// The link's target.
        target: EntryName,
    },
    /// An entry in an unnamed directory, whose attributes a layer below may have. Only unpacking without
    /// the layers below returns this, and at once: the rest of the blob is not read.
    #[error(
        "the layer's entry {name} is in directory {dir}, which no earlier entry of the layer names"
    )]
    DirElsewhere {
        /// The entry's name.
        name: EntryName,
        /// The directory.
        dir: EntryName,
    },
    /// A lower layer could not be read.
    #[error("cannot read the layers below at {name}: {source}")]
    Below {
        /// The path that was looked up, or the link that was copied.
        name: EntryName,
        /// The system's error.
        source: io::Error,
    },
    /// Writing the image failed.
    #[error(transparent)]
    Image(#[from] WriteError),
    /// There is not even enough memory for the buffers.
    #[error("the layer cannot be unpacked: {0}")]
    Memory(#[from] OverBudget),
    /// The spill files of a layer with many names failed.
    #[error("cannot keep the layer's names in a temporary file: {0}")]
    Names(#[source] io::Error),
}

/// Why an entry is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLayer {
    /// The header's checksum does not match its bytes.
    #[error("its header's checksum is wrong; the tar is damaged, or is not a tar")]
    Checksum,
    /// A field is neither an octal nor a base-256 number, or is out of range.
    #[error("its {0} is not a valid number of a tar header")]
    Number(&'static str),
    /// The stream ends before the entry's content does.
    #[error("the tar ends in the middle of it")]
    Truncated,
    /// One block of zeros, and then another block: some readers stop there, others continue.
    #[error(
        "the tar's end marker after it is incomplete (one block of zeros, not two); rebuild the image"
    )]
    LoneZeros,
    /// The name is not valid for a file.
    #[error("{0}")]
    Name(#[from] PathError),
    /// An extended header is invalid.
    #[error("its extended header {0}")]
    Pax(#[from] PaxError),
    /// Two headers give different values for the same property.
    #[error("two of its headers disagree on its {0}")]
    Contradiction(&'static str),
    /// Some readers take a file with such a name for a directory.
    #[error("its name ends in a slash, but it is not a directory")]
    TrailingSlash,
    /// The type is not one of a file.
    #[error("its type {:?} is not allowed in a layer", char::from(*.0))]
    Type(u8),
    /// The map of a sparse file is invalid.
    #[error("it is a sparse file, and its map {0}")]
    Sparse(&'static str),
    /// The root must be a directory.
    #[error("it names the layer's root, but it is not a directory")]
    Root,
    /// A part of the path is not a directory.
    #[error("it lies below {0}, which is not a directory in this layer")]
    BelowFile(EntryName),
    /// Hard links to directories do not exist.
    #[error("it is a hard link to {0}, which is a directory")]
    LinkToDir(EntryName),
    /// A hard link to a file that no layer has, or that a layer has deleted.
    #[error(
        "it is a hard link to {0}, which neither this layer nor those below it have; rebuild and push the image again"
    )]
    LinkToNothing(EntryName),
    /// A whiteout of a name that no file can have, or a path below a whiteout.
    #[error("it is a whiteout, but not of a valid name")]
    Whiteout,
    /// An overlay redirect that could lead outside.
    #[error(
        "its redirect {0} is not an absolute path or a single name, of at most 256 bytes and without \"..\""
    )]
    Redirect(EntryName),
    /// The metacopy xattr on an entry that has no content.
    #[error("it has its content in a lower layer (metacopy), but it is not a regular file")]
    Metacopy,
    /// An extended attribute cannot be stored.
    #[error("its extended attribute {name} is refused: {why}")]
    Xattr {
        /// The attribute's name.
        name: EntryName,
        /// The reason.
        why: XattrError,
    },
}

/// The limit that a layer exceeds, and what to do; see [`super::Limits`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Exceeded {
    /// The length of the tar in bytes.
    #[error("its tar is larger than {}; rebuild the image with this layer split", format::bytes(*.0))]
    TarBytes(u64),
    /// The zstd window in bytes.
    #[error(
        "it is compressed with a zstd window of more than {}; compress it without --long, or at a lower level",
        format::bytes(*.0)
    )]
    Window(u64),
    /// The length of one file in bytes, holes included.
    #[error("it is a sparse file of more than {}; rebuild the image with a shorter one", format::bytes(*.0))]
    FileBytes(u64),
    /// Bytes of the files that hard links copy from lower layers.
    #[error(
        "its hard links copy more than {} from lower layers; rebuild the image with this layer split",
        format::bytes(*.0)
    )]
    LinkedBytes(u64),
    /// The number of names, or of headers.
    #[error(
        "the layer has more than {0} entries, or headers for more; rebuild the image with this layer split"
    )]
    Entries(u64),
    /// The parts of a path.
    #[error("its path has more than {0} parts; rebuild the image with fewer nested directories")]
    Depth(u32),
    /// Bytes of one entry's extended attributes.
    #[error(
        "its extended attributes have more than {0} bytes; rebuild the image with fewer or shorter ones"
    )]
    XattrBytes(u64),
    /// The memory of this process.
    #[error(
        "unpacking it needs more memory than one layer may have within the driver's memory limit; an administrator \
        must raise that limit (resources.limits.memory), or rebuild the image with this layer split"
    )]
    Memory,
    /// The number of the root's extended attributes.
    #[error(
        "the layer's root has more than {0} extended attributes; rebuild the image with fewer there"
    )]
    RootXattrs(u64),
}

impl UnpackError {
    /// Whether the tar or its compression is invalid, which damage in transit would explain too.
    pub(super) fn is_of_the_tar(&self) -> bool {
        match self {
            Self::Entry { .. } | Self::LinkElsewhere { .. } | Self::Gzip(_) | Self::Zstd(_) => true,
            Self::Limit { .. }
            | Self::Blob(_)
            | Self::Image(_)
            | Self::Names(_)
            | Self::Thread(_)
            | Self::Memory(_)
            | Self::DirElsewhere { .. }
            | Self::Below { .. } => false,
        }
    }

    /// The error class, from which the gRPC code and retries follow.
    pub fn class(&self) -> Class {
        match self {
            Self::Blob(error) if error.kind() == io::ErrorKind::InvalidData => Class::Corrupt,
            Self::Blob(_) => Class::Unavailable,
            Self::Gzip(_) | Self::Zstd(_) => Class::Corrupt,
            Self::Thread(_) => Class::Exhausted,
            Self::Entry { why, .. } => why.class(),
            // The same layer exceeds the same limit at every try.
            Self::Limit { .. } | Self::LinkElsewhere { .. } | Self::DirElsewhere { .. } => {
                Class::Precondition
            }
            Self::Below { source, .. } | Self::Names(source) => Class::of_disk(source),
            Self::Image(error) => error.class(),
            Self::Memory(error) => error.class(),
        }
    }
}

impl InvalidLayer {
    /// A damaged tar is `Corrupt`. An undamaged one with something that a layer must not have is `Invalid`.
    fn class(&self) -> Class {
        match self {
            Self::Checksum
            | Self::Number(_)
            | Self::Truncated
            | Self::LoneZeros
            | Self::Pax(_)
            | Self::Contradiction(_)
            | Self::Sparse(_)
            | Self::LinkToNothing(_) => Class::Corrupt,
            Self::Name(_)
            | Self::TrailingSlash
            | Self::Type(_)
            | Self::Root
            | Self::BelowFile(_)
            | Self::LinkToDir(_)
            | Self::Whiteout
            | Self::Redirect(_)
            | Self::Metacopy
            | Self::Xattr { .. } => Class::Invalid,
        }
    }
}
