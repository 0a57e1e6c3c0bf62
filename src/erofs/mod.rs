//! Writes an EROFS image from a stream of entries, in one pass, and reads images that it wrote ([`Image`]).
//!
//! May use: spill
//!
//! `image.rs` reads images. `test_reader.rs` is a second reader, with its own knowledge of the format, for tests only.
//!
//! A [`Writer`] writes each inode as it comes and returns its address. A [`Tree`] holds the names
//! meanwhile. [`Writer::finish`] writes the directories and the superblock:
//!
//! ```text
//! block 0    0     zeros (the place of a boot sector)
//!            1024  superblock, written last: an image whose writing ended early has no magic and cannot be mounted
//!            1152  inode of the root directory, because the superblock has only 16 bits for its nid
//! block 1..        4 KiB blocks of content in the order of arrival, and between them metadata blocks: inodes, each
//!                  with its extended attributes and, where it fits, the last partial block of its content
//! at the end       directories, whose entries need all other nids; the root's attributes if they are many
//! ```
//!
//! The metadata area begins at block 0, so a nid is a byte address divided by 32. Names, nids and attributes of
//! directories are in memory, or in files when they are many. Content is never in memory. The format is that of Linux
//! 5.4 and later (`fs/erofs/erofs_fs.h`) without optional features. The exception is an image with sparse files: Linux
//! has read such holes since 5.15.
//!
//! Deliberately absent: compression, because a layer is written once and mapped many times. Decompression at page
//! faults would cost every pod the time, and save disk space only once. Also absent is any policy: the code that fills
//! the tree decides which names are valid and where.

mod allocator;
mod chunks;
mod dirent;
mod error;
mod finish;
mod format;
mod image;
mod inode;
mod inode_body;
mod spill_values;
mod tree;
mod write_buffer;
mod writer;
mod xattr;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(any(test, fuzzing))]
pub(crate) mod test_reader;
#[cfg(test)]
mod tests;

pub use error::WriteError;
pub use format::{Special, Time};
pub use image::{Image, InodeInfo, InodeKind, Nid};
pub use inode::{Extent, Inode, Meta};
pub use tree::{DirId, Flag, Node, Tree};
pub use write_buffer::WINDOW as WRITER_BUFFER;
pub use writer::{File, Output, Writer};
pub use xattr::{ROOT_MOST as ROOT_XATTRS, VALUE_MOST as XATTR_VALUE, XattrError, Xattrs};
