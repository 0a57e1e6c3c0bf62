//! Completes an image: directories, link counts, the superblock.
//!
//! Deliberately absent: sorting. The tree's names are in byte order already, the order in which the kernel searches.

use std::io::{Seek, Write};

use super::allocator::root_space;
use super::dirent::{Blocks, Size};
use super::error::WriteError;
use super::format::{BLOCK, INODE_LEN, Kind, NLINK_AT, SLOT, Superblock};
use super::inode_body::Body;
use super::tree::{DirId, Reachable, Regions, Tree};
use super::writer::{Writer, head_len};

/// The root's attributes in the shared area.
struct Shared {
    /// The area's first block.
    block: u32,
    /// What follows the root's inode instead of its attributes.
    pointers: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    /// Writes the directories, the link counts and, last, the superblock. Returns the image's length in
    /// bytes, a multiple of 4,096.
    pub fn finish(mut self, mut tree: Tree, uuid: [u8; 16]) -> Result<u64, WriteError> {
        let reachable = tree.reachable()?;
        tree.count_links(&reachable, |nid, names| {
            self.window.write_at(nid * SLOT + NLINK_AT, &names.to_le_bytes())
        })?;
        let shared = self.share_root_xattrs(&tree)?;
        let places = self.place_dirs(&tree, &reachable, shared.as_ref())?;
        for id in reachable.ids() {
            let xattrs = match &shared {
                Some(shared) if id == Tree::ROOT => shared.pointers.clone(),
                _ => tree.dir(id, |dir| dir.meta.xattrs.inline())?,
            };
            self.dir(&tree, id, &places, &xattrs)?;
        }
        let end = self.space.end();
        let superblock = Superblock {
            inodes: self.inodes,
            blocks: (end / BLOCK) as u32,
            xattr_block: shared.map_or(0, |shared| shared.block),
            uuid,
            has_chunks: self.has_chunks,
        };
        self.window.finish(end, |front| superblock.seal(front))?;
        Ok(end)
    }

    /// Writes the root's attributes to the shared area if they are too long for the block that the root's inode is in,
    /// which the superblock shares. The inode keeps their numbers then. `None` if they fit.
    fn share_root_xattrs(&mut self, tree: &Tree) -> Result<Option<Shared>, WriteError> {
        let shared = tree.dir(Tree::ROOT, |root| {
            let xattrs = &root.meta.xattrs;
            (head_len(xattrs) > root_space()).then(|| xattrs.shared())
        })?;
        let Some(shared) = shared else { return Ok(None) };
        let (pointers, entries) = shared.ok_or(WriteError::RootXattrs)?;
        let at = self.space.take(entries.len() as u64)?;
        self.window.write_at(at, &entries)?;
        Ok(Some(Shared { block: (at / BLOCK) as u32, pointers }))
    }

    /// Gives every directory its place before the first is written, because an entry needs the nids of parent and
    /// children.
    fn place_dirs(
        &mut self,
        tree: &Tree,
        reachable: &Reachable,
        shared: Option<&Shared>,
    ) -> Result<Regions, WriteError> {
        let mut places = tree.places()?;
        for id in reachable.ids() {
            let mut size = Size::default();
            tree.entries(
                id,
                |_| Ok(0),
                |entry| {
                    size.add(entry.name);
                    Ok(())
                },
            )?;
            let head = tree.dir(id, |dir| head_len(&dir.meta.xattrs))?;
            let place = if id == Tree::ROOT {
                let shared = shared.map(|shared| (INODE_LEN + shared.pointers.len()) as u64);
                self.space.place_root(shared.unwrap_or(head), size.bytes())?
            } else {
                self.space.place(head, size.bytes())?
            };
            places.put(id, place)?;
        }
        Ok(places)
    }

    fn dir(
        &mut self,
        tree: &Tree,
        id: DirId,
        places: &Regions,
        xattrs: &[u8],
    ) -> Result<(), WriteError> {
        let place = places.of(id)?;
        let mut size = Size::default();
        let mut below = 0_u32;
        tree.entries(
            id,
            |_| Ok(0),
            |entry| {
                size.add(entry.name);
                below += u32::from(entry.kind == Kind::Dir);
                Ok(())
            },
        )?;
        let mut fields =
            tree.dir(id, |dir| self.fields(Kind::Dir, &dir.meta, place, size.bytes()))?;
        // One for each subdirectory, and two for `.` and `..`, which are among the entries.
        fields.nlink = below;
        let head = fields.encode(xattrs);
        let mut body = Body::flat(place, head.len() as u64, size.bytes());
        let mut blocks = Blocks::default();
        tree.entries(
            id,
            |id| Ok(places.of(id)?.inode),
            |entry| blocks.add(entry, |block| body.write(&mut self.window, block)),
        )?;
        blocks.finish(|block| body.write(&mut self.window, block))?;
        body.finish(&mut self.window, &head)
    }
}
