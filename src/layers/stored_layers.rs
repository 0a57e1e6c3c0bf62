//! The layers of a store: what is known of each one, and how it is opened and removed. For how they are added see
//! `add.rs`, `add_with_layers_below.rs` and `snapshot_layer.rs`.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    access::Access,
    ages::Ages,
    content_digest::ContentDigest,
    error::LowerError,
    key::LayerKey,
    layer_dirs::LayerDirs,
    layer_meta::LayerMeta,
    layer_storage::LayerStorage,
    mounted_layer::{MountedLayers, OpenLayer},
    provenance::Origins,
    reservation::DiskSpace,
    staging::Staging,
};
use crate::{budget::Budget, changeset::LayerFeatures, digest::DiffId, sys::durable};

/// All layers of a store.
#[derive(Debug)]
pub struct Layers {
    pub(super) dirs: LayerDirs,
    pub(super) mounted: MountedLayers,
    pub(super) ages: Ages,
    pub(super) origins: Arc<Origins>,
    pub(super) staging: Arc<Staging>,
    pub(super) access: Access,
    pub(super) disk: Arc<DiskSpace>,
    pub(super) budget: Arc<Budget>,
    /// How new layers are stored.
    pub(super) storage: LayerStorage,
}

impl Layers {
    /// Whether the store has the layer.
    pub fn has(&self, key: &LayerKey) -> bool {
        self.dirs.has(key)
    }

    /// Opens the layer as a lower. All its volumes share one mount, so its pages are cached once, independent of the
    /// number of pods. The mount is not listed in mountinfo, and a kill leaves no mount behind.
    pub fn lower(&self, key: &LayerKey) -> Result<OpenLayer, LowerError> {
        self.mounted.lower(key)
    }

    /// The number of open layers.
    pub fn open_count(&self) -> u64 {
        self.mounted.count()
    }

    /// The digest of a layer's uncompressed tar; `None` for a snapshot layer, which has none.
    pub fn diff_id(&self, key: &LayerKey) -> Result<Option<DiffId>, LowerError> {
        Ok(self.dirs.meta(key)?.diff_id)
    }

    /// The overlay features that a mount with this layer must enable.
    pub fn features(&self, key: &LayerKey) -> Result<LayerFeatures, LowerError> {
        Ok(self.dirs.meta(key)?.features)
    }

    /// The size of a layer's image, or of a snapshot layer's files, in bytes.
    pub fn bytes(&self, key: &LayerKey) -> io::Result<u64> {
        LayerMeta::read(&self.dirs.of(key)).map(|meta| meta.image_bytes)
    }

    /// Renames a layer's directory away, without a wait for the disk. Returns the new path, which the caller removes
    /// after [`Layers::sync_unlinked`]. No volume has the layer, and none can get it meanwhile.
    pub(super) fn unlink_unsynced(&self, key: &LayerKey) -> io::Result<PathBuf> {
        let staged = self.staging.path();
        durable::rename_unsynced(&self.dirs.of(key), &staged)?;
        self.forget(key);
        Ok(staged)
    }

    /// Forgets what this process knows of a layer whose directory was renamed away.
    pub(super) fn forget(&self, key: &LayerKey) {
        self.origins.forget(key);
        self.ages.removed(key);
        self.mounted.close(key);
    }

    /// Records the digest of a layer's content, which [`StoreReader::fsck`](super::StoreReader::fsck) has computed. Returns
    /// false if the layer is gone.
    ///
    /// # Errors
    /// The metadata cannot be read or written.
    pub fn record_content(&self, key: &LayerKey, content: &ContentDigest) -> io::Result<bool> {
        let dir = self.dirs.of(key);
        match LayerMeta::add_content(&dir, content, &self.access) {
            Err(_) if !dir.is_dir() => Ok(false),
            added => added.map(|()| true),
        }
    }

    /// Waits until the rename of [`Layers::unlink_unsynced`] is on the disk.
    pub(super) fn sync_unlinked(&self) -> io::Result<()> {
        // The new name first, as in `durable::rename`.
        self.staging.sync()?;
        durable::sync_dir(self.dirs.path())
    }
}
