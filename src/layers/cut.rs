//! Cuts: layers that were copied out of a volume's upper, folder trees with overlay's own marks in them.
//!
//! ```text
//! staging/<n>/diff/     filled by whoever cuts; becomes the layer's tree
//! staging/<n>/aside/    what was filled in and is not wanted any more
//! ```
//!
//! A cut came as no tar, so it has no diff id and is kept under a key that can be none: no image can claim it and get anything, see
//! [`Store::fits`]. Deliberately absent: what an upper is, and how it is copied.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    SnapshotId, Store,
    add::Staged,
    description::{Description, Form},
};
use crate::{
    changeset::Features,
    digest::Digest,
    sys::durable::{self, Amount, at},
};

/// The key under which the cut of a snapshot is kept: no diff id, for no tar has this text's bytes.
pub fn cut_key(id: &SnapshotId) -> Digest {
    Digest::of(format!("ovl-csi cut {id}").as_bytes())
}

/// The key of a snapshot's cut where earlier ones of that name are here still: of one that was forgotten there may be volumes.
fn later_key(id: &SnapshotId, before: u32) -> Digest {
    Digest::of(format!("ovl-csi cut {id} {before}").as_bytes())
}

/// A cut that is being made. Dropped, it is gone.
#[derive(Debug)]
pub struct StagedCut {
    store: Arc<Store>,
    folder: Staged,
    key: Digest,
}

/// What a cut consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CutContents {
    /// Names in it.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Overlay's marks in it that a mount has to be told to follow.
    pub features: Features,
}

impl Store {
    /// Begins the cut of a snapshot. One of a name at a time.
    pub fn stage_cut(self: &Arc<Self>, id: &SnapshotId) -> io::Result<StagedCut> {
        let later = (1..).map(|before| later_key(id, before));
        let mut keys = std::iter::once(cut_key(id)).chain(later);
        let key = keys.find(|key| !self.has(key)).unwrap_or_else(|| cut_key(id));
        let path = self.stage();
        durable::create_dir_soon(&path, 0o700)?;
        let folder = Staged(path);
        let staged = StagedCut { store: self.clone(), folder, key };
        durable::create_dir_soon(&staged.tree(), 0o700)?;
        durable::create_dir_soon(&staged.aside(), 0o700)?;
        Ok(staged)
    }
}

impl StagedCut {
    /// The key that it is going to have. Whoever cuts has a lease of it until a record names it.
    pub fn key(&self) -> Digest {
        self.key
    }

    /// The folder for its tree.
    pub fn tree(&self) -> PathBuf {
        self.folder.0.join(Form::Dir.content())
    }

    /// The folder for what is not wanted any more, on the same file system.
    pub fn aside(&self) -> PathBuf {
        self.folder.0.join("aside")
    }

    /// Keeps it as a layer: its bytes are on the disk before it has its name. `dirty` is what of them may not be there yet. An error
    /// leaves nothing.
    pub fn commit(self, contents: CutContents, dirty: Amount) -> io::Result<()> {
        durable::remove_tree_soon(&self.aside())?;
        durable::settle(&self.tree(), dirty).map_err(at("sync", &self.tree()))?;
        // Made and synced after them, it brings their metadata to the disk.
        Description::of_cut(self.key, &contents).write(&self.folder.0)?;
        durable::rename(&self.folder.0, &self.store.layer(&self.key))
    }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
