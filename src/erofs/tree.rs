//! The names of an image while it is written: directories, and the inodes in them by name.
//!
//! All names are keys of one sorted map, each prefixed with its directory's number. So a directory with one entry takes
//! no more memory than the same entry in a large one. What a later entry replaces stays in memory, unreachable: memory
//! use only grows, and [`Tree::memory`] returns it. The owner of a tree moves it to files ([`Tree::spill`]) when it is
//! too large.
//!
//! Deliberately absent: paths. The caller walks a path and decides at each step what a missing or a wrong part means.

use std::io;

use super::allocator::Region;
use super::error::WriteError;
use super::format::{Kind, SLOT};
use super::inode::{Inode, Meta};
use super::xattr::XattrError;
use crate::spill::{List, Map, Scratch};

/// Bytes of memory that names, directories with their places, and linked inodes take each when they are in files.
const NAMES_CACHE: usize = 8 << 20;
const DIRS_CACHE: usize = 4 << 20;
const LINKED_CACHE: usize = 2 << 20;

/// A directory of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirId(pub(super) u32);

impl DirId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir(DirId),
    /// Anything else: an inode that a writer has written.
    Inode(Inode),
}

/// A fact about a directory that the code that fills the tree needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// It shows nothing of lower layers.
    Opaque = 1,
    /// It exists only for the whiteouts in it.
    Hollow = 2,
    /// Another entry has taken its name.
    Replaced = 4,
    /// It has whiteouts in it, or had some.
    HasWhiteouts = 8,
    /// No layer below has it, so what is in it need not be looked for there.
    Absent = 16,
}

#[derive(Debug)]
pub(super) struct Directory {
    pub meta: Meta,
    pub parent: DirId,
    /// A bit set of [`Flag`].
    pub flags: u8,
}

/// Directories and names from the root down. A name is bytes. It must not be empty, `.` or `..`, has
/// no `/` and no NUL, and is at most 255 bytes long.
///
/// A method fails only where reading or writing the tree's files fails, if it has files.
#[derive(Debug)]
pub struct Tree {
    dirs: List<Directory>,
    /// By [`key`].
    names: Map<Node>,
    /// Inodes that got a name by [`Tree::link`]. All others have one name at most.
    linked: Map<u32>,
    passed_over: Option<Inode>,
    /// Where its files are, if it was spilled.
    scratch: Option<Scratch>,
}

/// The directories that are reachable, as a bit set by number.
pub(super) struct Reachable(Vec<u64>);

impl Reachable {
    fn has(&self, id: DirId) -> bool {
        self.0.get(id.index() / 64).is_some_and(|bits| bits >> (id.index() % 64) & 1 == 1)
    }

    /// All of them, parents first. The root is the first.
    pub(super) fn ids(&self) -> impl Iterator<Item = DirId> {
        (0..self.0.len() as u32 * 64).map(DirId).filter(|id| self.has(*id))
    }
}

impl Tree {
    /// The root.
    pub const ROOT: DirId = DirId(0);

    /// A tree with only its root.
    pub fn new(root: Meta) -> Self {
        let mut dirs = List::default();
        // A list in memory never fails.
        let _ = dirs.push(Directory { meta: root, parent: Self::ROOT, flags: 0 });
        let (names, linked) = (Map::default(), Map::default());
        Self { dirs, names, linked, passed_over: None, scratch: None }
    }

    /// What is under `name`.
    pub fn get(&self, dir: DirId, name: &[u8]) -> io::Result<Option<Node>> {
        self.names.get(&key(dir, name))
    }

    /// The number of names, the unreachable ones included.
    pub fn names(&self) -> u64 {
        self.names.len()
    }

    /// Bytes of memory that the tree takes, including what its completion takes: the worst case of a common allocator.
    pub fn memory(&self) -> u64 {
        let places = match self.scratch {
            None => 2 * self.dirs.len() * size_of::<Region>(),
            Some(_) => DIRS_CACHE,
        };
        (self.names.memory() + self.dirs.memory() + self.linked.memory() + places) as u64
    }

    /// Moves the tree to files, of which some MiB stay in memory. Does nothing if it is in files already.
    pub fn spill(&mut self, scratch: &Scratch) -> io::Result<()> {
        self.names.spill(scratch, NAMES_CACHE)?;
        self.dirs.spill(scratch, DIRS_CACHE)?;
        self.linked.spill(scratch, LINKED_CACHE)?;
        self.scratch = Some(scratch.clone());
        Ok(())
    }

    /// Whether a directory has this flag.
    pub fn is(&self, dir: DirId, flag: Flag) -> io::Result<bool> {
        self.dirs.read(dir.index(), |dir| dir.flags & flag as u8 > 0)
    }

    /// Sets or clears a flag of a directory.
    pub fn flag(&mut self, dir: DirId, flag: Flag, set: bool) -> io::Result<()> {
        if self.is(dir, flag)? == set {
            return Ok(());
        }
        self.dirs.change(dir.index(), |dir| dir.flags ^= flag as u8)
    }

    /// Replaces a directory's metadata.
    pub fn set_meta(&mut self, dir: DirId, meta: Meta) -> io::Result<()> {
        self.dirs.change(dir.index(), |dir| dir.meta = meta)
    }

    /// Adds an extended attribute to a directory. The inner error is about the attribute.
    pub fn set_xattr(
        &mut self,
        dir: DirId,
        name: &[u8],
        value: &[u8],
    ) -> io::Result<Result<(), XattrError>> {
        self.dirs.change(dir.index(), |dir| dir.meta.xattrs.set(name, value))
    }

