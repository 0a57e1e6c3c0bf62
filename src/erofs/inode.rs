//! What an inode is for the writer and for the reader.

use super::format::{Kind, Time};
use super::xattr::Xattrs;

/// The metadata that every inode has, whatever its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission, setuid, setgid and sticky bits; other bits are ignored.
    pub mode: u16,
    /// The owner's user id.
    pub uid: u32,
    /// The owning group's id.
    pub gid: u32,
    /// Modification time. The format keeps no other; the kernel shows it as all of them.
    pub mtime: Time,
    /// The extended attributes.
    pub xattrs: Xattrs,
}

/// An inode that is in the image and has no name yet. The struct is packed, because a tree holds one for every name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(Rust, packed(4))]
pub struct Inode {
    pub(super) nid: u64,
    pub(super) kind: Kind,
}

impl Inode {
    /// Whether it is a symbolic link.
    pub fn is_symlink(self) -> bool {
        self.kind == Kind::Symlink
    }
}

/// A part of a file with content: not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Position of its first byte in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}
