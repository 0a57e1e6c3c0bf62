//! A layer as a folder: what an EROFS image says, laid out name by name.
//!
//! A layer's tar is always read once, into an image; that is where a hostile one is stopped, and where names get their last
//! meaning (whiteouts, opaque folders, the later of two entries). What is laid out here is therefore a tree: every name stands
//! once, beneath a folder, and links are names of one inode. The folder is new and ours alone, and each step goes by the
//! descriptor of the one before ([`tree`]), so a name is a name and never a path.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::{
    erofs::{Found, FoundKind, Image, Meta, Special},
    spill::{Map, Scratch},
    sys::tree::{self, Dress, Folder, Node},
};

/// Bytes of memory for paths; beyond them they go to a file, of which so much stays in memory.
const PATHS: usize = 8 << 20;
const PATHS_CACHE: usize = 2 << 20;

/// Lays the image in `image` out in the folder at `to`, which is new and empty. Nothing is synced. What outgrows memory goes to
/// files in `scratch`.
pub(super) fn lay_out(image: &File, to: &Path, scratch: &Scratch) -> io::Result<()> {
    let image = Image::open(image)?;
    let root = image.inode(image.root())?;
    let folder = Folder::open(to)?;
    let mut layout = Layout { image: &image, root: &folder, known: Map::default(), scratch };
    layout.fill(&folder, &mut Vec::new(), &root)
}

struct Layout<'f> {
    image: &'f Image<'f>,
    root: &'f Folder,
    /// Where a file that has several names got its first, by its number.
    known: Map<Vec<u8>>,
    scratch: &'f Scratch,
}

impl Layout<'_> {
    /// Makes everything beneath a folder, then dresses the folder. As deep as a layer may be (`changeset::Limits::depth`).
    fn fill(&mut self, folder: &Folder, path: &mut Vec<u8>, found: &Found) -> io::Result<()> {
        let image = self.image;
        image.folder(found, |name, nid| {
            let entry = image.inode(nid)?;
            match &entry.kind {
                FoundKind::Folder => {
                    let above = path.len();
                    path.extend_from_slice(if above == 0 { b"" } else { b"/" });
                    path.extend_from_slice(name);
                    self.fill(&folder.folder(name)?, path, &entry)?;
                    path.truncate(above);
                    Ok(())
                }
                FoundKind::Special(Special::CharDevice(0, 0)) => folder.whiteout(name),
                _ => self.name(folder, path, name, &entry),
            }
        })?;
        dressed(&found.meta, |dress| folder.dress(&dress))
    }

    /// Makes a file or the like, or one more name of one that is there.
    fn name(&mut self, folder: &Folder, path: &[u8], name: &[u8], entry: &Found) -> io::Result<()> {
        let number = entry.nid.number().to_be_bytes();
        if let Some(known) = self.known.get(&number)? {
            let at = known.iter().rposition(|byte| *byte == b'/');
            let (at, first) =
                at.map_or((&b""[..], &known[..]), |at| (&known[..at], &known[at + 1..]));
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
            let whole = if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') };
            self.known.insert(Box::from(number), whole)?;
            if self.known.held() > PATHS {
                self.known.spill(self.scratch, PATHS_CACHE)?;
            }
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
