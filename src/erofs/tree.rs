//! The names of an image while it is written: folders, and what stands in them under which name.
//!
//! All names are keys of one sorted map, each behind its folder's number, so that a folder of one entry takes no
//! more memory than the same entry in a large one. What is replaced by a later entry stays, out of reach: memory
//! only grows, and [`Tree::held`] says by how much.
//!
//! Deliberately absent: paths. Whoever walks one decides at each step what a missing or a wrong part means.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::format::{Kind, SLOT};
use super::space::Place;
use super::writer::{Inode, Meta};
use super::xattr::XattrError;

/// Bytes a name takes in the map, beside its key's own: nodes are half full at worst, and have nodes above them.
const NAME: usize = (size_of::<Box<[u8]>>() + size_of::<Node>()) * 5 / 2;
/// The same for an inode that was linked.
const LINKED: usize = size_of::<(u64, u32)>() * 5 / 2;
/// Bytes of a folder, twice because a vector doubles, and of what the end of the image needs to place it.
const FOLDER: usize = 2 * size_of::<Folder>() + size_of::<Place>() + 3 * size_of::<FolderId>();

/// A folder of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderId(u32);

impl FolderId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What stands under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder(FolderId),
    /// Anything else: an inode that a writer has written.
    Inode(Inode),
}

#[derive(Debug)]
pub(super) struct Folder {
    pub meta: Meta,
    pub parent: FolderId,
}

/// Folders and names, from the root down. Names are bytes; they must be neither empty nor `.` nor `..`, hold
/// no `/` and no NUL, and be at most 255 bytes long.
#[derive(Debug)]
pub struct Tree {
    folders: Vec<Folder>,
    /// By [`key`].
    names: BTreeMap<Box<[u8]>, Node>,
    /// Inodes given a name by [`Tree::link`]; all others have one name at most.
    linked: BTreeMap<u64, u32>,
    /// Bytes of the keys and of the folders' attributes.
    bytes: usize,
}

impl Tree {
    /// The root.
    pub const ROOT: FolderId = FolderId(0);

    /// A tree with nothing but its root.
    pub fn new(root: Meta) -> Self {
        let bytes = root.xattrs.held();
        let folders = vec![Folder { meta: root, parent: Self::ROOT }];
        Self { folders, names: BTreeMap::new(), linked: BTreeMap::new(), bytes }
    }

    /// What stands under `name`.
    pub fn get(&self, folder: FolderId, name: &[u8]) -> Option<Node> {
        self.names.get(&key(folder, name)).copied()
    }

    /// How many names there are, with those out of reach.
    pub fn names(&self) -> u64 {
        self.names.len() as u64
    }

    /// Bytes of memory that the tree takes, and will take at its end: what a common allocator needs at worst.
    pub fn held(&self) -> u64 {
        let fixed =
            self.names.len() * NAME + self.folders.len() * FOLDER + self.linked.len() * LINKED;
        (fixed + self.bytes) as u64
    }

    /// Gives a folder its attributes, in place of those it had.
    pub fn describe(&mut self, folder: FolderId, meta: Meta) {
        let old = &mut self.folders[folder.index()].meta;
        self.bytes = self.bytes - old.xattrs.held() + meta.xattrs.held();
        *old = meta;
    }

    /// Adds an extended attribute to a folder's.
    pub fn set_xattr(
        &mut self,
        folder: FolderId,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), XattrError> {
        let xattrs = &mut self.folders[folder.index()].meta.xattrs;
        let before = xattrs.held();
        xattrs.set(name, value)?;
        self.bytes = self.bytes - before + xattrs.held();
        Ok(())
    }

    /// Puts a new folder under `name`, in place of whatever stood there.
    pub fn add_folder(&mut self, parent: FolderId, name: &[u8], meta: Meta) -> FolderId {
        let id = FolderId(self.folders.len() as u32);
        self.bytes += meta.xattrs.held();
        self.folders.push(Folder { meta, parent });
        self.put(parent, name, Node::Folder(id));
        id
    }

    /// Gives an inode its first name, in place of whatever stood there.
    pub fn add(&mut self, folder: FolderId, name: &[u8], inode: Inode) {
        self.put(folder, name, Node::Inode(inode));
    }

