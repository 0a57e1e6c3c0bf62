//! The names of an image while it is written: folders, and what stands in them under which name.
//!
//! All names are keys of one sorted map, each behind its folder's number, so that a folder of one entry takes no
//! more memory than the same entry in a large one. What is replaced by a later entry stays, out of reach: memory
//! only grows, and [`Tree::held`] says by how much. Whoever holds a tree has it go on in files ([`Tree::spill`]) when that is too
//! much.
//!
//! Deliberately absent: paths. Whoever walks one decides at each step what a missing or a wrong part means.

use std::io;

use super::format::{Kind, SLOT};
use super::space::Place;
use super::writer::{Inode, Meta, WriteError};
use super::xattr::XattrError;
use crate::spill::{List, Map, Scratch};

/// Bytes of memory that stay of names, of folders and their places, and of linked inodes, when they are in files.
const NAMES_CACHE: usize = 8 << 20;
const FOLDERS_CACHE: usize = 4 << 20;
const LINKED_CACHE: usize = 2 << 20;

/// A folder of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FolderId(pub(super) u32);

impl FolderId {
    fn index(self) -> usize {
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

/// What is remembered of a folder for whoever fills the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// It shows nothing of lower layers.
    Opaque = 1,
    /// It is there for the whiteouts in it alone.
    Hollow = 2,
    /// Something else took its name.
    Gone = 4,
    /// It has whiteouts in it, or had.
    Keeping = 8,
    /// No layer below has it: whoever lies in it need not be looked for there.
    Absent = 16,
}

#[derive(Debug)]
pub(super) struct Folder {
    pub meta: Meta,
    pub parent: FolderId,
    /// Of [`Flag`].
    pub flags: u8,
}

/// Folders and names, from the root down. Names are bytes; they must be neither empty nor `.` nor `..`, hold
/// no `/` and no NUL, and be at most 255 bytes long.
///
/// Each call fails only where the tree's files do, if it has some.
#[derive(Debug)]
pub struct Tree {
    folders: List<Folder>,
    /// By [`key`].
    names: Map<Node>,
    /// Inodes given a name by [`Tree::link`]; all others have one name at most.
    linked: Map<u32>,
    passed_over: Option<Inode>,
    /// Where its files are.
    scratch: Option<Scratch>,
}

/// Folders that can be reached, by number.
pub(super) struct Shown(Vec<u64>);

impl Shown {
    fn has(&self, id: FolderId) -> bool {
        self.0.get(id.index() / 64).is_some_and(|bits| bits >> (id.index() % 64) & 1 == 1)
    }

    /// All of them, parents first; the root is the first.
    pub(super) fn ids(&self) -> impl Iterator<Item = FolderId> {
        (0..self.0.len() as u32 * 64).map(FolderId).filter(|id| self.has(*id))
    }
}

impl Tree {
    /// The root.
    pub const ROOT: FolderId = FolderId(0);

    /// A tree with nothing but its root.
    pub fn new(root: Meta) -> Self {
        let mut folders = List::default();
        // In memory nothing fails.
        let _ = folders.push(Folder { meta: root, parent: Self::ROOT, flags: 0 });
        let (names, linked) = (Map::default(), Map::default());
        Self { folders, names, linked, passed_over: None, scratch: None }
    }

    /// What stands under `name`.
    pub fn get(&self, folder: FolderId, name: &[u8]) -> io::Result<Option<Node>> {
        self.names.get(&key(folder, name))
    }

    /// How many names there are, with those out of reach.
    pub fn names(&self) -> u64 {
        self.names.len()
    }

    /// Bytes of memory that the tree takes, and will take at its end: what a common allocator needs at worst.
    pub fn held(&self) -> u64 {
        let places = match self.scratch {
            None => 2 * self.folders.len() * size_of::<Place>(),
            Some(_) => FOLDERS_CACHE,
        };
        (self.names.held() + self.folders.held() + self.linked.held() + places) as u64
    }

    /// Goes on in files, of which some MiB stay in memory. Nothing happens where it does so already.
    pub fn spill(&mut self, scratch: &Scratch) -> io::Result<()> {
        self.names.spill(scratch, NAMES_CACHE)?;
        self.folders.spill(scratch, FOLDERS_CACHE)?;
        self.linked.spill(scratch, LINKED_CACHE)?;
        self.scratch = Some(scratch.clone());
        Ok(())
    }

    /// Whether a folder has this flag.
    pub fn is(&self, folder: FolderId, flag: Flag) -> io::Result<bool> {
        self.folders.read(folder.index(), |folder| folder.flags & flag as u8 > 0)
    }

    /// Sets or clears a flag of a folder.
    pub fn flag(&mut self, folder: FolderId, flag: Flag, set: bool) -> io::Result<()> {
        if self.is(folder, flag)? == set {
            return Ok(());
        }
        self.folders.change(folder.index(), |folder| folder.flags ^= flag as u8)
    }

    /// Gives a folder its attributes, in place of those it had.
    pub fn describe(&mut self, folder: FolderId, meta: Meta) -> io::Result<()> {
        self.folders.change(folder.index(), |folder| folder.meta = meta)
    }

    /// Adds an extended attribute to a folder's. The inner error is of the attribute.
    pub fn set_xattr(
        &mut self,
        folder: FolderId,
        name: &[u8],
        value: &[u8],
    ) -> io::Result<Result<(), XattrError>> {
        self.folders.change(folder.index(), |folder| folder.meta.xattrs.set(name, value))
    }

