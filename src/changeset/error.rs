//! What can go wrong with a layer, each with the entry it went wrong at.
//!
//! Deliberately absent: positions in the tar. Whoever has to mend an image knows its files, not its blocks.

use std::{fmt, io};

use super::path::PathError;
use super::pax::PaxError;
use crate::budget::OverBudget;
use crate::erofs::{WriteError, XattrError};
use crate::fault::Class;

/// The name of a tar entry, as bytes from a stranger: shown quoted, escaped and cut at 200 characters.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct EntryName(Vec<u8>);

impl EntryName {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The error that refuses the entry of this name.
    pub(super) fn refuse(&self, why: impl Into<Refusal>) -> UnpackError {
        UnpackError::Entry { name: self.clone(), why: why.into() }
    }

    /// The error of a limit reached at the entry of this name.
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
    #[error("the layer's blob could not be read: {0}")]
    Blob(#[source] io::Error),
    /// The blob is not gzip, is damaged, or ends too early.
    #[error("the layer's blob is not whole gzip data: {0}")]
    Gzip(#[source] io::Error),
    /// The blob is not zstd, is damaged, or ends too early.
    #[error("the layer's blob is not whole zstd data: {0}")]
    Zstd(#[source] io::Error),
    /// The system gives no thread to unpack with.
    #[error("no thread could be started to unpack the layer: {0}; raise the limit of tasks")]
    Thread(#[source] io::Error),
    /// An entry that is refused.
    #[error("the layer's entry {name} is refused: {why}")]
    Entry {
        /// The entry.
        name: EntryName,
        /// The reason.
        why: Refusal,
    },
    /// A limit was reached.
    #[error("the layer passes a limit of this driver at its entry {name}: {what}")]
    Limit {
        /// The entry at which it was reached, or the last one before.
        name: EntryName,
        /// The limit.
        what: Exceeded,
    },
    /// A hard link to a file that is not in this layer: it lies in a layer below, or nowhere. Only who makes a layer by itself
    /// gets this; see [`super::layer_to_erofs_onto`].
    #[error("the layer's entry {name} is a hard link to {target}, which is not in this layer")]
    LinkElsewhere {
        /// The entry.
        name: EntryName,
        /// What it links to.
        target: EntryName,
    },
    /// It lies in a folder that no entry before it names, so that a layer below may say the folder's attributes. Only who makes a
    /// layer by itself gets this, at once: the rest of the blob is not read.
    #[error("the layer's entry {name} lies in {folder}, which the layer does not name before it")]
    FolderElsewhere {
        /// The entry.
        name: EntryName,
        /// What it lies in.
        folder: EntryName,
    },
    /// What the link names in a lower layer could not be read there.
    #[error("the layers below could not be read at {name}: {source}")]
    Below {
        /// What was looked for, or the link that was copied.
        name: EntryName,
        /// The system's words.
        source: io::Error,
    },
    /// The image could not be written.
    #[error(transparent)]
    Image(#[from] WriteError),
    /// Not even its buffers fit.
    #[error("the layer cannot be unpacked: {0}")]
    Memory(#[from] OverBudget),
    /// The files of a layer with many names failed.
    #[error("the layer's names could not be kept: {0}")]
    Names(#[source] io::Error),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The header's sum is not the one it states.
    #[error("its header's checksum is wrong; the tar is damaged, or is none")]
    Checksum,
    /// A field is no octal and no base-256 number, or out of range.
    #[error("its {0} is not a number that a tar header can hold")]
    Number(&'static str),
    /// The stream ended before the entry did.
    #[error("the tar ends in the middle of it")]
    Truncated,
    /// One block of zeros and then no other: some readers would stop there, others go on.
    #[error("a single block of zeros follows it, where the tar's end is two")]
    LoneZeros,
    /// A name that cannot be a file's.
    #[error("{0}")]
    Name(#[from] PathError),
    /// An extended header that cannot be trusted.
    #[error("its extended header {0}")]
    Pax(#[from] PaxError),
    /// Two headers name the same thing differently.
    #[error("two of its headers disagree on its {0}")]
    Contradiction(&'static str),
    /// Some readers take a file with such a name for a folder.
    #[error("its name ends in a slash, and it is no folder")]
    TrailingSlash,
    /// A type that is not a file's.
    #[error("its type {:?} is none that a layer may hold", char::from(*.0))]
    Type(u8),
    /// A sparse file whose map of pieces is not to be trusted.
    #[error("it is a sparse file, and its map {0}")]
    Sparse(&'static str),
    /// The root is a folder.
    #[error("it stands for the layer's root and is no folder")]
    Root,
    /// A part of the path is no folder.
    #[error("it lies below {0}, which is no folder in this layer")]
    BelowFile(EntryName),
    /// Hard links to folders do not exist.
    #[error("it is a hard link to {0}, which is a folder")]
    LinkToFolder(EntryName),
    /// A hard link to what no layer has, or one has taken away.
    #[error(
        "it is a hard link to {0}, which neither this layer nor those below it show; rebuild and re-push the image"
    )]
    LinkToNothing(EntryName),
    /// A whiteout that names nothing that could exist, or that something lies below.
    #[error("it is a whiteout of nothing that can have a name")]
    Whiteout,
    /// A mark of overlay that leads elsewhere than down.
    #[error(
        "its redirect {0} is neither an absolute path nor one name, of at most 256 bytes and without \"..\""
    )]
    Redirect(EntryName),
    /// A mark of overlay on what has no content.
    #[error("it is marked to have its content below (metacopy), and is no file")]
    Metacopy,
    /// An extended attribute that cannot be stored.
    #[error("its extended attribute {name} is refused: {why}")]
    Xattr {
        /// The attribute's name.
        name: EntryName,
        /// The reason.
        why: XattrError,
    },
}

/// A limit that a layer passed, with what to do; see [`super::Limits`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Exceeded {
    /// Of the tar.
    #[error("its tar has more than {0} bytes; rebuild the image with this layer split")]
    TarBytes(u64),
    /// Of the compression.
    #[error(
        "it is packed with a zstd window of more than {0} bytes; compress it without --long, or at a lower level"
    )]
    Window(u64),
    /// Of one file with its holes.
    #[error("it is a sparse file of more than {0} bytes; rebuild the image with a shorter one")]
    FileBytes(u64),
    /// Of the files that hard links take from lower layers.
    #[error(
        "its hard links copy more than {0} bytes from lower layers; rebuild the image with this layer split"
    )]
    LinkedBytes(u64),
    /// Of headers or names.
    #[error(
        "it has more than {0} entries, or headers for more; rebuild the image with this layer split"
    )]
    Entries(u64),
    /// Of a path.
    #[error("its path has more than {0} parts; rebuild the image with fewer folders in each other")]
    Depth(u32),
    /// Of one entry's attributes.
    #[error(
        "its extended attributes have more than {0} bytes; rebuild the image with fewer or shorter ones"
    )]
    XattrBytes(u64),
    /// Of the memory of this process.
    #[error(
        "it takes more memory to unpack than one layer may have within the driver's limit of memory; raise that limit, or \
         rebuild the image with this layer split"
    )]
    Memory,
    /// Of the root's attributes.
    #[error(
        "the layer's root has more than {0} extended attributes; rebuild the image with fewer there"
    )]
    RootXattrs(u64),
}

