//! Entries become inodes of an EROFS image, and names.
//!
//! Deliberately absent: the host's file system. Nothing here opens anything by a name of the tar.

use std::borrow::Cow;

use super::below::{Below, Copies, Linked, Shown};
use super::entry::{Entry, Kind};
use super::error::{EntryName, Exceeded, Refusal, UnpackError};
use super::mark::Mark;
use super::marks::Marks;
use super::names::{Names, Parent, Standing};
use super::path::{EntryPath, LINKS_MOST, PathError};
use super::reader::Reader;
use super::{Features, Format, Limits};
use crate::budget::Share;
use crate::erofs::{File, FolderId, Inode, Meta, Output, Special, Tree, WriteError, Writer};

pub(super) struct Layer<'l> {
    writer: Writer<&'l mut dyn Output>,
    names: Names<'l>,
    /// All whiteouts are names of one inode.
    whiteout: Option<Inode>,
    /// Where hard links to files of lower layers get these, if that is wanted.
    copies: Option<Copies<'l>>,
    /// Parts of a path.
    depth: u32,
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
            depth: limits.depth,
            format,
            features: Features::default(),
        }
    }

    /// Takes an entry in, and its content from the reader.
    pub(super) fn add(&mut self, entry: Entry, reader: &mut Reader<'_>) -> Result<(), UnpackError> {
        let Entry { name: at, path, kind, mut meta, marks } = entry;
        let (mark, marks) = match self.format {
            Format::Portable => (Mark::of(&path).map_err(|why| at.refuse(why))?, Marks::default()),
            Format::Native => {
                path.unmarked().map_err(|why| at.refuse(why))?;
                (Mark::Entry, marks)
            }
        };
        let Some((_, name)) = path.split() else {
            self.names.root(meta, &at)?;
            return self.opaque_if(marks.opaque, Tree::ROOT, &at);
        };
        let (hides, name) = match mark {
            Mark::Internal => return Ok(()),
            Mark::Opaque => (true, name),
            Mark::Whiteout(name) => (true, name),
            Mark::Entry => (kind == Kind::Whiteout, name),
        };
        let Some(folder) = self.parent(&path, hides, &at)? else {
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
            Kind::Special(special) => self.writer.special(&meta, special)?,
            Kind::Whiteout => self.whiteout()?,
        };
        self.names.inode(folder, name, inode, &at)
    }

    /// Whether it has folders that it does not name, and to which layers below could give attributes.
    pub(super) fn has_unnamed(&self) -> bool {
        self.format == Format::Portable && self.names.has_unnamed()
    }

    /// Ends the image; answers its bytes, whether the layer hides all that is below it, and what it needs.
    pub(super) fn finish(self, uuid: [u8; 16]) -> Result<(u64, bool, Features), UnpackError> {
        let (tree, is_root_opaque) = self.names.finish()?;
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

    /// The folder of an entry; none for what hides what is hidden already.
    fn parent(
        &mut self,
        path: &EntryPath,
        hides: bool,
        at: &EntryName,
    ) -> Result<Option<FolderId>, UnpackError> {
        let mut path = Cow::Borrowed(path);
        for _ in 0..=LINKS_MOST {
            let above = path.split().map(|(above, _)| above).into_iter().flatten();
            let (copies, format) = (self.copies.as_ref(), self.format);
            let below = |depth| attributes_below(copies, format, &path, depth, at);
            match self.names.parent(above, hides, at, below)? {
                Parent::Folder(folder) => return Ok(Some(folder)),
                Parent::Nowhere => return Ok(None),
                Parent::Through(link, depth) => {
                    path = Cow::Owned(self.through(&path, link, depth, at)?);
                }
            }
        }
        Err(at.refuse(PathError::Links))
    }

    /// Where `path` leads, whose part number `depth` is `link`.
    fn through(
        &mut self,
        path: &EntryPath,
        link: Inode,
        depth: usize,
        at: &EntryName,
    ) -> Result<EntryPath, UnpackError> {
        let target = self.writer.target(link).map_err(WriteError::Io)?;
        let path = path.through(depth, &target).map_err(|why| at.refuse(why))?;
        if path.parts().count() > self.depth as usize {
            return Err(at.exceed(Exceeded::Depth(self.depth)));
        }
        Ok(path)
    }

    /// Gives what stands at `target` one more name; what only a lower layer has is copied into this one.
    fn link(
        &mut self,
        folder: FolderId,
        name: &[u8],
        target: &EntryPath,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let shown = || EntryName::new(target.as_bytes());
        let mut target = Cow::Borrowed(target);
        for _ in 0..=LINKS_MOST {
            let linked = match (self.names.at(&target)?, &mut self.copies) {
                (Standing::Inode(inode), _) => return self.names.link(folder, name, inode, at),
                (Standing::Folder, _) => return Err(at.refuse(Refusal::LinkToFolder(shown()))),
                (Standing::Through(link, depth), _) => {
                    target = Cow::Owned(self.through(&target, link, depth, at)?);
                    continue;
                }
                (_, None) => {
                    return Err(UnpackError::LinkElsewhere { name: at.clone(), target: shown() });
                }
                (Standing::Hidden, _) => return Err(at.refuse(Refusal::LinkToNothing(shown()))),
                (Standing::Unknown(folders), Some(copies)) => copies.find(&target, folders, at)?,
            };
            match linked {
                Shown::There(linked) => return self.copy(folder, name, linked, at),
                Shown::Through(depth, link) => {
                    let leads = target.through(depth, &link).map_err(|why| at.refuse(why))?;
                    target = Cow::Owned(leads);
                }
                Shown::Nothing => return Err(at.refuse(Refusal::LinkToNothing(shown()))),
            }
        }
        Err(at.refuse(PathError::Links))
    }

    /// Gives the copy of a lower layer's inode a name.
    fn copy(
        &mut self,
        folder: FolderId,
        name: &[u8],
        linked: Linked,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let id = linked.id;
        if let Some(inode) = self.names.copy_of(id)? {
            return self.names.link(folder, name, inode, at);
        }
        let Some(copies) = &mut self.copies else { return Ok(()) };
        let inode = copies.copy(linked, &mut self.writer, at)?;
        self.names.copied(id, inode)?;
        self.names.inode(folder, name, inode, at)
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

/// What the layers below say of the folder at the part of `path` with this number.
fn attributes_below(
    copies: Option<&Copies<'_>>,
    format: Format,
    path: &EntryPath,
    depth: usize,
    at: &EntryName,
) -> Result<Option<Meta>, UnpackError> {
    let folder = path.parts().take(depth + 1).collect::<Vec<_>>().join(&b'/');
    match (copies, format) {
        (Some(copies), _) => copies.folder(&folder, depth),
        (None, Format::Portable) => {
            let folder = EntryName::new(&folder);
            Err(UnpackError::FolderElsewhere { name: at.clone(), folder })
        }
        // Its writer names every folder that has attributes.
        (None, Format::Native) => Ok(None),
    }
}

/// Gives a file the content that the reader has for it.
fn fill(mut file: File<'_, impl Output>, reader: &mut Reader<'_>) -> Result<Inode, UnpackError> {
    reader.content(|piece| Ok(file.write(piece)?))?;
    Ok(file.finish()?)
}
