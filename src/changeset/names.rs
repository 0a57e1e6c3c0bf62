//! The names of a layer: what stands under each, and what it hides in the layers below.
//!
//! ```text
//! under a name there is   and comes: a file, link…   a folder            its whiteout
//! nothing                 the file                   the folder          a whiteout
//! a whiteout              the file                   an opaque folder    the whiteout
//! a file, a link…         the new one                an opaque folder    the file
//! a folder                the file                   its attributes      the folder, opaque
//! ```
//!
//! An opaque folder shows nothing of lower layers: it stands where this layer had taken their entry away. A
//! folder that exists for the whiteouts in it alone is hollow, and gives way to its own whiteout.
//!
//! What a name costs is the memory that is held for it, not its length: a tar of a few kilobytes can imply millions
//! of folders, and mark each of them. Beyond a bound it all goes to files.
//!
//! Deliberately absent: content. By the time something gets a name, it is in the image.

use std::io;

use super::Limits;
use super::error::{EntryName, Exceeded, Refusal, UnpackError};
use super::path::EntryPath;
use crate::budget::Share;
use crate::erofs::{Flag, FolderId, Inode, Meta, Node, Tree};
use crate::spill::Map;

/// Overlay's mark of an opaque folder (kernel doc, overlayfs.rst, "whiteouts and opaque directories").
const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
/// What makes overlay look for whiteouts in a folder that it need not merge: it would list them else, as names that cannot be
/// looked up. Without a value it says of nothing where it was copied up from (Linux, `fs/overlayfs/inode.c`, `ovl_get_inode`).
const KEEPS_WHITEOUTS: (&[u8], &[u8]) = (b"trusted.overlay.origin", b"");
/// Bytes of memory that stay of copies when they are in a file.
const COPIES_CACHE: usize = 1 << 20;

pub(super) struct Names<'l> {
    tree: Tree,
    limits: &'l Limits,
    share: &'l Share,
    /// Bytes taken from the share.
    taken: u64,
    whiteout: Option<Inode>,
    /// A layer below may have given an unnamed folder its attributes.
    has_unnamed: bool,
    /// Inodes that were copied from lower layers, by what they were there ([`lower_key`]).
    copies: Map<Inode>,
}

/// Where an entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// Into this folder.
    Folder(FolderId),
    /// Nowhere: what it hides is hidden already.
    Nowhere,
    /// The way there leads through this symbolic link, under the part of the path with this number.
    Through(Inode, usize),
}

/// What stands at a path of this layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Inode(Inode),
    Folder,
    /// The way there leads through this symbolic link, under the part of the path with this number.
    Through(Inode, usize),
    /// Nothing, and this layer hides what those below may have there.
    Hidden,
    /// Nothing here; so many of the path's first parts are folders here.
    Unknown(usize),
}

impl<'l> Names<'l> {
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