impl UnpackError {
    /// Something is wrong with the tar or its packing, which damage on the way explains as well.
    pub(super) fn is_of_the_tar(&self) -> bool {
        match self {
            Self::Entry { .. } | Self::LinkElsewhere { .. } | Self::Gzip(_) | Self::Zstd(_) => true,
            Self::Limit { .. }
            | Self::Blob(_)
            | Self::Image(_)
            | Self::Names(_)
            | Self::Thread(_)
            | Self::Memory(_)
            | Self::FolderElsewhere { .. }
            | Self::Below { .. } => false,
        }
    }

    /// What the failure means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Blob(error) if error.kind() == io::ErrorKind::InvalidData => Class::Corrupt,
            Self::Blob(_) => Class::Unavailable,
            Self::Gzip(_) | Self::Zstd(_) => Class::Corrupt,
            Self::Thread(_) => Class::Exhausted,
            Self::Entry { why, .. } => why.class(),
            // The same layer passes the same limit at every try.
            Self::Limit { .. } | Self::LinkElsewhere { .. } | Self::FolderElsewhere { .. } => {
                Class::Precondition
            }
            Self::Below { source, .. } | Self::Names(source) => Class::of_disk(source),
            Self::Image(error) => error.class(),
            Self::Memory(error) => error.class(),
        }
    }
}

impl Refusal {
    /// Damage is corrupt; what is whole but may not be in a layer is invalid.
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
            | Self::LinkToFolder(_)
            | Self::Whiteout
            | Self::Redirect(_)
            | Self::Metacopy
            | Self::Xattr { .. } => Class::Invalid,
        }
    }
}
