//! Snapshot layers: directory trees that were copied from a volume's upper, with its overlay xattrs.
//!
//! ```text
//! staging/<n>/diff/     filled by the capture; becomes the layer's tree
//! staging/<n>/aside/    files of the copy that were replaced
//! ```
//!
//! A snapshot layer was not added from a tar, so it has no diff ID. Its key cannot equal a diff ID: an image that
//! claims the key gets nothing, see [`Layers::fits`].
//!
//! Deliberately absent: the format of an upper, and how it is copied.

use std::{io, path::PathBuf};

use super::{
    key::LayerKey,
    layer_meta::{LayerMeta, SnapshotContents},
    layer_storage::LayerStorage,
    snapshot_id::SnapshotId,
    staging::StagedDir,
    stored_layers::Layers,
};
use crate::sys::durable::{self, Amount, at};

/// A snapshot layer in staging. It is removed when this is dropped without a commit.
#[derive(Debug)]
pub struct StagedSnapshot {
    dir: StagedDir,
    key: LayerKey,
    /// The directory of the layer in the store.
    to: PathBuf,
}

impl Layers {
    /// Creates the staging directory for a snapshot's layer. The caller stages one layer per name at a time.
    pub fn stage_snapshot(&self, id: &SnapshotId) -> io::Result<StagedSnapshot> {
        let first = LayerKey::of_snapshot(id);
        let later = (1..).map(|before| LayerKey::of_later_snapshot(id, before));
        let key = std::iter::once(first).chain(later).find(|key| !self.has(key)).unwrap_or(first);
        let staged = StagedSnapshot { dir: self.staging.new_dir(), key, to: self.dirs.of(&key) };
        durable::create_dir_unsynced(staged.dir.path(), 0o700)?;
        durable::create_dir_unsynced(&staged.tree(), 0o700)?;
        durable::create_dir_unsynced(&staged.aside(), 0o700)?;
        Ok(staged)
    }
}

impl StagedSnapshot {
    /// The key that the layer will have. The caller keeps a lease of it until a record names it.
    pub fn key(&self) -> LayerKey {
        self.key
    }

    /// The directory for the layer's tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.path().join(LayerStorage::Dir.content())
    }

    /// The directory for replaced files, on the same file system.
    pub fn aside(&self) -> PathBuf {
        self.dir.path().join("aside")
    }

    /// Adds the layer to the store, durably: its bytes are synced before it is renamed into place. `dirty` is the part
    /// of the bytes that may not be on the disk yet.
    ///
    /// # Errors
    /// A file system operation failed. The staging directory is removed.
    pub fn commit(self, contents: SnapshotContents, dirty: Amount) -> io::Result<()> {
        durable::remove_tree_unsynced(&self.aside())?;
        durable::sync_tree(&self.tree(), dirty).map_err(at("sync", &self.tree()))?;
        // Written and synced after the tree, which also brings the tree's file system metadata to the disk.
        LayerMeta::of_snapshot(self.key, &contents).write(self.dir.path())?;
        durable::rename(self.dir.path(), &self.to)
    }
}

#[cfg(test)]
#[path = "snapshot_layer_tests.rs"]
mod tests;
