//! Writes an EROFS image from a stream of entries, in one pass.
//!
//! May use: spill
//!
//! A [`Writer`] takes inodes as they come and answers each with its address; a [`Tree`] holds the names
//! meanwhile; [`Writer::finish`] puts the two together:
//!
//! ```text
//! block 0    0     zeros (a boot sector's place)
//!            1024  superblock, written last of all: an image cut short has no magic and never mounts
//!            1152  the root folder's inode, because the superblock keeps its nid in 16 bits
//! block 1..        4 KiB blocks of content as it arrives, and between them metadata blocks: inodes, each
//!                  with its extended attributes and, where it fits, the last partial block of its content
//! at the end       folders, whose entries need every other nid; the root's attributes if they are many
//! ```
//!
//! The metadata area begins at block 0, so a nid is a byte address divided by 32. Memory holds names, nids and
//! folders' attributes, or files do where these are many; never content. The format is that of Linux 5.4 and later (`fs/erofs/erofs_fs.h`): no
//! feature a kernel could lack, but for images with sparse files in them, whose holes Linux reads since 5.15.
//!
//! Deliberately absent: compression, because a layer is written once to be mapped many times and unpacking it
//! at page faults would cost every pod what the disk saves once. And any policy: which names may stand where is
//! for whoever fills the tree.

mod body;
mod chunks;
mod finish;
mod format;
mod image;
mod kept;
mod listing;
mod space;
mod tree;
mod window;
mod writer;
mod xattr;

#[cfg(test)]
pub(crate) mod reader;
#[cfg(test)]
mod tests;

pub use chunks::Extent;
pub use format::{Special, Time};
pub use image::{Found, FoundKind, Image, Nid};
pub use tree::{Flag, FolderId, Node, Tree};
pub use window::WINDOW as WRITER_BUFFER;
pub use writer::{File, Inode, Meta, Output, WriteError, Writer};
pub use xattr::{ROOT_MOST as ROOT_XATTRS, VALUE_MOST as XATTR_VALUE, XattrError, Xattrs};