    /// Puts a new directory under `name`, in place of what was there.
    pub fn add_dir(&mut self, parent: DirId, name: &[u8], meta: Meta) -> io::Result<DirId> {
        let id = self.dirs.push(Directory { meta, parent, flags: 0 })?;
        let id = DirId(u32::try_from(id).map_err(|_| io::ErrorKind::FileTooLarge)?);
        self.put(parent, name, Node::Dir(id))?;
        Ok(id)
    }

    /// Gives an inode its first name, in place of what was there.
    pub fn add(&mut self, dir: DirId, name: &[u8], inode: Inode) -> io::Result<()> {
        self.put(dir, name, Node::Inode(inode))
    }

    /// Gives an inode another name, in place of what was there.
    pub fn link(&mut self, dir: DirId, name: &[u8], inode: Inode) -> io::Result<()> {
        self.linked.insert(Box::from(inode.nid.to_be_bytes()), 0)?;
        self.put(dir, name, Node::Inode(inode))
    }

    /// Leaves the names of `inode` out of all directories that are [`Flag::Opaque`].
    pub fn pass_over(&mut self, inode: Inode) {
        self.passed_over = Some(inode);
    }

    fn put(&mut self, dir: DirId, name: &[u8], node: Node) -> io::Result<()> {
        match self.names.insert(key(dir, name), node)? {
            Some(Node::Dir(before)) => self.flag(before, Flag::Replaced, true),
            _ => Ok(()),
        }
    }

    pub(super) fn dir<T>(&self, id: DirId, read: impl FnOnce(&Directory) -> T) -> io::Result<T> {
        self.dirs.read(id.index(), read)
    }

    /// The table of its directories' places, still empty.
    pub(super) fn places(&self) -> io::Result<Regions> {
        let mut places = Regions(List::default());
        if let Some(scratch) = &self.scratch {
            places.0.spill(scratch, DIRS_CACHE)?;
        }
        Ok(places)
    }

    /// The reachable directories.
    pub(super) fn reachable(&self) -> io::Result<Reachable> {
        let mut reachable = Reachable(vec![0; self.dirs.len().div_ceil(64)]);
        for index in 0..self.dirs.len() {
            // A parent was made before what is in it.
            let is_reachable = self.dirs.read(index, |dir| {
                index == 0 || dir.flags & Flag::Replaced as u8 == 0 && reachable.has(dir.parent)
            })?;
            reachable.0[index / 64] |= u64::from(is_reachable) << (index % 64);
        }
        Ok(reachable)
    }

    fn is_passed_over(&self, dir: DirId, node: &Node) -> io::Result<bool> {
        match node {
            Node::Inode(inode) if self.passed_over == Some(*inode) => self.is(dir, Flag::Opaque),
            _ => Ok(false),
        }
    }

    /// Calls `take` with each inode that has a number of names other than one (or may have), and with the number of
    /// names that lead to it.
    pub(super) fn count_links(
        &mut self,
        reachable: &Reachable,
        mut take: impl FnMut(u64, u32) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.linked.is_empty() {
            return Ok(());
        }
        let mut linked = std::mem::take(&mut self.linked);
        self.names.each(&[], &[u8::MAX; 5], |key, node| {
            let (dir, _) = split(key);
            let Node::Inode(inode) = node else { return Ok(()) };
            if !reachable.has(dir) || self.is_passed_over(dir, node)? {
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

    /// Calls `take` with a directory's entries in byte order, `.` and `..` among them. `address` returns the address of
    /// a directory.
    pub(super) fn entries(
        &self,
        id: DirId,
        address: impl Fn(DirId) -> io::Result<u64>,
        mut take: impl FnMut(Entry<'_>) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let parent = self.dir(id, |dir| dir.parent)?;
        let own = Entry { name: b".", nid: address(id)? / SLOT, kind: Kind::Dir };
        let up = Entry { name: b"..", nid: address(parent)? / SLOT, kind: Kind::Dir };
        let mut dots = [own, up].into_iter().peekable();
        let (first, end) = (key(id, b""), key(DirId(id.0 + 1), b""));
        self.names.each(&first, &end, |key, node| {
            if self.is_passed_over(id, node)? {
                return Ok(());
            }
            let (_, name) = split(key);
            while let Some(dot) = dots.next_if(|dot| dot.name < name) {
                take(dot)?;
            }
            take(match node {
                Node::Dir(id) => Entry { name, nid: address(*id)? / SLOT, kind: Kind::Dir },
                Node::Inode(inode) => Entry { name, nid: inode.nid, kind: inode.kind },
            })
        })?;
        dots.try_for_each(take)
    }
}

/// The place of each directory.
pub(super) struct Regions(List<Region>);

impl Regions {
    /// Sets the place of the next directory. Directories must come in the order of their numbers.
    pub(super) fn put(&mut self, id: DirId, place: Region) -> io::Result<()> {
        while self.0.len() < id.index() {
            self.0.push(Region { inode: 0, content: 0, inline: false })?;
        }
        self.0.push(place).map(drop)
    }

    pub(super) fn of(&self, id: DirId) -> io::Result<Region> {
        self.0.read(id.index(), |place| *place)
    }
}

/// A directory's number and a name as one key: the names of a directory lie together, in byte order.
fn key(dir: DirId, name: &[u8]) -> Box<[u8]> {
    [dir.0.to_be_bytes().as_slice(), name].concat().into()
}

fn split(key: &[u8]) -> (DirId, &[u8]) {
    let (dir, name) = key.split_at(size_of::<DirId>());
    (DirId(dir.iter().fold(0, |id, byte| (id << 8) | u32::from(*byte))), name)
}

/// One directory entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    pub name: &'t [u8],
    pub nid: u64,
    pub kind: Kind,
}
