//! Layers that are made of an upper by a rename.
//!
//! ```text
//! <workspace>/upper  ─►  <workspace>/sealing/diff  ─►  layers/<key, hex>/diff
//! ```
//!
//! Before the first rename, the record of the workspace names the layer. So after a kill at any point the same call
//! continues. Nothing is copied, and nothing is synced but names and metadata: the kernel has written the upper to the
//! disk when its overlay was unmounted.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    key::LayerKey,
    layer_meta::{LayerMeta, SnapshotContents},
    layer_storage::LayerStorage,
    snapshot_id::SnapshotId,
    stored_layers::Layers,
};
use crate::{
    changeset::LayerFeatures,
    sys::durable::{self, at},
};

/// The directory beside an upper in which it becomes a layer.
const SEALING: &str = "sealing";

impl Layers {
    /// The key of a layer that no other layer has.
    ///
    /// # Errors
    /// The kernel's source of UUIDs cannot be read.
    pub fn new_key() -> io::Result<LayerKey> {
        Ok(LayerKey::of_snapshot(&SnapshotId::unique("workspace")?))
    }

    /// Makes the directory `upper` the layer `key`, or continues that after a kill. Returns false if neither the upper nor
    /// the layer exists. No overlay uses the upper, and a record names the layer.
    pub fn seal(&self, upper: &Path, key: &LayerKey, features: LayerFeatures) -> io::Result<bool> {
        let to = self.dirs.of(key);
        if self.has(key) {
            return Ok(true);
        }
        let sealing = upper.with_file_name(SEALING);
        let tree = sealing.join(LayerStorage::Dir.content());
        durable::create_dir_unsynced(&sealing, 0o700)?;
        if !tree.try_exists().map_err(at("look at", &tree))? {
            if !upper.try_exists().map_err(at("look at", upper))? {
                durable::remove_tree_unsynced(&sealing)?;
                return Ok(false);
            }
            durable::rename_unsynced(upper, &tree)?;
        }
        let contents = SnapshotContents { features, ..SnapshotContents::default() };
        LayerMeta::of_snapshot(*key, &contents).write(&sealing)?;
        durable::rename(&sealing, &to)?;
        Ok(true)
    }

    /// The directory tree of a layer. `None` if the layer is not stored as one.
    ///
    /// # Errors
    /// The metadata of the layer cannot be read.
    pub fn tree_of(&self, key: &LayerKey) -> io::Result<Option<PathBuf>> {
        let dir = self.dirs.of(key);
        let storage = LayerMeta::read(&dir)?.storage;
        Ok((storage == LayerStorage::Dir).then(|| dir.join(storage.content())))
    }
}
