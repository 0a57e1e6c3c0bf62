//! Adds entries to an EROFS image: inodes to the writer, names to the directory tree.
//!
//! Deliberately absent: the host's file system. Nothing here opens a file by a name from the tar.

use std::borrow::Cow;

use super::dir_tree::{DirTree, Lookup, Parent};
use super::entry::{Entry, Kind};
use super::error::{EntryName, Exceeded, InvalidLayer, UnpackError};
use super::layers_below::{Copies, EntryBelow, LayersBelow, LookupBelow};
use super::overlay_xattrs::OverlayXattrs;
use super::path::{EntryPath, LINKS_MOST, PathError};
use super::reader::Reader;
use super::whiteout::Meaning;
use super::{Format, LayerFeatures, Limits};
use crate::budget::Share;
use crate::erofs::{DirId, File, Inode, Meta, Output, Special, Tree, WriteError, Writer};

pub(super) struct Layer<'l> {
    writer: Writer<&'l mut dyn Output>,
    names: DirTree<'l>,
    /// All whiteouts are names of one inode.
    whiteout: Option<Inode>,
    /// Copies files of lower layers for hard links. `None` if the layer is unpacked without the layers below.
    copies: Option<Copies<'l>>,
    /// The most parts of a path.
    depth: u32,
    format: Format,
    features: LayerFeatures,
}

impl<'l> Layer<'l> {
    pub(super) fn new(
        out: &'l mut dyn Output,
        limits: &'l Limits,
        share: &'l Share,
        below: Option<&'l dyn LayersBelow>,
        format: Format,
    ) -> Self {
        Self {
            writer: Writer::new(out),
            names: DirTree::new(limits, share),
            whiteout: None,
            copies: below.map(|below| Copies::new(below, limits.tar_bytes)),
            depth: limits.depth,
            format,
            features: LayerFeatures::default(),
        }
    }

    /// Adds an entry, with its content from the reader.
    pub(super) fn add(&mut self, entry: Entry, reader: &mut Reader<'_>) -> Result<(), UnpackError> {
        let Entry { name: at, path, kind, mut meta, marks } = entry;
        let (meaning, marks) = match self.format {
            Format::Portable => {
                (Meaning::of(&path).map_err(|why| at.refuse(why))?, OverlayXattrs::default())
            }
            Format::Native => {
                path.unmarked().map_err(|why| at.refuse(why))?;
                (Meaning::Entry, marks)
            }
        };
        let Some((_, name)) = path.split() else {
            self.names.root(meta, &at)?;
            return self.opaque_if(marks.opaque, Tree::ROOT, &at);
        };
        let (hides, name) = match meaning {
            Meaning::Internal => return Ok(()),
            Meaning::Opaque => (true, name),
            Meaning::Whiteout(name) => (true, name),
            Meaning::Entry => (kind == Kind::Whiteout, name),
        };
        let Some(dir) = self.parent(&path, hides, &at)? else {
            return Ok(());
        };
        if meaning == Meaning::Opaque {
            return self.names.make_opaque(dir, &at);
        }
        if hides {
            let whiteout = self.whiteout()?;
            return self.names.hide(dir, name, whiteout, &at);
        }
        let marked = match kind {
            Kind::Dir => marks.on_dir(&mut meta.xattrs, &mut self.features),
            Kind::File(_) | Kind::Sparse(_) | Kind::Mapped(_) => {
                marks.on_file(&mut meta.xattrs, &mut self.features)
            }
            _ => marks.on_other(),
        };
        marked.map_err(|why| at.refuse(why))?;
        let inode = match kind {
            Kind::Dir => {
                let made = self.names.dir(dir, name, meta, &at)?;
                return self.opaque_if(marks.opaque, made, &at);
            }
            Kind::Link(target) => return self.link(dir, name, &target, &at),
            Kind::File(size) => fill(self.writer.file(&meta, size)?, reader)?,
            Kind::Sparse(file) => {
                fill(self.writer.sparse_file(&meta, file.size, &file.extents)?, reader)?
            }
            Kind::Mapped(file) => {
                let mut inode = self.writer.sparse_file(&meta, file.size, &file.extents)?;
                reader.content_of(&file.extents, |piece| Ok(inode.write(piece)?))?;
                inode.finish()?
            }
            Kind::Symlink(target) => self.writer.symlink(&meta, &target)?,
            Kind::Special(special) => self.writer.special(&meta, special)?,
            Kind::Whiteout => self.whiteout()?,
        };
        self.names.inode(dir, name, inode, &at)
    }

    /// Whether it has unnamed directories whose attributes the layers below could give.
    pub(super) fn has_unnamed(&self) -> bool {
        self.format == Format::Portable && self.names.has_unnamed()
    }

