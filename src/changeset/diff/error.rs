//! The errors of packing a layer, each with the path at which it occurred.

use std::io;

use crate::{budget::OverBudget, changeset::error::EntryName, error::Class, format};

/// Why a layer could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Something in the tree cannot be read.
    #[error("cannot pack the layer: cannot read {path}: {source}")]
    Read {
        /// The path of the file or directory.
        path: EntryName,
        /// The system's error.
        source: io::Error,
    },
    /// Writing the output failed.
    #[error("cannot pack the layer: cannot write it: {0}")]
    Output(#[source] io::Error),
    /// The system cannot start a thread.
    #[error(
        "cannot start a thread to pack the layer: {0}; an administrator must raise pids.max of the driver's container"
    )]
    Thread(#[source] io::Error),
    /// It would need more memory than the budget has.
    #[error("cannot pack the layer: {0}")]
    Memory(OverBudget),
    /// A name that has another meaning in a portable layer.
    #[error(
        "cannot pack the layer: in an OCI layer the name {0} would hide another file; rename it, or take snapshots with `format: native`"
    )]
    Reserved(EntryName),
    /// A path that a reader of the layer would refuse.
    #[error(
        "cannot pack the layer: {0} is too deep: a layer's paths have at most 256 parts and 4,095 bytes; move or remove it"
    )]
    Deep(EntryName),
    /// An attribute whose name does not fit into a pax record.
    #[error(
        "cannot pack the layer: {path} has an extended attribute {name}, and a tar cannot store a name with \"=\"; remove it"
    )]
    Xattr {
        /// The file or directory.
        path: EntryName,
        /// The attribute.
        name: EntryName,
    },
    /// More bytes of attributes than a reader of the layer accepts.
    #[error(
        "cannot pack the layer: the extended attributes of {path} take {bytes} bytes, and {limit} is the limit; remove some"
    )]
    Attributes {
        /// The file or directory.
        path: EntryName,
        /// The bytes of its attributes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A value larger than an image can hold.
    #[error(
        "cannot pack the layer: the extended attribute {name} of {path} has {bytes} bytes, and {limit} is the limit; shorten or \
         remove it"
    )]
    Value {
        /// The file or directory.
        path: EntryName,
        /// The attribute.
        name: EntryName,
        /// The bytes of its value.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The root has more attributes than a reader of the layer accepts.
    #[error(
        "cannot pack the layer: the volume's root has {found} extended attributes, and {limit} is the limit; remove some"
    )]
    RootXattrs {
        /// The number of its attributes.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The tar is larger than a reader of the layer accepts.
    #[error(
        "cannot pack the layer: as a tar it is larger than {}, and no node accepts such a layer; remove some files, or take \
        snapshots more often",
        format::bytes(*.0)
    )]
    TarBytes(u64),
    /// A file is larger than a reader of the layer accepts.
    #[error(
        "cannot pack the layer: {path} has {} with its holes, and no node accepts a file of more than {}; remove it",
        format::bytes(*.bytes), format::bytes(*.limit)
    )]
    FileBytes {
        /// The file.
        path: EntryName,
        /// Its length in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// There are more entries than a reader of the layer accepts.
    #[error(
        "cannot pack the layer: it has more than {0} files and directories, and no node accepts such a layer; remove some files, or take \
        snapshots more often"
    )]
    Entries(u64),
    /// The merged tree does not have a name of the uppers. This is a fault of the caller.
    #[error("cannot pack the layer: {0} is in a layer, but the volume's view does not show it")]
    Unseen(EntryName),
    /// Several layers for one native layer. Overlay's xattrs of a layer are valid only in its own stack.
    #[error("cannot pack {0} layers as one native layer; pack them with `format: portable`")]
    Several(usize),
    /// The thread that writes the output has ended, with an error of its own.
    #[error("the writer of the packed layer has ended")]
    Stopped,
}

impl PackError {
    /// The error class, from which the gRPC code and retries follow.
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

    /// The error for a path that cannot be read.
    pub(super) fn reading(path: &[u8]) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Read { path: EntryName::new(path), source }
    }
}