    /// Puts a new folder under `name`, in place of whatever stood there.
    pub fn add_folder(
        &mut self,
        parent: FolderId,
        name: &[u8],
        meta: Meta,
    ) -> io::Result<FolderId> {
        let id = self.folders.push(Folder { meta, parent, flags: 0 })?;
        let id = FolderId(u32::try_from(id).map_err(|_| io::ErrorKind::FileTooLarge)?);
        self.put(parent, name, Node::Folder(id))?;
        Ok(id)
    }

    /// Gives an inode its first name, in place of whatever stood there.
    pub fn add(&mut self, folder: FolderId, name: &[u8], inode: Inode) -> io::Result<()> {
        self.put(folder, name, Node::Inode(inode))
    }

    /// Gives an inode one more name, in place of whatever stood there.
    pub fn link(&mut self, folder: FolderId, name: &[u8], inode: Inode) -> io::Result<()> {
        self.linked.insert(Box::from(inode.nid.to_be_bytes()), 0)?;
        self.put(folder, name, Node::Inode(inode))
    }

    /// Leaves the names of `inode` out of all folders that are [`Flag::Opaque`].
    pub fn pass_over(&mut self, inode: Inode) {
        self.passed_over = Some(inode);
    }

    fn put(&mut self, folder: FolderId, name: &[u8], node: Node) -> io::Result<()> {
        match self.names.insert(key(folder, name), node)? {
            Some(Node::Folder(before)) => self.flag(before, Flag::Gone, true),
            _ => Ok(()),
        }
    }

    pub(super) fn folder<T>(&self, id: FolderId, read: impl FnOnce(&Folder) -> T) -> io::Result<T> {
        self.folders.read(id.index(), read)
    }

    /// The places of its folders, all nowhere.
    pub(super) fn places(&self) -> io::Result<Places> {
        let mut places = Places(List::default());
        if let Some(scratch) = &self.scratch {
            places.0.spill(scratch, FOLDERS_CACHE)?;
        }
        Ok(places)
    }

    /// The folders that can still be reached.
    pub(super) fn shown(&self) -> io::Result<Shown> {
        let mut shown = Shown(vec![0; self.folders.len().div_ceil(64)]);
        for index in 0..self.folders.len() {
            // A parent was there before what is in it.
            let is_shown = self.folders.read(index, |folder| {
                index == 0 || folder.flags & Flag::Gone as u8 == 0 && shown.has(folder.parent)
            })?;
            shown.0[index / 64] |= u64::from(is_shown) << (index % 64);
        }
        Ok(shown)
    }

    fn is_passed_over(&self, folder: FolderId, node: &Node) -> io::Result<bool> {
        match node {
            Node::Inode(inode) if self.passed_over == Some(*inode) => self.is(folder, Flag::Opaque),
            _ => Ok(false),
        }
    }

    /// Hands out the inodes that may have more names than one or none, with the number of names that lead to each.
    pub(super) fn count_links(
        &mut self,
        shown: &Shown,
        mut take: impl FnMut(u64, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.linked.is_empty() {
            return Ok(());
        }
        let mut linked = std::mem::take(&mut self.linked);
        self.names.each(&[], &[u8::MAX; 5], |key, node| {
            let (folder, _) = split(key);
            let Node::Inode(inode) = node else { return Ok(()) };
            if !shown.has(folder) || self.is_passed_over(folder, node)? {
                return Ok(());
            }
            let nid = inode.nid.to_be_bytes();
            if let Some(count) = linked.get(&nid)? {
                linked.insert(Box::from(nid), count + 1)?;
            }
            Ok::<_, io::Error>(())
        })?;
        linked.each(&[], &[u8::MAX; 9], |nid, count| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(nid);
            take(u64::from_be_bytes(bytes), *count)
        })
    }

    /// Hands out a folder's entries in the order of their bytes, `.` and `..` among them. `address` says where folders are.
    pub(super) fn entries(
        &self,
        id: FolderId,
        address: impl Fn(FolderId) -> io::Result<u64>,
        mut take: impl FnMut(Entry<'_>) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let parent = self.folder(id, |folder| folder.parent)?;
        let own = Entry { name: b".", nid: address(id)? / SLOT, kind: Kind::Folder };
        let up = Entry { name: b"..", nid: address(parent)? / SLOT, kind: Kind::Folder };
        let mut dots = [own, up].into_iter().peekable();
        let (first, behind) = (key(id, b""), key(FolderId(id.0 + 1), b""));
        self.names.each(&first, &behind, |key, node| {
            if self.is_passed_over(id, node)? {
                return Ok(());
            }
            let (_, name) = split(key);
            while let Some(dot) = dots.next_if(|dot| dot.name < name) {
                take(dot)?;
            }
            take(match node {
                Node::Folder(id) => Entry { name, nid: address(*id)? / SLOT, kind: Kind::Folder },
                Node::Inode(inode) => Entry { name, nid: inode.nid, kind: inode.kind },
            })
        })?;
        dots.try_for_each(take)
    }
}

/// Where each folder lies.
pub(super) struct Places(List<Place>);

impl Places {
    /// The place of the next folder, of which all have to be given in their order.
    pub(super) fn put(&mut self, id: FolderId, place: Place) -> io::Result<()> {
        while self.0.len() < id.index() {
            self.0.push(Place { inode: 0, content: 0, inline: false })?;
        }
        self.0.push(place).map(drop)
    }

    pub(super) fn of(&self, id: FolderId) -> io::Result<Place> {
        self.0.read(id.index(), |place| *place)
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

/// One directory entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    pub name: &'t [u8],
    pub nid: u64,
    pub kind: Kind,
}
