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
//! of folders, and mark each of them.
//!
//! Deliberately absent: content. By the time something gets a name, it is in the image.

use std::collections::BTreeSet;

use super::Limits;
use super::error::{EntryName, Exceeded, Refusal, UnpackError};
use super::path::EntryPath;
use crate::erofs::{FolderId, Inode, Meta, Node, Tree};

/// Overlay's mark of an opaque folder (kernel doc, overlayfs.rst, "whiteouts and opaque directories").
const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
/// Bytes of a folder in one of the sets below, whose nodes are half full at worst.
const IN_SET: usize = 4 * size_of::<FolderId>();

pub(super) struct Names {
    tree: Tree,
    limits: Limits,
    whiteout: Option<Inode>,
    opaque: BTreeSet<FolderId>,
    hollow: BTreeSet<FolderId>,
}

impl Names {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            tree: Tree::new(implied()),
            limits: limits.clone(),
            whiteout: None,
            opaque: BTreeSet::new(),
            hollow: BTreeSet::new(),
        }
    }

    /// The folder at the end of `parts`, made where it is missing. None for what only hides something, when
    /// that is hidden already by a whiteout further up.
    pub(super) fn parent<'p>(
        &mut self,
        parts: impl Iterator<Item = &'p [u8]>,
        hides: bool,
        at: &EntryName,
    ) -> Result<Option<FolderId>, UnpackError> {
        let mut folder = Tree::ROOT;
        for part in parts {
            folder = match self.tree.get(folder, part) {
                Some(Node::Folder(below)) => below,
                Some(Node::Inode(inode)) if self.whiteout != Some(inode) => {
                    return Err(at.refuse(Refusal::BelowFile(EntryName::new(part))));
                }
                Some(Node::Inode(_)) if hides => return Ok(None),
                missing => {
                    let below = self.new_folder(folder, part, implied(), at)?;
                    if missing.is_some() {
                        self.make_opaque(below, at)?;
                    }
                    self.hollow.insert(below);
                    below
                }
            };
            if !hides {
                self.hollow.remove(&folder);
            }
        }
        Ok(Some(folder))
    }

    /// Gives the root its attributes.
    pub(super) fn root(&mut self, meta: Meta, at: &EntryName) -> Result<(), UnpackError> {
        self.describe(Tree::ROOT, meta, at)
    }

    /// Puts a folder under a name, or gives the folder there its attributes.
    pub(super) fn folder(
        &mut self,
        parent: FolderId,
        name: &[u8],
        meta: Meta,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        match self.tree.get(parent, name) {
            Some(Node::Folder(folder)) => {
                self.hollow.remove(&folder);
                self.describe(folder, meta, at)
            }
            Some(Node::Inode(_)) => {
                let folder = self.new_folder(parent, name, meta, at)?;
                self.make_opaque(folder, at)
            }
            None => self.new_folder(parent, name, meta, at).map(drop),
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
        self.tree.add(folder, name, inode);
        self.check(at)
    }

    /// Gives the inode at `target` one more name.
    pub(super) fn link(
        &mut self,
        folder: FolderId,
        name: &[u8],
        target: &EntryPath,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        let mut node = Node::Folder(Tree::ROOT);
        for part in target.parts() {
            let below = match node {
                Node::Folder(folder) => self.tree.get(folder, part),
                Node::Inode(_) => None,
            };
            let below = below.filter(|node| self.whiteout.map(Node::Inode) != Some(*node));
            node = below.ok_or_else(|| UnpackError::LinkElsewhere {
                name: at.clone(),
                target: EntryName::new(target.as_bytes()),
            })?;
        }
        let Node::Inode(inode) = node else {
            return Err(at.refuse(Refusal::LinkToFolder(EntryName::new(target.as_bytes()))));
        };
        self.tree.link(folder, name, inode);
        self.check(at)
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
        match self.tree.get(folder, name) {
            Some(Node::Inode(_)) => return Ok(()),
            Some(Node::Folder(below)) if !self.hollow.contains(&below) => {
                return self.make_opaque(below, at);
            }
            Some(Node::Folder(_)) | None => {}
        }
        self.tree.link(folder, name, whiteout);
        self.check(at)
    }

    /// Takes away all that lower layers have in a folder.
    pub(super) fn make_opaque(
        &mut self,
        folder: FolderId,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.opaque.insert(folder);
        let (name, value) = OPAQUE;
        let set = self.tree.set_xattr(folder, name, value);
        set.map_err(|why| at.refuse(Refusal::Xattr { name: EntryName::new(name), why }))?;
        self.check(at)
    }

    /// The names as a tree, and whether its root is opaque.
    pub(super) fn finish(mut self) -> (Tree, bool) {
        if let Some(whiteout) = self.whiteout {
            // overlayfs lists a folder that it does not merge as it is: whiteouts would show as broken devices.
            self.tree.unlink_all(whiteout, |folder| self.opaque.contains(&folder));
        }
        (self.tree, self.opaque.contains(&Tree::ROOT))
    }

    fn new_folder(
        &mut self,
        parent: FolderId,
        name: &[u8],
        meta: Meta,
        at: &EntryName,
    ) -> Result<FolderId, UnpackError> {
        let folder = self.tree.add_folder(parent, name, meta);
        self.check(at)?;
        Ok(folder)
    }

    fn describe(
        &mut self,
        folder: FolderId,
        meta: Meta,
        at: &EntryName,
    ) -> Result<(), UnpackError> {
        self.tree.describe(folder, meta);
        if self.opaque.contains(&folder) { self.make_opaque(folder, at) } else { self.check(at) }
    }

    /// Whether all that is held is within the limits still. Asked after each name and mark: one more is little.
    fn check(&self, at: &EntryName) -> Result<(), UnpackError> {
        let in_sets = (self.opaque.len() + self.hollow.len()) * IN_SET;
        if self.tree.names() > self.limits.entries {
            return Err(at.exceed(Exceeded::Entries(self.limits.entries)));
        }
        if self.tree.held() + in_sets as u64 > self.limits.held_bytes {
            return Err(at.exceed(Exceeded::HeldBytes(self.limits.held_bytes)));
        }
        Ok(())
    }
}

/// The attributes of a folder that no entry describes, the root among them: what `mkdir` would give root.
fn implied() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}
