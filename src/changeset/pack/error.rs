//! What can go wrong with a packed layer, each with the path it went wrong at.

use std::io;

use crate::{budget::OverBudget, changeset::error::EntryName, fault::Class};

/// Why a layer could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in the tree cannot be read.
    #[error("cannot pack the layer: {path} could not be read: {source}")]
    Read {
        /// What.
        path: EntryName,
        /// The system's words.
        source: io::Error,
    },
    /// The output fails.
    #[error("cannot pack the layer: it could not be written: {0}")]
    Output(#[source] io::Error),
    /// The system gives no thread to pack with.
    #[error("no thread could be started to pack the layer: {0}; raise the limit of tasks")]
    Thread(#[source] io::Error),
    /// It would take more memory than there is.
    #[error("cannot pack the layer: {0}")]
    Memory(OverBudget),
    /// A name that means something else in a portable layer.
    #[error(
        "cannot pack the layer: in an OCI layer the name {0} would hide another file; rename it, or take snapshots with `format: native`"
    )]
    Reserved(EntryName),
    /// A path that would be refused when the layer is read.
    #[error(
        "cannot pack the layer: {0} lies too deep: a layer's paths have at most 256 parts and 4,095 bytes; move or remove it"
    )]
    Deep(EntryName),
    /// An attribute whose name a tar cannot hold.
    #[error(
        "cannot pack the layer: {path} has an extended attribute {name}, and a tar holds none with \"=\" in its name; remove it"
    )]
    Xattr {
        /// Whose.
        path: EntryName,
        /// Its name.
        name: EntryName,
    },
    /// More of them than would be read again.
    #[error(
        "cannot pack the layer: the extended attributes of {path} take {bytes} bytes, and {limit} is the limit; remove some"
    )]
    Attributes {
        /// Whose.
        path: EntryName,
        /// Their bytes.
        bytes: u64,
        /// How many there may be.
        limit: u64,
    },
    /// A larger value than an image holds.
    #[error(
        "cannot pack the layer: the extended attribute {name} of {path} has {bytes} bytes, and {limit} is the limit; shorten or \
         remove it"
    )]
    Value {
        /// Whose.
        path: EntryName,
        /// Its name.
        name: EntryName,
        /// Bytes of its value.
        bytes: u64,
        /// How many there may be.
        limit: u64,
    },
    /// More of the root's than would be read again.
    #[error(
        "cannot pack the layer: the volume's root has {found} extended attributes, and {limit} is the limit; remove some"
    )]
    RootXattrs {
        /// How many.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The layer is larger than any that is read.
    #[error(
        "cannot pack the layer: as a tar it has more than {0} bytes, and no node takes such a layer; remove some files, or take \
         snapshots more often"
    )]
    TarBytes(u64),
    /// A file is larger than any that is read.
    #[error(
        "cannot pack the layer: {path} has {bytes} bytes with its holes, and no node takes a file of more than {limit}; remove it"
    )]
    FileBytes {
        /// Which.
        path: EntryName,
        /// Its size.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// There are more entries than would be read.
    #[error(
        "cannot pack the layer: it has more than {0} files and folders, and no node takes such a layer; remove some files, or take \
         snapshots more often"
    )]
    Entries(u64),
    /// The merged tree is not that of the own trees.
    #[error("cannot pack the layer: {0} is in a layer, and the volume's view does not show it")]
    Unseen(EntryName),
    /// Overlay's marks of one layer mean something in its own stack only.
    #[error("cannot pack {0} layers as one native layer; pack them with `format: portable`")]
    Several(usize),
    /// The output has failed; its own error says more.
    #[error("the output of a layer is gone")]
    Stopped,
}

impl PackError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } | Self::Output(source) => Class::of_disk(source),
            Self::Thread(_) => Class::Exhausted,
            Self::Memory(source) => source.class(),
            Self::Reserved(_)
            | Self::Deep(_)
            | Self::Xattr { .. }
            | Self::Attributes { .. }
            | Self::Value { .. }
            | Self::RootXattrs { .. }
            | Self::TarBytes(_)
            | Self::FileBytes { .. }
            | Self::Entries(_) => Class::Precondition,
            Self::Several(_) => Class::Invalid,
            Self::Unseen(_) | Self::Stopped => Class::Internal,
        }
    }

    /// The error of something that cannot be read.
    pub(super) fn reading(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read { path: EntryName::new(path), source }
    }
}
