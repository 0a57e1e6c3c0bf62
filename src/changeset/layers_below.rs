//! What a layer gets from the layers below it: for hard links to their files, and for attributes of unnamed
//! directories.
//!
//! Overlay has no inode in two layers, so such a link becomes a copy, like a copy-up. Two links to one file share one
//! copy.
//!
//! Deliberately absent: how a stack of layers shows a path. The caller that has the layers implements that.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt as _;

use super::error::{EntryName, Exceeded, InvalidLayer, UnpackError};
use super::path::EntryPath;
use crate::erofs::{Extent, Inode, Meta, Special, Writer};

/// Bytes that are copied at a time.
const PIECE: usize = 128 << 10;

/// The layers below the one that is being unpacked, as overlay would show them.
pub trait LayersBelow {
    /// What is at `path`: parts without `.` and `..`, separated by `/`, from the root. The first `dirs` parts are
    /// directories in the layer above, so a non-directory below is hidden there.
    fn find(&self, path: &[u8], dirs: usize) -> io::Result<LookupBelow>;
}

/// What the layers below show at a path.
#[derive(Debug)]
pub enum LookupBelow {
    /// Nothing: it does not exist, it is hidden, or the path leads through something that is neither directory nor
    /// link.
    Nothing,
    /// The path's part with this number, which is not the last, is a symbolic link to this target.
    Through(usize, Vec<u8>),
    /// The path exists.
    There(EntryBelow),
}

/// A file or directory in a layer below.
#[derive(Debug)]
pub struct EntryBelow {
    /// The identity of the inode: device and inode number.
    pub id: (u64, u64),
    /// Its metadata, without overlay's own xattrs.
    pub meta: Meta,
    /// The type, and what belongs to it.
    pub kind: EntryBelowKind,
}

/// The type of an inode in a layer below.
#[derive(Debug)]
pub enum EntryBelowKind {
    /// A regular file.
    File {
        /// The file, open for reading.
        content: File,
        /// Length in bytes, holes included.
        size: u64,
        /// The parts that are not holes: sorted, not adjacent, within the size.
        data: Vec<Extent>,
    },
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A named pipe or a device.
    Special(Special),
    /// A directory. A hard link to it is refused; an unnamed directory gets its attributes.
    Dir,
}

/// Copies files of the layers below.
pub(super) struct Copies<'l> {
    below: &'l dyn LayersBelow,
    /// Bytes that may still be copied.
    left: u64,
    most: u64,
}

impl<'l> Copies<'l> {
    pub(super) fn new(below: &'l dyn LayersBelow, most: u64) -> Self {
        Self { below, left: most, most }
    }

    /// What the layers below show at `target` of the link `at`. The first `dirs` parts of the target are directories
    /// of this layer too.
    pub(super) fn find(
        &self,
        target: &EntryPath,
        dirs: usize,
        at: &EntryName,
    ) -> Result<LookupBelow, UnpackError> {
        let name = || EntryName::new(target.as_bytes());
        match self.below.find(target.as_bytes(), dirs) {
            Ok(LookupBelow::There(linked)) if matches!(linked.kind, EntryBelowKind::Dir) => {
                Err(at.refuse(InvalidLayer::LinkToDir(name())))
            }
            Ok(shown) => Ok(shown),
            Err(source) => Err(UnpackError::Below { name: name(), source }),
        }
    }

    /// The metadata of the directory that the layers below show at `path`. All parts but the last are directories of
    /// this layer too.
    pub(super) fn dir(&self, path: &[u8], depth: usize) -> Result<Option<Meta>, UnpackError> {
        match self.below.find(path, depth) {
            Ok(LookupBelow::There(EntryBelow { meta, kind: EntryBelowKind::Dir, .. })) => {
                Ok(Some(meta))
            }
            Ok(_) => Ok(None),
            Err(source) => Err(UnpackError::Below { name: EntryName::new(path), source }),
        }
    }

    /// Writes a copy of `linked` as an inode of this layer.
    pub(super) fn copy(
        &mut self,
        linked: EntryBelow,
        writer: &mut Writer<impl Write + Seek>,
        at: &EntryName,
    ) -> Result<Inode, UnpackError> {
        let EntryBelow { meta, kind, .. } = linked;
        match kind {
            EntryBelowKind::File { content, size, data } => {
                if size > self.most {
                    return Err(at.exceed(Exceeded::FileBytes(self.most)));
                }
                let bytes = data.iter().map(|extent| extent.len).sum();
                let left = self.left.checked_sub(bytes);
                self.left = left.ok_or_else(|| at.exceed(Exceeded::LinkedBytes(self.most)))?;
                let mut file = writer.sparse_file(&meta, size, &data)?;
                let mut piece = vec![0; PIECE];
                for Extent { offset, len } in data {
                    let (mut from, end) = (offset, offset + len);
                    while from < end {
                        let most = piece.len().min(usize::try_from(end - from).unwrap_or(PIECE));
                        let read = content.read_exact_at(&mut piece[..most], from);
                        read.map_err(|source| UnpackError::Below { name: at.clone(), source })?;
                        file.write(&piece[..most])?;
                        from += most as u64;
                    }
                }
                Ok(file.finish()?)
            }
            EntryBelowKind::Symlink(target) => Ok(writer.symlink(&meta, &target)?),
            EntryBelowKind::Special(special) => Ok(writer.special(&meta, special)?),
            EntryBelowKind::Dir => Err(at.refuse(InvalidLayer::LinkToDir(at.clone()))),
        }
    }
}
