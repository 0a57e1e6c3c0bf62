//! Hard links to files of lower layers: what a layer may have to know of those below it.
//!
//! Overlay has no inode in two layers, so such a link becomes a copy, like a copy-up; two links to one file share one.
//!
//! Deliberately absent: how a stack shows a path. Whoever holds the layers knows.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt as _;

use super::error::{EntryName, Exceeded, Refusal, UnpackError};
use super::path::EntryPath;
use crate::erofs::{Extent, Inode, Meta, Special, Writer};

/// Bytes copied at a time.
const PIECE: usize = 128 << 10;

/// The layers below the one that is being made, as overlay would show them.
pub trait Below {
    /// What stands at `path`: parts without `.` and `..`, parted by `/`, from the root. Of its first `folders` parts it is known that
    /// they are folders above, so what is none there is hidden.
    fn find(&self, path: &[u8], folders: usize) -> io::Result<Shown>;
}

/// What the layers below show of a path.
#[derive(Debug)]
pub enum Shown {
    /// Nothing is there, or it is hidden, or the way there leads through what is neither folder nor link.
    Nothing,
    /// The part of the path with this number is a symbolic link to this text, and not the last.
    Through(usize, Vec<u8>),
    /// It is there.
    There(Linked),
}

/// Something in a layer below.
#[derive(Debug)]
pub struct Linked {
    /// Which inode it is: device and number.
    pub id: (u64, u64),
    /// Its attributes, without overlay's own marks.
    pub meta: Meta,
    /// What it is.
    pub kind: LinkedKind,
}

/// What a hard link may lead to.
#[derive(Debug)]
pub enum LinkedKind {
    /// A regular file.
    File {
        /// Open for reading.
        content: File,
        /// Its bytes, holes among them.
        size: u64,
        /// The parts that are no holes: sorted, apart, within the size.
        data: Vec<Extent>,
    },
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// A named pipe or a device.
    Special(Special),
    /// A folder, to which no hard link leads. What lies in it without naming it has its attributes.
    Folder,
}

/// Takes copies of files below.
pub(super) struct Copies<'l> {
    below: &'l dyn Below,
    /// Bytes that may still be copied.
    left: u64,
    most: u64,
}

impl<'l> Copies<'l> {
    pub(super) fn new(below: &'l dyn Below, most: u64) -> Self {
        Self { below, left: most, most }
    }

    /// What the layers below show of the target of the link `at`, whose first `folders` parts are folders of this layer too.
    pub(super) fn find(
        &self,
        target: &EntryPath,
        folders: usize,
        at: &EntryName,
    ) -> Result<Shown, UnpackError> {
        let name = || EntryName::new(target.as_bytes());
        match self.below.find(target.as_bytes(), folders) {
            Ok(Shown::There(linked)) if matches!(linked.kind, LinkedKind::Folder) => {
                Err(at.refuse(Refusal::LinkToFolder(name())))
            }
            Ok(shown) => Ok(shown),
            Err(source) => Err(UnpackError::Below { name: name(), source }),
        }
    }

    /// The attributes of the folder that the layers below show at `path`, whose parts but the last are folders of this layer too.
    pub(super) fn folder(&self, path: &[u8], depth: usize) -> Result<Option<Meta>, UnpackError> {
        match self.below.find(path, depth) {
            Ok(Shown::There(Linked { meta, kind: LinkedKind::Folder, .. })) => Ok(Some(meta)),
            Ok(_) => Ok(None),
            Err(source) => Err(UnpackError::Below { name: EntryName::new(path), source }),
        }
    }

    /// Writes it as an inode of this layer.
    pub(super) fn copy(
        &mut self,
        linked: Linked,
        writer: &mut Writer<impl Write + Seek>,
        at: &EntryName,
    ) -> Result<Inode, UnpackError> {
        let Linked { meta, kind, .. } = linked;
        match kind {
            LinkedKind::File { content, size, data } => {
                if size > self.most {
                    return Err(at.exceed(Exceeded::FileBytes(self.most)));
                }
                let bytes = data.iter().map(|extent| extent.len).sum();
                let left = self.left.checked_sub(bytes);
                self.left = left.ok_or_else(|| at.exceed(Exceeded::LinkedBytes(self.most)))?;
                let mut file = writer.sparse_file(&meta, size, &data)?;
                let mut piece = vec![0; PIECE];
                for Extent { offset, len } in data {
                    let (mut from, behind) = (offset, offset + len);
                    while from < behind {
                        let most = piece.len().min(usize::try_from(behind - from).unwrap_or(PIECE));
                        let read = content.read_exact_at(&mut piece[..most], from);
                        read.map_err(|source| UnpackError::Below { name: at.clone(), source })?;
                        file.write(&piece[..most])?;
                        from += most as u64;
                    }
                }
                Ok(file.finish()?)
            }
            LinkedKind::Symlink(target) => Ok(writer.symlink(&meta, &target)?),
            LinkedKind::Special(special) => Ok(writer.special(&meta, special)?),
            LinkedKind::Folder => Err(at.refuse(Refusal::LinkToFolder(at.clone()))),
        }
    }
}
