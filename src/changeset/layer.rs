//! Entries become inodes of an EROFS image, and names.
//!
//! Deliberately absent: the host's file system. Nothing here opens anything by a name of the tar.

use std::io::{Seek, Write};

use super::below::{Below, Copies};
use super::entry::{Entry, Kind};
use super::error::{EntryName, Refusal, UnpackError};
use super::mark::Mark;
use super::marks::Marks;
use super::names::{Names, Standing};
use super::path::EntryPath;
use super::reader::Reader;
use super::{Features, Format, Limits, Output};
use crate::budget::Share;
use crate::erofs::{File, FolderId, Inode, Meta, Special, Tree, WriteError, Writer};

pub(super) struct Layer<'l> {
    writer: Writer<&'l mut dyn Output>,
    names: Names<'l>,
    /// All whiteouts are names of one inode.
    whiteout: Option<Inode>,
    /// Where hard links to files of lower layers get these, if that is wanted.
    copies: Option<Copies<'l>>,
    format: Format,
    features: Features,
}

impl<'l> Layer<'l> {
    pub(super) fn new(
        out: &'l mut dyn Output,
        limits: &'l Limits,
        share: &'l Share,
        below: Option<&'l dyn Below>,
        format: Format,
    ) -> Self {
        Self {
            writer: Writer::new(out),
            names: Names::new(limits, share),
            whiteout: None,
            copies: below.map(|below| Copies::new(below, limits.tar_bytes)),
            format,
            features: Features::default(),
        }
    }

    /// Takes an entry in, and its content from the reader.
    pub(super) fn add(
        &mut self,
        entry: Entry,
        reader: &mut Reader<'_, '_>,
    ) -> Result<(), UnpackError> {
        let Entry { name: at, path, kind, mut meta, marks } = entry;
        let (mark, marks) = match self.format {
            Format::Portable => (Mark::of(&path).map_err(|why| at.refuse(why))?, Marks::default()),
            Format::Native => (Mark::Entry, marks),
        };
        let Some((above, name)) = path.split() else {
            self.names.root(meta, &at)?;
            return self.opaque_if(marks.opaque, Tree::ROOT, &at);
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
        let marked = match kind {
            Kind::Folder => marks.on_folder(&mut meta.xattrs, &mut self.features),
            Kind::File(_) | Kind::Sparse(_) | Kind::Holed(_) => {
                marks.on_file(&mut meta.xattrs, &mut self.features)
            }
            _ => marks.on_other(),
        };
        marked.map_err(|why| at.refuse(why))?;
        let inode = match kind {
            Kind::Folder => {
                let made = self.names.folder(folder, name, meta, &at)?;
                return self.opaque_if(marks.opaque, made, &at);
            }
            Kind::Link(target) => return self.link(folder, name, &target, &at),
            Kind::File(size) => fill(self.writer.file(&meta, size)?, reader)?,
            Kind::Sparse(file) => {
                fill(self.writer.sparse_file(&meta, file.size, &file.extents)?, reader)?
            }
            Kind::Holed(file) => {
                let mut inode = self.writer.sparse_file(&meta, file.size, &file.extents)?;
                reader.content_of(&file.extents, |piece| Ok(inode.write(piece)?))?;
                inode.finish()?
            }
            Kind::Symlink(target) => self.writer.symlink(&meta, &target)?,
            Kind::Fifo => self.writer.special(&meta, Special::Fifo)?,
            Kind::Whiteout => self.whiteout()?,
        };
        self.names.inode(folder, name, inode, &at)
    }

    /// Ends the image; answers its bytes, whether the layer hides all that is below it, and what it needs.
    pub(super) fn finish(self, uuid: [u8; 16]) -> Result<(u64, bool, Features), UnpackError> {
        let (tree, is_root_opaque) = self.names.finish();
        Ok((self.writer.finish(tree, uuid)?, is_root_opaque, self.features))
    }

    fn opaque_if(
        &mut self,
        opaque: bool,
        folder: FolderId,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        if opaque { self.names.make_opaque(folder, at) } else { Ok(()) }
    }

    /// Gives what stands at `target` one more name; what only a lower layer has is copied into this one.
    fn link(
        &mut self,
        folder: FolderId,
        name: &[u8],
        target: &EntryPath,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let standing = self.names.at(target);
        let target = EntryName::new(target.as_bytes());
        match (standing, &mut self.copies) {
            (Standing::Inode(inode), _) => self.names.link(folder, name, inode, at),
            (Standing::Folder, _) => Err(at.refuse(Refusal::LinkToFolder(target))),
            (_, None) => Err(UnpackError::LinkElsewhere { name: at.clone(), target }),
            (Standing::Hidden, _) => Err(at.refuse(Refusal::LinkToNothing(target))),
            (Standing::Unknown, Some(copies)) => {
                let linked = copies.find(target.as_bytes(), at)?;
                let id = linked.id;
                if let Some(inode) = self.names.copy_of(id) {
                    return self.names.link(folder, name, inode, at);
                }
                let inode = copies.copy(linked, &mut self.writer, at)?;
                self.names.copied(id, inode);
                self.names.inode(folder, name, inode, at)
            }
        }
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

/// Gives a file the content that the reader has for it.
fn fill(
    mut file: File<'_, impl Write + Seek>,
    reader: &mut Reader<'_, '_>,
) -> Result<Inode, UnpackError> {
    reader.content(|piece| Ok(file.write(piece)?))?;
    Ok(file.finish()?)
}
