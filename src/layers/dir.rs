//! A layer as a directory: what an EROFS image says, laid out name by name.
//!
//! A layer's tar is always read once, into an image; that is where a hostile one is stopped, and where names get their last
//! meaning (whiteouts, opaque directories, the later of two entries). What is laid out here is therefore a tree: every name stands
//! once, beneath a directory, and links are names of one inode. The directory is new and ours alone, and each step goes by the
//! descriptor of the one before ([`tree`]), so a name is a name and never a path.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::{
    erofs::{Image, InodeInfo, InodeKind, Meta, Special},
    spill::{Map, Scratch},
    sys::tree::{self, Attributes, Dir, Node},
};

/// Bytes of memory for paths; beyond them they go to a file, of which so much stays in memory.
const PATHS: usize = 8 << 20;
const PATHS_CACHE: usize = 2 << 20;

/// Lays the image in `image` out in the directory at `to`, which is new and empty. Nothing is synced. What outgrows memory goes to
/// files in `scratch`.
pub(super) fn lay_out(image: &File, to: &Path, scratch: &Scratch) -> io::Result<()> {
    let image = Image::open(image)?;
    let root = image.inode(image.root())?;
    let dir = Dir::open(to)?;
    let mut layout = Layout { image: &image, root: &dir, known: Map::default(), scratch };
    layout.fill(&dir, &mut Vec::new(), &root)
}

struct Layout<'f> {
    image: &'f Image<'f>,
    root: &'f Dir,
    /// Where a file that has several names got its first, by its number.
    known: Map<Vec<u8>>,
    scratch: &'f Scratch,
}

impl Layout<'_> {
    /// Makes everything beneath a directory, then dresses the directory. As deep as a layer may be (`changeset::Limits::depth`).
    fn fill(&mut self, dir: &Dir, path: &mut Vec<u8>, found: &InodeInfo) -> io::Result<()> {
        let image = self.image;
        image.dir(found, |name, nid| {
            let entry = image.inode(nid)?;
            match &entry.kind {
                InodeKind::Dir => {
                    let above = path.len();
                    path.extend_from_slice(if above == 0 { b"" } else { b"/" });
                    path.extend_from_slice(name);
                    self.fill(&dir.dir(name)?, path, &entry)?;
                    path.truncate(above);
                    Ok(())
                }
                InodeKind::Special(Special::CharDevice(0, 0)) => dir.whiteout(name),
                _ => self.name(dir, path, name, &entry),
            }
        })?;
        with_attributes(&found.meta, |dress| dir.set_attributes(&dress))
    }

    /// Makes a file or the like, or one more name of one that is there.
    fn name(&mut self, dir: &Dir, path: &[u8], name: &[u8], entry: &InodeInfo) -> io::Result<()> {
        let number = entry.nid.number().to_be_bytes();
        if let Some(known) = self.known.get(&number)? {
            let at = known.iter().rposition(|byte| *byte == b'/');
            let (at, first) =
                at.map_or((&b""[..], &known[..]), |at| (&known[..at], &known[at + 1..]));
            return dir.link(name, &self.root.below(at)?, first);
        }
        match &entry.kind {
            InodeKind::File(size) => {
                let file = dir.file(name)?;
                // Its length first, because zeros at its end are not written.
                file.set_len(*size)?;
                self.image.content(entry, |at, piece| write_data(&file, at, piece))?;
                with_attributes(&entry.meta, |dress| tree::set_attributes(&file, &dress))?;
            }
            InodeKind::Symlink => {
                let target = self.image.target(entry)?;
                with_attributes(&entry.meta, |dress| dir.symlink(name, &target, &dress))?;
            }
            InodeKind::Special(special) => {
                let node = match special {
                    Special::Fifo => Node::Fifo,
                    Special::Socket => Node::Socket,
                    Special::CharDevice(major, minor) => Node::CharDevice(*major, *minor),
                    Special::BlockDevice(major, minor) => Node::BlockDevice(*major, *minor),
                };
                with_attributes(&entry.meta, |dress| dir.node(name, node, &dress))?;
            }
            // Only [`Layout::fill`] makes these.
            InodeKind::Dir => return Err(io::ErrorKind::IsADirectory.into()),
        }
        if entry.links > 1 {
            let whole = if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') };
            self.known.insert(Box::from(number), whole)?;
            if self.known.memory() > PATHS {
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

fn with_attributes(
    meta: &Meta,
    with: impl FnOnce(Attributes<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let xattrs: Vec<_> = meta.xattrs.named().collect();
    with(Attributes {
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
