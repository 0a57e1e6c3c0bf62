//! The end of an image: folders, link counts, the superblock.
//!
//! Deliberately absent: sorting. The tree's names are in the order of their bytes already, which is the order
//! the kernel searches by.

use std::io::{Seek, Write};

use super::body::Body;
use super::format::{BLOCK, INODE_LEN, Kind, NLINK_AT, SLOT, Superblock};
use super::listing;
use super::space::{Place, root_room};
use super::tree::{FolderId, Node, Tree};
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
        let order = tree.reachable();
        for (nid, names) in tree.count_links(&order) {
            self.window.write_at(nid * SLOT + NLINK_AT, &names.to_le_bytes())?;
        }
        let shared = self.share_root_xattrs(&tree)?;
        let places = self.place_folders(&tree, &order, shared.as_ref())?;
        for &id in &order {
            let xattrs = match &shared {
                Some(shared) if id == Tree::ROOT => shared.pointers.clone(),
                _ => tree.folder(id).meta.xattrs.inline(),
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
        let xattrs = &tree.folder(Tree::ROOT).meta.xattrs;
        if head_len(xattrs) <= root_room() {
            return Ok(None);
        }
        let (pointers, entries) = xattrs.shared();
        let at = self.space.take(entries.len() as u64)?;
        self.window.write_at(at, &entries)?;
        Ok(Some(Shared { block: (at / BLOCK) as u32, pointers }))
    }

    /// Every folder's place, before the first is written: an entry needs the nids of parent and children.
    fn place_folders(
        &mut self,
        tree: &Tree,
        order: &[FolderId],
        shared: Option<&Shared>,
    ) -> Result<Vec<Place>, WriteError> {
        let nowhere = Place { inode: 0, content: 0, inline: false };
        let mut places = vec![nowhere; tree.slots()];
        for &id in order {
            let size = listing::size(tree.entries(id, |_| 0));
            let head = head_len(&tree.folder(id).meta.xattrs);
            places[id.index()] = if id == Tree::ROOT {
                let shared = shared.map(|shared| (INODE_LEN + shared.pointers.len()) as u64);
                self.space.place_root(shared.unwrap_or(head), size)?
            } else {
                self.space.place(head, size)?
            };
        }
        Ok(places)
    }

    fn folder(
        &mut self,
        tree: &Tree,
        id: FolderId,
        places: &[Place],
        xattrs: &[u8],
    ) -> Result<(), WriteError> {
        let (folder, place) = (tree.folder(id), places[id.index()]);
        let entries = || tree.entries(id, |id| places[id.index()].inode);
        let size = listing::size(entries());
        let below = tree.below(id).filter(|(_, node)| matches!(node, Node::Folder(_))).count();
        let mut fields = self.fields(Kind::Folder, &folder.meta, place, size);
        fields.nlink = below as u32 + 2;
        let head = fields.encode(xattrs);
        let mut body = Body::flat(place, head.len() as u64, size);
        listing::pack(entries(), |block| body.write(&mut self.window, block))?;
        body.finish(&mut self.window, &head)
    }
}
