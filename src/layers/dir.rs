//! A layer as a folder: what an EROFS image says, laid out name by name.
//!
//! A layer's tar is always read once, into an image; that is where a hostile one is stopped, and where names get their last
//! meaning (whiteouts, opaque folders, the later of two entries). What is laid out here is therefore a tree: every name stands
//! once, beneath a folder, and links are names of one inode. The folder is new and ours alone, and each step goes by the
//! descriptor of the one before ([`tree`]), so a name is a name and never a path.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::{
    erofs::{Found, FoundKind, Image, Meta, Nid, Special},
    sys::tree::{self, Dress, Folder, Node},
};

/// Lays the image in `image` out in the folder at `to`, which is new and empty. Nothing is synced.
pub(super) fn lay_out(image: &File, to: &Path) -> io::Result<()> {
    let image = Image::open(image)?;
    let root = image.inode(image.root())?;
    let folder = Folder::open(to)?;
    let mut layout = Layout { image, root: &folder, known: HashMap::new() };
    layout.fill(&folder, &mut Vec::new(), &root)
}

struct Layout<'f> {
    image: Image<'f>,
    root: &'f Folder,
    /// Where a file that has several names got its first: the path of its folder, and the name.
    known: HashMap<Nid, (Vec<u8>, Vec<u8>)>,
}

impl Layout<'_> {
    /// Makes everything beneath a folder, then dresses the folder. As deep as a layer may be (`changeset::Limits::depth`).
    fn fill(&mut self, folder: &Folder, path: &mut Vec<u8>, found: &Found) -> io::Result<()> {
        let mut names = Vec::new();
        self.image.folder(found, |name, nid| {
            names.push((name.to_vec(), nid));
            Ok(())
        })?;
        for (name, nid) in names {
            let entry = self.image.inode(nid)?;
            match &entry.kind {
                FoundKind::Folder => {
                    let above = path.len();
                    path.extend_from_slice(if above == 0 { b"" } else { b"/" });
                    path.extend_from_slice(&name);
                    self.fill(&folder.folder(&name)?, path, &entry)?;
                    path.truncate(above);
                }
                FoundKind::Special(Special::CharDevice(0, 0)) => folder.whiteout(&name)?,
                _ => self.name(folder, path, &name, &entry)?,
            }
        }
        dressed(&found.meta, |dress| folder.dress(&dress))
    }

    /// Makes a file or the like, or one more name of one that is there.
    fn name(&mut self, folder: &Folder, path: &[u8], name: &[u8], entry: &Found) -> io::Result<()> {
        if let Some((at, first)) = self.known.get(&entry.nid) {
            return folder.link(name, &self.root.below(at)?, first);
        }
        match &entry.kind {
            FoundKind::File(size) => {
                let file = folder.file(name)?;
                // Its length first, because zeros at its end are not written.
                file.set_len(*size)?;
                self.image.content(entry, |at, piece| write_data(&file, at, piece))?;
                dressed(&entry.meta, |dress| tree::dress(&file, &dress))?;
            }
            FoundKind::Symlink => {
                let target = self.image.target(entry)?;
                dressed(&entry.meta, |dress| folder.symlink(name, &target, &dress))?;
            }
            FoundKind::Special(special) => {
                let node = match special {
                    Special::Fifo => Node::Fifo,
                    Special::Socket => Node::Socket,
                    Special::CharDevice(major, minor) => Node::CharDevice(*major, *minor),
                    Special::BlockDevice(major, minor) => Node::BlockDevice(*major, *minor),
                };
                dressed(&entry.meta, |dress| folder.node(name, node, &dress))?;
            }
            // Only [`Layout::fill`] makes these.
            FoundKind::Folder => return Err(io::ErrorKind::IsADirectory.into()),
        }
        if entry.links > 1 {
            self.known.insert(entry.nid, (path.to_vec(), name.to_vec()));
        }
        Ok(())
    }
}

/// Zeros that fill so many bytes are left out of a new file: they cost the disk nothing there.
const HOLE: usize = 64 << 10;

/// Writes what is more than zeros.
fn write_data(file: &File, at: u64, piece: &[u8]) -> io::Result<()> {
    for (i, part) in piece.chunks(HOLE).enumerate() {
        if part.iter().fold(0, |bits, byte| bits | byte) != 0 {
            file.write_all_at(part, at + (i * HOLE) as u64)?;
        }
    }
    Ok(())
}

fn dressed(meta: &Meta, with: impl FnOnce(Dress<'_>) -> io::Result<()>) -> io::Result<()> {
    let xattrs: Vec<_> = meta.xattrs.named().collect();
    with(Dress {
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: (meta.mtime.seconds, meta.mtime.nanos),
        xattrs: &xattrs,
    })
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
