//! Entries become inodes of an EROFS image, and names.
//!
//! Deliberately absent: the host's file system. Nothing here opens anything.

use std::fs::File;
use std::io::Read;

use super::Limits;
use super::entry::{Entry, Kind};
use super::error::UnpackError;
use super::mark::Mark;
use super::names::Names;
use super::reader::Reader;
use crate::erofs::{Inode, Meta, Special, WriteError, Writer};

pub(super) struct Layer<'f> {
    writer: Writer<&'f File>,
    names: Names,
    /// All whiteouts are names of one inode.
    whiteout: Option<Inode>,
}

impl<'f> Layer<'f> {
    pub(super) fn new(out: &'f File, limits: &Limits) -> Self {
        Self { writer: Writer::new(out), names: Names::new(limits), whiteout: None }
    }

    /// Takes an entry in, and its content from the reader.
    pub(super) fn add<R: Read>(
        &mut self,
        entry: Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        let Entry { name: at, path, kind, meta } = entry;
        let mark = Mark::of(&path).map_err(|why| at.refuse(why))?;
        let Some((above, name)) = path.split() else {
            return self.names.root(meta, &at);
        };
        let (hides, name) = match mark {
            Mark::Internal => return Ok(()),
            Mark::Opaque => (true, name),
            Mark::Whiteout(name) => (true, name),
            Mark::Entry => (kind == Kind::Whiteout, name),
        };
        let Some(folder) = self.names.parent(above, hides, &at)? else {
            return Ok(());
        };
        if mark == Mark::Opaque {
            return self.names.make_opaque(folder, &at);
        }
        if hides {
            let whiteout = self.whiteout()?;
            return self.names.hide(folder, name, whiteout, &at);
        }
        let inode = match kind {
            Kind::Folder => return self.names.folder(folder, name, meta, &at),
            Kind::Link(target) => return self.names.link(folder, name, &target, &at),
            Kind::File(size) => self.file(&meta, size, reader)?,
            Kind::Symlink(target) => self.writer.symlink(&meta, &target)?,
            Kind::Fifo => self.writer.special(&meta, Special::Fifo)?,
            Kind::Whiteout => self.whiteout()?,
        };
        self.names.inode(folder, name, inode, &at)
    }

    /// Ends the image; answers its bytes, and whether the layer hides all that is below it.
    pub(super) fn finish(self, uuid: [u8; 16]) -> Result<(u64, bool), UnpackError> {
        let (tree, is_root_opaque) = self.names.finish();
        Ok((self.writer.finish(tree, uuid)?, is_root_opaque))
    }

    fn file<R: Read>(
        &mut self,
        meta: &Meta,
        size: u64,
        reader: &mut Reader<R>,
    ) -> Result<Inode, UnpackError> {
        let mut file = self.writer.file(meta, size)?;
        reader.content(|piece| Ok(file.write(piece)?))?;
        Ok(file.finish()?)
    }

    fn whiteout(&mut self) -> Result<Inode, WriteError> {
        let inode = match self.whiteout {
            Some(inode) => inode,
            None => self.writer.special(&Meta::default(), Special::CharDevice(0, 0))?,
        };
        self.whiteout = Some(inode);
        Ok(inode)
    }
}