    /// Completes the image. Returns its length in bytes, whether the layer hides all that is below it, and the features
    /// that it needs.
    pub(super) fn finish(self, uuid: [u8; 16]) -> Result<(u64, bool, LayerFeatures), UnpackError> {
        let (tree, is_root_opaque) = self.names.finish()?;
        Ok((self.writer.finish(tree, uuid)?, is_root_opaque, self.features))
    }

    fn opaque_if(&mut self, opaque: bool, dir: DirId, at: &EntryName) -> Result<(), UnpackError> {
        if opaque { self.names.make_opaque(dir, at) } else { Ok(()) }
    }

    /// The directory of an entry. `None` for a whiteout where everything is hidden already.
    fn parent(
        &mut self,
        path: &EntryPath,
        hides: bool,
        at: &EntryName,
    ) -> Result<Option<DirId>, UnpackError> {
        let mut path = Cow::Borrowed(path);
        for _ in 0..=LINKS_MOST {
            let above = path.split().map(|(above, _)| above).into_iter().flatten();
            let (copies, format) = (self.copies.as_ref(), self.format);
            let below = |depth| attributes_below(copies, format, &path, depth, at);
            match self.names.parent(above, hides, at, below)? {
                Parent::Dir(dir) => return Ok(Some(dir)),
                Parent::Nowhere => return Ok(None),
                Parent::Through(link, depth) => {
                    path = Cow::Owned(self.through(&path, link, depth, at)?);
                }
            }
        }
        Err(at.refuse(PathError::Links))
    }

    /// The path that `path` resolves to if its part number `depth` is the link `link`.
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

    /// Adds a name for the file at `target`. If only a lower layer has the file, a copy of it is written into this
    /// layer.
    fn link(
        &mut self,
        dir: DirId,
        name: &[u8],
        target: &EntryPath,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let shown = || EntryName::new(target.as_bytes());
        let mut target = Cow::Borrowed(target);
        for _ in 0..=LINKS_MOST {
            let linked = match (self.names.at(&target)?, &mut self.copies) {
                (Lookup::Inode(inode), _) => return self.names.link(dir, name, inode, at),
                (Lookup::Dir, _) => return Err(at.refuse(InvalidLayer::LinkToDir(shown()))),
                (Lookup::Through(link, depth), _) => {
                    target = Cow::Owned(self.through(&target, link, depth, at)?);
                    continue;
                }
                (_, None) => {
                    return Err(UnpackError::LinkElsewhere { name: at.clone(), target: shown() });
                }
                (Lookup::Hidden, _) => return Err(at.refuse(InvalidLayer::LinkToNothing(shown()))),
                (Lookup::Unknown(dirs), Some(copies)) => copies.find(&target, dirs, at)?,
            };
            match linked {
                LookupBelow::There(linked) => return self.copy(dir, name, linked, at),
                LookupBelow::Through(depth, link) => {
                    let leads = target.through(depth, &link).map_err(|why| at.refuse(why))?;
                    target = Cow::Owned(leads);
                }
                LookupBelow::Nothing => {
                    return Err(at.refuse(InvalidLayer::LinkToNothing(shown())));
                }
            }
        }
        Err(at.refuse(PathError::Links))
    }

    /// Adds a name for the copy of a lower layer's inode.
    fn copy(
        &mut self,
        dir: DirId,
        name: &[u8],
        linked: EntryBelow,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let id = linked.id;
        if let Some(inode) = self.names.copy_of(id)? {
            return self.names.link(dir, name, inode, at);
        }
        let Some(copies) = &mut self.copies else { return Ok(()) };
        let inode = copies.copy(linked, &mut self.writer, at)?;
        self.names.copied(id, inode)?;
        self.names.inode(dir, name, inode, at)
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

/// The metadata that the layers below have for the directory that is the part of `path` with this number.
fn attributes_below(
    copies: Option<&Copies<'_>>,
    format: Format,
    path: &EntryPath,
    depth: usize,
    at: &EntryName,
) -> Result<Option<Meta>, UnpackError> {
    let dir = path.parts().take(depth + 1).collect::<Vec<_>>().join(&b'/');
    match (copies, format) {
        (Some(copies), _) => copies.dir(&dir, depth),
        (None, Format::Portable) => {
            let dir = EntryName::new(&dir);
            Err(UnpackError::DirElsewhere { name: at.clone(), dir })
        }
        // The writer of a native layer names every directory that has attributes.
        (None, Format::Native) => Ok(None),
    }
}

/// Writes the content of the reader's current entry into a file.
fn fill(mut file: File<'_, impl Output>, reader: &mut Reader<'_>) -> Result<Inode, UnpackError> {
    reader.content(|piece| Ok(file.write(piece)?))?;
    Ok(file.finish()?)
}
