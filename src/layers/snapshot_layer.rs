//! Cuts: layers that were copied out of a volume's upper, directory trees with overlay's own marks in them.
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
    layer_meta::{LayerFormat, LayerMeta},
};
use crate::{
    changeset::Features,
    digest::Digest,
    sys::durable::{self, Amount, at},
};

/// The key under which the cut of a snapshot is kept: no diff id, for no tar has this text's bytes.
pub fn snapshot_key(id: &SnapshotId) -> Digest {
    Digest::of(format!("ovl-csi cut {id}").as_bytes())
}

/// The key of a snapshot's cut where earlier ones of that name are here still: of one that was forgotten there may be volumes.
fn later_key(id: &SnapshotId, before: u32) -> Digest {
    Digest::of(format!("ovl-csi cut {id} {before}").as_bytes())
}

/// A cut that is being made. Dropped, it is gone.
#[derive(Debug)]
pub struct StagedSnapshot {
    store: Arc<Store>,
    dir: Staged,
    key: Digest,
}

/// What a cut consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotContents {
    /// Names in it.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Overlay's marks in it that a mount has to be told to follow.
    pub features: Features,
}

impl Store {
    /// Begins the cut of a snapshot. One of a name at a time.
    pub fn stage_snapshot(self: &Arc<Self>, id: &SnapshotId) -> io::Result<StagedSnapshot> {
        let later = (1..).map(|before| later_key(id, before));
        let mut keys = std::iter::once(snapshot_key(id)).chain(later);
        let key = keys.find(|key| !self.has(key)).unwrap_or_else(|| snapshot_key(id));
        let path = self.stage();
        durable::create_dir_soon(&path, 0o700)?;
        let dir = Staged(path);
        let staged = StagedSnapshot { store: self.clone(), dir, key };
        durable::create_dir_soon(&staged.tree(), 0o700)?;
        durable::create_dir_soon(&staged.aside(), 0o700)?;
        Ok(staged)
    }
}

impl StagedSnapshot {
    /// The key that it is going to have. Whoever cuts has a lease of it until a record names it.
    pub fn key(&self) -> Digest {
        self.key
    }

    /// The directory for its tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.0.join(LayerFormat::Dir.content())
    }

    /// The directory for what is not wanted any more, on the same file system.
    pub fn aside(&self) -> PathBuf {
        self.dir.0.join("aside")
    }

    /// Keeps it as a layer: its bytes are on the disk before it has its name. `dirty` is what of them may not be there yet. An error
    /// leaves nothing.
    pub fn commit(self, contents: SnapshotContents, dirty: Amount) -> io::Result<()> {
        durable::remove_tree_soon(&self.aside())?;
        durable::settle(&self.tree(), dirty).map_err(at("sync", &self.tree()))?;
        // Made and synced after them, it brings their metadata to the disk.
        LayerMeta::of_snapshot(self.key, &contents).write(&self.dir.0)?;
        durable::rename(&self.dir.0, &self.store.layer(&self.key))
    }
}

#[cfg(test)]
#[path = "snapshot_layer_tests.rs"]
mod tests;
