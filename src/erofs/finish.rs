//! The end of an image: folders, link counts, the superblock.
//!
//! Deliberately absent: sorting. The tree's names are in the order of their bytes already, which is the order
//! the kernel searches by.

use std::io::{Seek, Write};

use super::body::Body;
use super::format::{BLOCK, INODE_LEN, Kind, NLINK_AT, SLOT, Superblock};
use super::listing::{Blocks, Size};
use super::space::root_room;
use super::tree::{FolderId, Places, Shown, Tree};
use super::writer::{WriteError, Writer, head_len};

/// The root's attributes in an area of their own.
struct Shared {
    /// The area's first block.
    block: u32,
    /// What stands behind the root's inode instead.
    pointers: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    /// Writes the folders, the link counts and, last, the superblock; answers with the image's length in
    /// bytes, a multiple of 4,096.
    pub fn finish(mut self, mut tree: Tree, uuid: [u8; 16]) -> Result<u64, WriteError> {
        let shown = tree.shown()?;
        tree.count_links(&shown, |nid, names| {
            self.window.write_at(nid * SLOT + NLINK_AT, &names.to_le_bytes())
        })?;
        let shared = self.share_root_xattrs(&tree)?;
        let places = self.place_folders(&tree, &shown, shared.as_ref())?;
        for id in shown.ids() {
            let xattrs = match &shared {
                Some(shared) if id == Tree::ROOT => shared.pointers.clone(),
                _ => tree.folder(id, |folder| folder.meta.xattrs.inline())?,
            };
            self.folder(&tree, id, &places, &xattrs)?;
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

    /// The root's inode has less than a block to stand in: attributes too long for it go to an area of their
    /// own, and the inode keeps their numbers.
    fn share_root_xattrs(&mut self, tree: &Tree) -> Result<Option<Shared>, WriteError> {
        let shared = tree.folder(Tree::ROOT, |root| {
            let xattrs = &root.meta.xattrs;
            (head_len(xattrs) > root_room()).then(|| xattrs.shared())
        })?;
        let Some(shared) = shared else { return Ok(None) };
        let (pointers, entries) = shared.ok_or(WriteError::RootXattrs)?;
        let at = self.space.take(entries.len() as u64)?;
        self.window.write_at(at, &entries)?;
        Ok(Some(Shared { block: (at / BLOCK) as u32, pointers }))
    }

    /// Every folder's place, before the first is written: an entry needs the nids of parent and children.
    fn place_folders(
        &mut self,
        tree: &Tree,
        shown: &Shown,
        shared: Option<&Shared>,
    ) -> Result<Places, WriteError> {
        let mut places = tree.places()?;
        for id in shown.ids() {
            let mut size = Size::default();
            tree.entries(
                id,
                |_| Ok(0),
                |entry| {
                    size.add(entry.name);
                    Ok(())
                },
            )?;
            let head = tree.folder(id, |folder| head_len(&folder.meta.xattrs))?;
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

    fn folder(
        &mut self,
        tree: &Tree,
        id: FolderId,
        places: &Places,
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
                below += u32::from(entry.kind == Kind::Folder);
                Ok(())
            },
        )?;
        let mut fields =
            tree.folder(id, |folder| self.fields(Kind::Folder, &folder.meta, place, size.bytes()))?;
        // The folders in it, and as many as `.` and `..`, which are among them.
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