    /// The folder at the end of `parts`, made where it is missing, with the attributes that `below` says of the one at the part with
    /// this number. What only hides something is nowhere where this layer has no
    /// folder for it: whatever lower layers have there is hidden already.
    pub(super) fn parent<'p>(
        &mut self,
        parts: impl Iterator<Item = &'p [u8]>,
        hides: bool,
        at: &EntryName,
        mut below: impl FnMut(usize) -> Result<Option<Meta>, UnpackError>,
    ) -> Result<Parent, UnpackError> {
        let mut folder = Tree::ROOT;
        for (depth, part) in parts.enumerate() {
            folder = match self.get(folder, part)? {
                Some(Node::Folder(next)) => next,
                Some(Node::Inode(_)) if hides => return Ok(Parent::Nowhere),
                Some(Node::Inode(inode)) if inode.is_symlink() => {
                    return Ok(Parent::Through(inode, depth));
                }
                Some(Node::Inode(inode)) if self.whiteout != Some(inode) => {
                    return Err(at.refuse(Refusal::BelowFile(EntryName::new(part))));
                }
                missing => {
                    // What this layer has taken away comes back as something new.
                    let may_be_below = missing.is_none() && !self.is(folder, Flag::Absent)?;
                    let meta = if may_be_below { below(depth)? } else { None };
                    self.has_unnamed |= may_be_below;
                    let is_absent = meta.is_none();
                    let next = self.new_folder(folder, part, meta.unwrap_or_else(implied), at)?;
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
                self.flag(folder, Flag::Hollow, false)?;
            }
        }
        Ok(Parent::Folder(folder))
    }

    /// Gives the root its attributes.
    pub(super) fn root(&mut self, meta: Meta, at: &EntryName) -> Result<(), UnpackError> {
        if meta.xattrs.count() > self.limits.root_xattrs {
            return Err(at.exceed(Exceeded::RootXattrs(self.limits.root_xattrs)));
        }
        self.describe(Tree::ROOT, meta, at)
    }

    /// Puts a folder under a name, or gives the folder there its attributes; answers the folder.
    pub(super) fn folder(
        &mut self,
        parent: FolderId,
        name: &[u8],
        meta: Meta,
        at: &EntryName,
    ) -> Result<FolderId, UnpackError> {
        match self.get(parent, name)? {
            Some(Node::Folder(folder)) => {
                self.flag(folder, Flag::Hollow, false)?;
                self.describe(folder, meta, at)?;
                Ok(folder)
            }
            Some(Node::Inode(_)) => {
                let folder = self.new_folder(parent, name, meta, at)?;
                self.make_opaque(folder, at)?;
                Ok(folder)
            }
            None => self.new_folder(parent, name, meta, at),
        }
    }

    /// Gives a new inode its name.
    pub(super) fn inode(
        &mut self,
        folder: FolderId,
        name: &[u8],
        inode: Inode,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.tree.add(folder, name, inode).map_err(UnpackError::Names)?;
        self.check(at)
    }

    /// What stands at `target` so far.
    pub(super) fn at(&self, target: &EntryPath) -> Result<Standing, UnpackError> {
        self.find(target).map_err(UnpackError::Names)
    }

    fn find(&self, target: &EntryPath) -> io::Result<Standing> {
        let (mut node, mut hidden) = (Node::Folder(Tree::ROOT), false);
        for (depth, part) in target.parts().enumerate() {
            let folder = match node {
                Node::Folder(folder) => folder,
                Node::Inode(inode) if inode.is_symlink() => {
                    return Ok(Standing::Through(inode, depth - 1));
                }
                Node::Inode(_) => return Ok(Standing::Hidden),
            };
            hidden |= self.tree.is(folder, Flag::Opaque)?;
            node = match self.tree.get(folder, part)? {
                Some(Node::Inode(inode)) if self.whiteout == Some(inode) => {
                    return Ok(Standing::Hidden);
                }
                Some(node) => node,
                None if hidden => return Ok(Standing::Hidden),
                None => return Ok(Standing::Unknown(depth)),
            };
        }
        Ok(match node {
            Node::Folder(_) => Standing::Folder,
            Node::Inode(inode) => Standing::Inode(inode),
        })
    }

    /// Gives an inode that has a name, or had one, one more.
    pub(super) fn link(
        &mut self,
        folder: FolderId,
        name: &[u8],
        inode: Inode,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.tree.link(folder, name, inode).map_err(UnpackError::Names)?;
        self.check(at)
    }

    /// The copy of a lower layer's inode, by device and number.
    pub(super) fn copy_of(&self, lower: (u64, u64)) -> Result<Option<Inode>, UnpackError> {
        self.copies.get(&lower_key(lower)).map_err(UnpackError::Names)
    }

    /// Remembers that `inode` is that copy.
    pub(super) fn copied(&mut self, lower: (u64, u64), inode: Inode) -> Result<(), UnpackError> {
        let before = self.copies.insert(Box::from(lower_key(lower)), inode);
        before.map(drop).map_err(UnpackError::Names)
    }

    /// Takes away what lower layers have under a name. `whiteout` is the same inode at every call.
    pub(super) fn hide(
        &mut self,
        folder: FolderId,
        name: &[u8],
        whiteout: Inode,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.whiteout = Some(whiteout);
        match self.get(folder, name)? {
            Some(Node::Inode(_)) => return Ok(()),
            Some(Node::Folder(below)) if !self.is(below, Flag::Hollow)? => {
                return self.make_opaque(below, at);
            }
            Some(Node::Folder(_)) | None => {}
        }
        self.tree.link(folder, name, whiteout).map_err(UnpackError::Names)?;
        // The root is always merged: an upper lies above it.
        if folder != Tree::ROOT && !self.is(folder, Flag::Keeping)? {
            self.flag(folder, Flag::Keeping, true)?;
            self.mark(folder, KEEPS_WHITEOUTS, at)?;
        }
        self.check(at)
    }

    /// Takes away all that lower layers have in a folder.
    pub(super) fn make_opaque(
        &mut self,
        folder: FolderId,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.flag(folder, Flag::Opaque, true)?;
        self.mark(folder, OPAQUE, at)
    }

    /// Gives a folder one of overlay's marks.
    fn mark(
        &mut self,
        folder: FolderId,
        (name, value): (&[u8], &[u8]),
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let set = self.tree.set_xattr(folder, name, value).map_err(UnpackError::Names)?;
        set.map_err(|why| at.refuse(Refusal::Xattr { name: EntryName::new(name), why }))?;
        self.check(at)
    }

    /// Whether it has folders that no entry named when something came to lie in them, and that a layer below may have.
    pub(super) fn has_unnamed(&self) -> bool {
        self.has_unnamed
    }

    /// The names as a tree, and whether its root is opaque.
    pub(super) fn finish(mut self) -> Result<(Tree, bool), UnpackError> {
        let opaque = self.is(Tree::ROOT, Flag::Opaque)?;
        if let Some(whiteout) = self.whiteout {
            // In an opaque folder they hide nothing.
            self.tree.pass_over(whiteout);
        }
        Ok((self.tree, opaque))
    }

    fn get(&self, folder: FolderId, name: &[u8]) -> Result<Option<Node>, UnpackError> {
        self.tree.get(folder, name).map_err(UnpackError::Names)
    }

    fn is(&self, folder: FolderId, flag: Flag) -> Result<bool, UnpackError> {
        self.tree.is(folder, flag).map_err(UnpackError::Names)
    }

    fn flag(&mut self, folder: FolderId, flag: Flag, set: bool) -> Result<(), UnpackError> {
        self.tree.flag(folder, flag, set).map_err(UnpackError::Names)
    }

    fn new_folder(
        &mut self,
        parent: FolderId,
        name: &[u8],
        meta: Meta,
        at: &EntryName,
    ) -> Result<FolderId, UnpackError> {
        let folder = self.tree.add_folder(parent, name, meta).map_err(UnpackError::Names)?;
        self.check(at)?;
        Ok(folder)
    }

    fn describe(
        &mut self,
        folder: FolderId,
        meta: Meta,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.tree.describe(folder, meta).map_err(UnpackError::Names)?;
        if self.is(folder, Flag::Opaque)? {
            self.mark(folder, OPAQUE, at)?;
        }
        if self.is(folder, Flag::Keeping)? {
            self.mark(folder, KEEPS_WHITEOUTS, at)?;
        }
        self.check(at)
    }

    /// Whether there are no more names than there may be; waits where the budget says so, and has names go to files when they are
    /// many. Asked after each name and mark: one more is little.
    fn check(&mut self, at: &EntryName) -> Result<(), UnpackError> {
        if self.tree.names() > self.limits.entries {
            return Err(at.exceed(Exceeded::Entries(self.limits.entries)));
        }
        let held = |names: &Self| names.tree.held() + names.copies.held() as u64;
        if held(self) > self.limits.memory {
            let scratch = &self.limits.scratch;
            self.tree.spill(scratch).map_err(UnpackError::Names)?;
            self.copies.spill(scratch, COPIES_CACHE).map_err(UnpackError::Names)?;
        }
        let held = held(self);
        self.share.follow(&mut self.taken, held).map_err(|_| at.exceed(Exceeded::Memory))
    }
}

/// A lower layer's inode as a key.
fn lower_key((device, inode): (u64, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&device.to_be_bytes());
    key[8..].copy_from_slice(&inode.to_be_bytes());
    key
}

/// The attributes of a folder that no entry and no layer below describes, the root among them: what `mkdir` would give root.
fn implied() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}
