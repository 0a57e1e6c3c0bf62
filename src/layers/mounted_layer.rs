//! Mounted layers: opens each layer once as a detached mount, which all volumes share as a lower.
//!
//! A layer stays open until the process ends, the layer is garbage collected, or no volume has it and many other layers
//! were requested since. The number of idle layers is bounded, because users who name images decide how many layers
//! there are.

use std::{collections::HashMap, fs, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use super::{error::LowerError, key::LayerKey, layer_dirs::LayerDirs, layer_storage::LayerStorage};
use crate::{
    changeset::LayerFeatures,
    sys::mounts::{Detached, Mounts, mount_image},
};

/// An open layer.
#[derive(Debug, Clone)]
pub struct OpenLayer {
    /// Its root, as a detached mount or a directory.
    pub tree: Arc<Detached>,
    /// Whether it hides all layers below it: its root has OCI's opaque whiteout. Overlay ignores an opaque xattr on a
    /// layer's root.
    pub opaque_root: bool,
    /// Whether it is a snapshot layer: then its files have the owners that the volume showed.
    pub is_snapshot: bool,
    /// The overlay features that a mount with this layer must enable. Without them, files and directories that need one
    /// fail with EPERM.
    pub features: LayerFeatures,
}

/// The number of layers without a volume that stay open, so that pods that start one after another find their layers in
/// the page cache.
pub(super) const IDLE: usize = 256;

/// The layers of a store as mounts.
#[derive(Debug)]
pub(super) struct MountedLayers {
    dirs: LayerDirs,
    mounts: Arc<dyn Mounts>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// The number of requests so far, for any layer.
    requests: u64,
    slots: HashMap<LayerKey, Slot>,
}

/// A layer that is open or being opened.
#[derive(Debug, Default)]
pub(super) struct Slot {
    lower: Arc<Mutex<Option<OpenLayer>>>,
    /// The number of its last request.
    last_request: u64,
}

impl MountedLayers {
    /// The layers in `dirs`, which are mounted by `mounts`.
    pub(super) fn new(dirs: LayerDirs, mounts: Arc<dyn Mounts>) -> Self {
        Self { dirs, mounts, open: Mutex::default() }
    }

    /// The layer's mount, which is made for the first caller.
    pub(super) fn lower(&self, key: &LayerKey) -> Result<OpenLayer, LowerError> {
        let slot = self.slot(key);
        // Locked while mounting: a second call for this layer waits for the first one's mount; calls for other layers
        // do not.
        let mut slot = slot.lock();
        match &*slot {
            Some(lower) => Ok(lower.clone()),
            None => Ok(slot.insert(self.mount(key)?).clone()),
        }
    }

    fn mount(&self, key: &LayerKey) -> Result<OpenLayer, LowerError> {
        let meta = self.dirs.meta(key)?;
        let content = self.dirs.of(key).join(meta.storage.content());
        let tree = match meta.storage {
            LayerStorage::Erofs => {
                let written = meta.image_bytes;
                let found = fs::metadata(&content).map_or(0, |image| image.len());
                if written != found {
                    return Err(LowerError::Damaged { key: *key, written, found });
                }
                mount_image(&*self.mounts, &content)
            }
            LayerStorage::Dir => self.mounts.open_dir(&content),
        };
        let tree = tree.map_err(|source| LowerError::Mount { key: *key, source })?;
        Ok(OpenLayer {
            tree: Arc::new(tree),
            opaque_root: meta.opaque_root,
            is_snapshot: meta.is_snapshot(),
            features: meta.features,
        })
    }

    /// The number of open layers.
    pub(super) fn count(&self) -> u64 {
        self.lock().slots.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }

    fn slot(&self, layer: &LayerKey) -> Arc<Mutex<Option<OpenLayer>>> {
        let open = &mut *self.lock();
        open.requests += 1;
        let slot = open.slots.entry(*layer).or_default();
        slot.last_request = open.requests;
        slot.lower.clone()
    }

    /// Closes a layer's mount, which keeps the bytes of a removed layer on the disk. Volumes that use it have their own
    /// reference.
    pub(super) fn close(&self, layer: &LayerKey) {
        let closed = self.lock().slots.remove(layer);
        drop(closed);
    }

    /// Removes idle layers that are not `used`, except for the `most` that were requested last. Returns them: they are
    /// closed when the result is dropped, which can take long, because each is a file system that is unmounted.
    #[must_use]
    pub(super) fn remove_idle(&self, most: usize, used: impl Fn(&LayerKey) -> bool) -> Vec<Slot> {
        let mut open = self.lock();
        let idle = open.slots.iter().filter(|(layer, slot)| !used(layer) && slot.is_idle());
        let mut idle: Vec<_> = idle.map(|(layer, slot)| (slot.last_request, *layer)).collect();
        idle.sort_unstable();
        let last = idle.len().saturating_sub(most);
        let closed = idle[..last].iter().filter_map(|(_, layer)| open.slots.remove(layer));
        closed.collect()
    }
}

impl Slot {
    /// Whether no caller has the layer or is opening it.
    fn is_idle(&self) -> bool {
        let lower = self.lower.try_lock();
        Arc::strong_count(&self.lower) == 1
            && lower.is_some_and(|it| it.as_ref().is_none_or(|it| Arc::strong_count(&it.tree) == 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mounts::FakeMounts;

    #[test]
    fn idle_layers_that_were_requested_last_stay_open() {
        let (mounts, dir) = (FakeMounts::default(), tempfile::tempdir().unwrap());
        let lowers = MountedLayers::new(LayerDirs::new(dir.path()), Arc::new(mounts.clone()));
        let [used, shared, old, young] =
            ["used", "shared", "old", "young"].map(|name| LayerKey::of(name.as_bytes()));
        let open = |layer: &LayerKey| {
            let tree = Arc::new(mounts.open_dir(dir.path()).unwrap());
            let features = LayerFeatures::default();
            let lower = OpenLayer { tree, opaque_root: false, is_snapshot: false, features };
            *lowers.slot(layer).lock() = Some(lower.clone());
            lower
        };
        let mine = open(&shared);
        [old, used, young].iter().for_each(|layer| drop(open(layer)));
        let is_open = |layer: &LayerKey| lowers.lock().slots.contains_key(layer);
        drop(lowers.remove_idle(1, |layer| *layer == used));
        assert_eq!(
            [used, shared, old, young].map(|layer| is_open(&layer)),
            [true, true, false, true]
        );
        // Requested again, it is the latest.
        drop(lowers.slot(&old));
        drop(lowers.remove_idle(1, |_| false));
        assert_eq!(
            [used, shared, old, young].map(|layer| is_open(&layer)),
            [false, true, true, false]
        );
        drop(mine);
        drop(lowers.remove_idle(0, |_| false));
        assert_eq!(lowers.lock().slots.len(), 0);
    }
}
