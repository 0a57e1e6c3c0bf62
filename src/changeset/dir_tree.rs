//! The directory tree of a layer: what is under each name, and what it hides in the layers below.
//!
//! ```text
//! now under the name      after: a file, link…       a directory         its whiteout
//! nothing                 the file                   the directory       a whiteout
//! a whiteout              the file                   an opaque directory the whiteout
//! a file, a link…         the new one                an opaque directory the file
//! a directory             the file                   its new attributes  the directory, opaque
//! ```
//!
//! An opaque directory shows nothing of lower layers: this layer had removed their entry before. A directory that exists
//! only to hold whiteouts ([`Flag::Hollow`]) is replaced by a whiteout of its own name.
//!
//! The cost of a name is the memory that it takes, not its length: a tar of a few kilobytes can create millions of
//! directories and make each opaque. Beyond a limit all names go to files.
//!
//! Deliberately absent: content. When an entry gets its name, its content is in the image already.

use std::io;

use super::Limits;
use super::error::{EntryName, Exceeded, InvalidLayer, UnpackError};
use super::path::EntryPath;
use crate::budget::Share;
use crate::erofs::{DirId, Flag, Inode, Meta, Node, Tree};
use crate::overlay_xattr;
use crate::spill::Map;

/// Makes a directory opaque (kernel doc, overlayfs.rst, "whiteouts and opaque directories").
const OPAQUE: (&str, &[u8]) = (overlay_xattr::OPAQUE, b"y");
/// Makes overlay look for whiteouts in a directory that it does not merge. Otherwise it would list them as names that
/// cannot be looked up. Without a value it names no origin of a copy-up (Linux, `fs/overlayfs/inode.c`,
/// `ovl_get_inode`).
const KEEPS_WHITEOUTS: (&str, &[u8]) = (overlay_xattr::ORIGIN, b"");
/// Bytes of memory that the table of copies takes when it is in a file.
const COPIES_CACHE: usize = 1 << 20;

pub(super) struct DirTree<'l> {
    tree: Tree,
    limits: &'l Limits,
    share: &'l Share,
    /// Bytes taken from the share.
    taken: u64,
    whiteout: Option<Inode>,
    /// Whether there is an unnamed directory that a layer below may have.
    has_unnamed: bool,
    /// Inodes that were copied from lower layers, by their identity there ([`lower_key`]).
    copies: Map<Inode>,
}

/// The directory of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// This directory.
    Dir(DirId),
    /// There is none: what the whiteout would hide is hidden already.
    Nowhere,
    /// The part of the path with this number is this symbolic link.
    Through(Inode, usize),
}

/// What is at a path of this layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    Inode(Inode),
    Dir,
    /// The part of the path with this number is this symbolic link.
    Through(Inode, usize),
    /// Nothing, and this layer hides what the layers below may have there.
    Hidden,
    /// Nothing in this layer. This number of the path's first parts are directories in it.
    Unknown(usize),
}

impl<'l> DirTree<'l> {
    pub(super) fn new(limits: &'l Limits, share: &'l Share) -> Self {
        Self {
            tree: Tree::new(implied()),
            limits,
            share,
            taken: 0,
            whiteout: None,
            has_unnamed: false,
            copies: Map::default(),
        }
    }

