//! Finds entries of a tree, and the attributes that a file outside of the workspace gets.
//!
//! Deliberately absent: overlay's own extended attributes and the labels of the host.

use std::{fs::Metadata, io, os::unix::fs::MetadataExt as _};

use crate::{
    changeset::xattrs,
    sys::{
        tree::{Attributes, Node},
        tree_reader::{Entry, EntryType},
    },
};

/// Owner, mode, mtime and extended attributes.
#[derive(Debug, Clone)]
pub(super) struct FileAttributes {
    pub(super) owner: (u32, u32),
    mode: u16,
    pub(super) mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FileAttributes {
    /// Those of an entry.
    pub(super) fn of(entry: &Entry) -> io::Result<Self> {
        let metadata = entry.metadata()?;
        Ok(Self {
            owner: (metadata.uid(), metadata.gid()),
            mode: (metadata.mode() & 0o7777) as u16,
            mtime: (metadata.mtime(), metadata.mtime_nsec() as u32),
            xattrs: xattrs(entry)?,
        })
    }

    pub(super) fn borrow(&self) -> Attributes<'_> {
        let ((uid, gid), mtime) = (self.owner, self.mtime);
        Attributes { mode: self.mode, uid, gid, mtime, xattrs: &self.xattrs }
    }
}

/// What identifies a file of a tree that does not change meanwhile. In an overlay over a directory that goes on living, the
/// inode number of a file can be that of another one: the copy of a file has that of its original, which can get another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    inode: (u64, u64),
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FileId {
    /// That of a file with several names. `None` if it has one.
    pub(super) fn of_several_names(metadata: &Metadata) -> Option<Self> {
        (metadata.nlink() > 1).then(|| Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// A special file of this type. `None` for the types that are not special.
pub(super) fn node(kind: EntryType) -> Option<Node> {
    match kind {
        EntryType::Fifo => Some(Node::Fifo),
        EntryType::Socket => Some(Node::Socket),
        EntryType::CharDevice(major, minor) => Some(Node::CharDevice(major, minor)),
        EntryType::Whiteout => Some(Node::CharDevice(0, 0)),
        EntryType::BlockDevice(major, minor) => Some(Node::BlockDevice(major, minor)),
        EntryType::File | EntryType::Dir | EntryType::Symlink => None,
    }
}

/// What a tree has at a path. `None` also if a directory on the way is missing or is something else.
pub(super) fn lookup(root: &Entry, path: &[u8]) -> io::Result<Option<Entry>> {
    if path.is_empty() {
        return root.again().map(Some);
    }
    let mut parts = path.split(|byte| *byte == b'/').peekable();
    let mut at: Option<Entry> = None;
    while let Some(part) = parts.next() {
        let Some(found) = at.as_ref().unwrap_or(root).entry(part)? else { return Ok(None) };
        if parts.peek().is_some() && found.entry_type() != EntryType::Dir {
            return Ok(None);
        }
        at = Some(found);
    }
    Ok(at)
}
