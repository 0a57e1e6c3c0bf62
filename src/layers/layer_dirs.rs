//! The directories of the layers: their names, and what their metadata says.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{error::LowerError, key::LayerKey, layer_meta::LayerMeta, layer_storage::LayerStorage};
use crate::sys::{du, durable::at};

/// The directory of damaged layers and records: see `quarantine.rs`.
pub(super) const QUARANTINE: &str = "quarantine";

/// The directory `layers/` of a store.
#[derive(Debug, Clone)]
pub(super) struct LayerDirs(PathBuf);

impl LayerDirs {
    /// The directories of the layers in the store at `root`.
    pub(super) fn new(root: &Path) -> Self {
        Self(root.join("layers"))
    }

    /// The directory of all layers.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of one layer.
    pub(super) fn of(&self, key: &LayerKey) -> PathBuf {
        self.0.join(key.dir_name())
    }

    /// Whether the store has the layer.
    pub(super) fn has(&self, key: &LayerKey) -> bool {
        // The directory was renamed into place, so it is complete if it exists.
        self.of(key).is_dir()
    }

    /// The entry of a layer that is or was in quarantine.
    pub(super) fn quarantined(&self, key: &LayerKey) -> Option<PathBuf> {
        let entry = self.0.parent()?.join(QUARANTINE).join(Self::quarantine_name(key));
        entry.is_dir().then_some(entry)
    }

    /// The name of the entry of a layer in quarantine.
    pub(super) fn quarantine_name(key: &LayerKey) -> String {
        format!("layer-{}", key.dir_name())
    }

    /// The keys of all layers, damaged ones too. A directory whose name is not a digest was not created by the store
    /// and is ignored.
    pub(super) fn keys(&self) -> io::Result<Vec<LayerKey>> {
        let key = |dir: PathBuf| LayerKey::of_dir(dir.file_name()?.to_str()?);
        Ok(subdirs(&self.0)?.into_iter().filter_map(key).collect())
    }

    /// The bytes on the disk of a layer that is stored as a directory tree. Walks the tree. 0 if it is gone.
    pub(super) fn tree_bytes(&self, key: &LayerKey) -> io::Result<u64> {
        du::bytes_of(&self.of(key).join(LayerStorage::Dir.content()))
    }

    /// The metadata of a layer.
    pub(super) fn meta(&self, key: &LayerKey) -> Result<LayerMeta, LowerError> {
        if !self.has(key) {
            return Err(match self.quarantined(key) {
                Some(place) => LowerError::Quarantined { key: *key, place },
                None => LowerError::Absent(*key),
            });
        }
        LayerMeta::read(&self.of(key)).map_err(|source| LowerError::Metadata { key: *key, source })
    }
}

/// The paths of the subdirectories of a directory.
pub(super) fn subdirs(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(path).map_err(at("list", path))? {
        let entry = entry.map_err(at("list", path))?;
        if entry.file_type().map_err(at("list", path))?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}