    /// Gives an inode one more name, in place of whatever stood there.
    pub fn link(&mut self, folder: FolderId, name: &[u8], inode: Inode) {
        self.linked.insert(inode.nid, 0);
        self.put(folder, name, Node::Inode(inode));
    }

    /// Takes the names out that lead to `inode` from the folders that `from` says.
    pub fn unlink_all(&mut self, inode: Inode, from: impl Fn(FolderId) -> bool) {
        self.names.retain(|key, node| *node != Node::Inode(inode) || !from(split(key).0));
    }

    fn put(&mut self, folder: FolderId, name: &[u8], node: Node) {
        let key = key(folder, name);
        let held = allocation(key.len());
        if self.names.insert(key, node).is_none() {
            self.bytes += held;
        }
    }

    pub(super) fn folder(&self, id: FolderId) -> &Folder {
        &self.folders[id.index()]
    }

    /// What stands in a folder, in the order of the names' bytes.
    pub(super) fn below(&self, id: FolderId) -> impl Iterator<Item = (&[u8], Node)> {
        let (first, behind) = (key(id, b""), key(FolderId(id.0 + 1), b""));
        self.names
            .range::<[u8], _>((Bound::Included(&*first), Bound::Excluded(&*behind)))
            .map(|(key, node)| (split(key).1, *node))
    }

    /// Every folder that can still be reached, parents first; the root is the first.
    pub(super) fn reachable(&self) -> Vec<FolderId> {
        let mut order = vec![Self::ROOT];
        let mut next = 0;
        while let Some(&id) = order.get(next) {
            order.extend(self.below(id).filter_map(|(_, node)| match node {
                Node::Folder(id) => Some(id),
                Node::Inode(_) => None,
            }));
            next += 1;
        }
        order
    }

    /// How many folder slots there are, reachable or not.
    pub(super) fn slots(&self) -> usize {
        self.folders.len()
    }

    /// The inodes that may have more names than one or none, with the number of names that lead to each.
    pub(super) fn count_links(&mut self, reachable: &[FolderId]) -> BTreeMap<u64, u32> {
        let mut linked = std::mem::take(&mut self.linked);
        for (_, node) in reachable.iter().flat_map(|id| self.below(*id)) {
            if let Node::Inode(Inode { nid, .. }) = node
                && let Some(count) = linked.get_mut(&nid)
            {
                *count += 1;
            }
        }
        linked
    }

    /// A folder's entries in the order of their bytes, `.` and `..` among them. `address` says where folders
    /// are.
    pub(super) fn entries<'t>(
        &'t self,
        id: FolderId,
        address: impl Fn(FolderId) -> u64 + 't,
    ) -> impl Iterator<Item = Entry<'t>> {
        let folder = self.folder(id);
        let own = Entry { name: b".", nid: address(id) / SLOT, kind: Kind::Folder };
        let up = Entry { name: b"..", nid: address(folder.parent) / SLOT, kind: Kind::Folder };
        let mut dots = [own, up].into_iter().peekable();
        let mut names = self
            .below(id)
            .map(move |(name, node)| match node {
                Node::Folder(id) => Entry { name, nid: address(id) / SLOT, kind: Kind::Folder },
                Node::Inode(inode) => Entry { name, nid: inode.nid, kind: inode.kind },
            })
            .peekable();
        std::iter::from_fn(move || match (dots.peek(), names.peek()) {
            (Some(dot), Some(entry)) if dot.name < entry.name => dots.next(),
            (Some(_), None) => dots.next(),
            _ => names.next(),
        })
    }
}

/// A name in a folder as one text: a folder's names lie together, in the order of their bytes.
fn key(folder: FolderId, name: &[u8]) -> Box<[u8]> {
    [folder.0.to_be_bytes().as_slice(), name].concat().into()
}

fn split(key: &[u8]) -> (FolderId, &[u8]) {
    let (folder, name) = key.split_at(size_of::<FolderId>());
    (FolderId(folder.iter().fold(0, |id, byte| (id << 8) | u32::from(*byte))), name)
}

/// Bytes that an allocator takes to give `len`: glibc a head, 16-byte steps and no less than 32; mimalloc steps
/// of a quarter.
pub(super) fn allocation(len: usize) -> usize {
    if len == 0 { 0 } else { (len + len / 4 + 8).next_multiple_of(16).max(32) }
}

/// One directory entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    pub name: &'t [u8],
    pub nid: u64,
    pub kind: Kind,
}