    /// The directory at the end of `parts`. Missing directories are made; `below` returns the metadata that the layers
    /// below have for the part with this number. A whiteout (`hides`) gets [`Parent::Nowhere`] if this layer has
    /// something else in place of a directory, because everything that lower layers have there is hidden already.
    pub(super) fn parent<'p>(
        &mut self,
        parts: impl Iterator<Item = &'p [u8]>,
        hides: bool,
        at: &EntryName,
        mut below: impl FnMut(usize) -> Result<Option<Meta>, UnpackError>,
    ) -> Result<Parent, UnpackError> {
        let mut dir = Tree::ROOT;
        for (depth, part) in parts.enumerate() {
            dir = match self.get(dir, part)? {
                Some(Node::Dir(next)) => next,
                Some(Node::Inode(_)) if hides => return Ok(Parent::Nowhere),
                Some(Node::Inode(inode)) if inode.is_symlink() => {
                    return Ok(Parent::Through(inode, depth));
                }
                Some(Node::Inode(inode)) if self.whiteout != Some(inode) => {
                    return Err(at.refuse(InvalidLayer::BelowFile(EntryName::new(part))));
                }
                missing => {
                    // What this layer has deleted comes back as something new.
                    let may_be_below = missing.is_none() && !self.is(dir, Flag::Absent)?;
                    let meta = if may_be_below { below(depth)? } else { None };
                    self.has_unnamed |= may_be_below;
                    let is_absent = meta.is_none();
                    let next = self.new_dir(dir, part, meta.unwrap_or_else(implied), at)?;
                    if is_absent {
                        self.flag(next, Flag::Absent, true)?;
                    }
                    if missing.is_some() {
                        self.make_opaque(next, at)?;
                    }
                    self.flag(next, Flag::Hollow, true)?;
                    next
                }
            };
            if !hides {
                self.flag(dir, Flag::Hollow, false)?;
            }
        }
        Ok(Parent::Dir(dir))
    }

    /// Sets the root's metadata.
    pub(super) fn root(&mut self, meta: Meta, at: &EntryName) -> Result<(), UnpackError> {
        if meta.xattrs.count() > self.limits.root_xattrs {
            return Err(at.exceed(Exceeded::RootXattrs(self.limits.root_xattrs)));
        }
        self.set_meta(Tree::ROOT, meta, at)
    }

    /// Puts a directory under a name, or replaces the metadata of the one that is there. Returns its id.
    pub(super) fn dir(
        &mut self,
        parent: DirId,
        name: &[u8],
        meta: Meta,
        at: &EntryName,
    ) -> Result<DirId, UnpackError> {
        match self.get(parent, name)? {
            Some(Node::Dir(dir)) => {
                self.flag(dir, Flag::Hollow, false)?;
                self.set_meta(dir, meta, at)?;
                Ok(dir)
            }
            Some(Node::Inode(_)) => {
                let dir = self.new_dir(parent, name, meta, at)?;
                self.make_opaque(dir, at)?;
                Ok(dir)
            }
            None => self.new_dir(parent, name, meta, at),
        }
    }

    /// Gives a new inode its name.
    pub(super) fn inode(
        &mut self,
        dir: DirId,
        name: &[u8],
        inode: Inode,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.tree.add(dir, name, inode).map_err(UnpackError::Names)?;
        self.check(at)
    }

    /// What is at `target` so far.
    pub(super) fn at(&self, target: &EntryPath) -> Result<Lookup, UnpackError> {
        self.find(target).map_err(UnpackError::Names)
    }

    fn find(&self, target: &EntryPath) -> io::Result<Lookup> {
        let (mut node, mut hidden) = (Node::Dir(Tree::ROOT), false);
        for (depth, part) in target.parts().enumerate() {
            let dir = match node {
                Node::Dir(dir) => dir,
                Node::Inode(inode) if inode.is_symlink() => {
                    return Ok(Lookup::Through(inode, depth - 1));
                }
                Node::Inode(_) => return Ok(Lookup::Hidden),
            };
            hidden |= self.tree.is(dir, Flag::Opaque)?;
            node = match self.tree.get(dir, part)? {
                Some(Node::Inode(inode)) if self.whiteout == Some(inode) => {
                    return Ok(Lookup::Hidden);
                }
                Some(node) => node,
                None if hidden => return Ok(Lookup::Hidden),
                None => return Ok(Lookup::Unknown(depth)),
            };
        }
        Ok(match node {
            Node::Dir(_) => Lookup::Dir,
            Node::Inode(inode) => Lookup::Inode(inode),
        })
    }

    /// Gives an inode that has or had a name another one.
    pub(super) fn link(
        &mut self,
        dir: DirId,
        name: &[u8],
        inode: Inode,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.tree.link(dir, name, inode).map_err(UnpackError::Names)?;
        self.check(at)
    }

    /// The copy of a lower layer's inode, found by device and inode number.
    pub(super) fn copy_of(&self, lower: (u64, u64)) -> Result<Option<Inode>, UnpackError> {
        self.copies.get(&lower_key(lower)).map_err(UnpackError::Names)
    }

    /// Records `inode` as that copy.
    pub(super) fn copied(&mut self, lower: (u64, u64), inode: Inode) -> Result<(), UnpackError> {
        let before = self.copies.insert(Box::from(lower_key(lower)), inode);
        before.map(drop).map_err(UnpackError::Names)
    }

    /// Hides what lower layers have under a name. `whiteout` must be the same inode in every call.
    pub(super) fn hide(
        &mut self,
        dir: DirId,
        name: &[u8],
        whiteout: Inode,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.whiteout = Some(whiteout);
        match self.get(dir, name)? {
            Some(Node::Inode(_)) => return Ok(()),
            Some(Node::Dir(below)) if !self.is(below, Flag::Hollow)? => {
                return self.make_opaque(below, at);
            }
            Some(Node::Dir(_)) | None => {}
        }
        self.tree.link(dir, name, whiteout).map_err(UnpackError::Names)?;
        // The root is always merged, because an upper is above it.
        if dir != Tree::ROOT && !self.is(dir, Flag::HasWhiteouts)? {
            self.flag(dir, Flag::HasWhiteouts, true)?;
            self.mark(dir, KEEPS_WHITEOUTS, at)?;
        }
        self.check(at)
    }

    /// Hides all that lower layers have in a directory.
    pub(super) fn make_opaque(&mut self, dir: DirId, at: &EntryName) -> Result<(), UnpackError> {
        self.flag(dir, Flag::Opaque, true)?;
        self.mark(dir, OPAQUE, at)
    }

    /// Sets one of overlay's xattrs on a directory.
    fn mark(
        &mut self,
        dir: DirId,
        (name, value): (&str, &[u8]),
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let name = name.as_bytes();
        let set = self.tree.set_xattr(dir, name, value).map_err(UnpackError::Names)?;
        set.map_err(|why| at.refuse(InvalidLayer::Xattr { name: EntryName::new(name), why }))?;
        self.check(at)
    }

    /// Whether it has unnamed directories that a layer below may have.
    pub(super) fn has_unnamed(&self) -> bool {
        self.has_unnamed
    }

    /// The names as a tree, and whether its root is opaque.
    pub(super) fn finish(mut self) -> Result<(Tree, bool), UnpackError> {
        let opaque = self.is(Tree::ROOT, Flag::Opaque)?;
        if let Some(whiteout) = self.whiteout {
            // In an opaque directory, whiteouts hide nothing.
            self.tree.pass_over(whiteout);
        }
        Ok((self.tree, opaque))
    }

    fn get(&self, dir: DirId, name: &[u8]) -> Result<Option<Node>, UnpackError> {
        self.tree.get(dir, name).map_err(UnpackError::Names)
    }

    fn is(&self, dir: DirId, flag: Flag) -> Result<bool, UnpackError> {
        self.tree.is(dir, flag).map_err(UnpackError::Names)
    }

    fn flag(&mut self, dir: DirId, flag: Flag, set: bool) -> Result<(), UnpackError> {
        self.tree.flag(dir, flag, set).map_err(UnpackError::Names)
    }

    fn new_dir(
        &mut self,
        parent: DirId,
        name: &[u8],
        meta: Meta,
        at: &EntryName,
    ) -> Result<DirId, UnpackError> {
        let dir = self.tree.add_dir(parent, name, meta).map_err(UnpackError::Names)?;
        self.check(at)?;
        Ok(dir)
    }

    fn set_meta(&mut self, dir: DirId, meta: Meta, at: &EntryName) -> Result<(), UnpackError> {
        self.tree.set_meta(dir, meta).map_err(UnpackError::Names)?;
        if self.is(dir, Flag::Opaque)? {
            self.mark(dir, OPAQUE, at)?;
        }
        if self.is(dir, Flag::HasWhiteouts)? {
            self.mark(dir, KEEPS_WHITEOUTS, at)?;
        }
        self.check(at)
    }

    /// Checks the number of names, moves them to files when they are many, and takes memory from the budget, for which
    /// it may wait. Called after each name and xattr, because one more is little.
    fn check(&mut self, at: &EntryName) -> Result<(), UnpackError> {
        if self.tree.names() > self.limits.entries {
            return Err(at.exceed(Exceeded::Entries(self.limits.entries)));
        }
        let memory = |names: &Self| names.tree.memory() + names.copies.memory() as u64;
        if memory(self) > self.limits.memory {
            let scratch = &self.limits.scratch;
            self.tree.spill(scratch).map_err(UnpackError::Names)?;
            self.copies.spill(scratch, COPIES_CACHE).map_err(UnpackError::Names)?;
        }
        let memory = memory(self);
        self.share.follow(&mut self.taken, memory).map_err(|_| at.exceed(Exceeded::Memory))
    }
}

/// A lower layer's inode as a key of the map.
fn lower_key((device, inode): (u64, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&device.to_be_bytes());
    key[8..].copy_from_slice(&inode.to_be_bytes());
    key
}

/// The metadata of a directory that no entry and no layer below gives, including the root: that of a `mkdir` by root.
fn implied() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}
