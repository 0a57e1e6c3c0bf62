//! Extracts a layer's EROFS image to a directory tree.
//!
//! A layer's tar is always read once, into an image. That step rejects hostile tars and resolves names: whiteouts,
//! opaque directories, the later of two entries. The input here is therefore a tree: each name occurs once, in one
//! directory, and hard links are names of one inode. The directory is new and only this process writes to it. Each step
//! uses the descriptor of its parent directory ([`tree`]), so a name is never resolved as a path.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::{
    erofs::{Image, InodeInfo, InodeKind, Meta, Special},
    spill::{Map, Scratch},
    sys::tree::{self, Attributes, Dir, Node},
};

/// The most bytes of memory for paths. Above that, paths are moved to a file.
const PATHS: usize = 8 << 20;
/// The bytes of that file that are cached in memory.
const PATHS_CACHE: usize = 2 << 20;

/// Extracts `image` to the directory at `to`, which is new and empty. Syncs nothing. Data that outgrows memory is moved
/// to files in `scratch`.
pub(super) fn lay_out(image: &File, to: &Path, scratch: &Scratch) -> io::Result<()> {
    let image = Image::open(image)?;
    let root = image.inode(image.root())?;
    let dir = Dir::open(to)?;
    let mut layout = Layout { image: &image, root: &dir, first_paths: Map::default(), scratch };
    layout.fill(&dir, &mut Vec::new(), &root)
}

struct Layout<'f> {
    image: &'f Image<'f>,
    root: &'f Dir,
    /// The first path of each file with several names, by inode number.
    first_paths: Map<Vec<u8>>,
    scratch: &'f Scratch,
}

impl Layout<'_> {
    /// Creates everything below a directory, then sets the directory's attributes. Recursion is bounded by the depth of
    /// a layer (`changeset::Limits::depth`).
    fn fill(&mut self, dir: &Dir, path: &mut Vec<u8>, found: &InodeInfo) -> io::Result<()> {
        let image = self.image;
        image.dir(found, |name, nid| {
            let entry = image.inode(nid)?;
            match &entry.kind {
                InodeKind::Dir => {
                    let parent_len = path.len();
                    path.extend_from_slice(if parent_len == 0 { b"" } else { b"/" });
                    path.extend_from_slice(name);
                    self.fill(&dir.dir(name)?, path, &entry)?;
                    path.truncate(parent_len);
                    Ok(())
                }
                InodeKind::Special(Special::CharDevice(0, 0)) => dir.whiteout(name),
                _ => self.create(dir, path, name, &entry),
            }
        })?;
        with_attributes(&found.meta, |attributes| dir.set_attributes(&attributes))
    }

    /// Creates anything but a directory or a whiteout, or a hard link to an inode that was created before.
    fn create(&mut self, dir: &Dir, path: &[u8], name: &[u8], entry: &InodeInfo) -> io::Result<()> {
        let number = entry.nid.number().to_be_bytes();
        if let Some(known) = self.first_paths.get(&number)? {
            let at = known.iter().rposition(|byte| *byte == b'/');
            let (at, first) =
                at.map_or((&b""[..], &known[..]), |at| (&known[..at], &known[at + 1..]));
            return dir.link(name, &self.root.below(at)?, first);
        }
        match &entry.kind {
            InodeKind::File(size) => {
                let file = dir.file(name)?;
                // The length is set first, because zeros at the end are not written.
                file.set_len(*size)?;
                self.image.content(entry, |at, piece| write_data(&file, at, piece))?;
                with_attributes(&entry.meta, |attributes| {
                    tree::set_attributes(&file, &attributes)
                })?;
            }
            InodeKind::Symlink => {
                let target = self.image.target(entry)?;
                with_attributes(&entry.meta, |attributes| dir.symlink(name, &target, &attributes))?;
            }
            InodeKind::Special(special) => {
                let node = match special {
                    Special::Fifo => Node::Fifo,
                    Special::Socket => Node::Socket,
                    Special::CharDevice(major, minor) => Node::CharDevice(*major, *minor),
                    Special::BlockDevice(major, minor) => Node::BlockDevice(*major, *minor),
                };
                with_attributes(&entry.meta, |attributes| dir.node(name, node, &attributes))?;
            }
            // [`Layout::fill`] creates directories itself.
            InodeKind::Dir => return Err(io::ErrorKind::IsADirectory.into()),
        }
        if entry.links > 1 {
            let full_path = if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') };
            self.first_paths.insert(Box::from(number), full_path)?;
            if self.first_paths.memory() > PATHS {
                self.first_paths.spill(self.scratch, PATHS_CACHE)?;
            }
        }
        Ok(())
    }
}

/// The size in bytes of the blocks that are skipped where they hold only zeros, so that they stay holes in the new
/// file.
const HOLE: usize = 64 << 10;

/// Writes `piece`, except for blocks of zeros.
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
