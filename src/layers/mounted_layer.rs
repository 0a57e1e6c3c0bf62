//! Layers as lowers: each mounted once, attached nowhere, until the process ends, the layer is collected, or no volume has it and
//! many others were asked for since: whoever names images decides how many layers there ever are.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    LowerError, Store,
    layer_meta::{LayerFormat, LayerMeta},
};
use crate::{
    changeset::Features,
    digest::Digest,
    sys::mounts::{Detached, mount_image},
};

/// A layer, open.
#[derive(Debug, Clone)]
pub struct Lower {
    /// Its tree.
    pub tree: Arc<Detached>,
    /// Whether nothing below it shows: its root has OCI's opaque mark, which overlay does not look for on a root.
    pub opaque_root: bool,
    /// Whether it was copied out of a volume: then its files' owners are as the volume showed them.
    pub is_snapshot: bool,
    /// Overlay's marks in it: a mount that is not told to follow them answers EPERM for what has one.
    pub features: Features,
}

/// How many layers that no volume has stay open: pods that come and go one after the other find theirs in the cache.
const IDLE: usize = 256;

/// The layers that are open.
#[derive(Debug, Default)]
pub(super) struct Lowers(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// How often any was asked for.
    asked: u64,
    slots: HashMap<Digest, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    lower: Arc<Mutex<Option<Lower>>>,
    /// When it was asked for last, counted in questions.
    asked: u64,
}

impl Lowers {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Changed by whole entries only, so it is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, layer: &Digest) -> Arc<Mutex<Option<Lower>>> {
        let open = &mut *self.lock();
        open.asked += 1;
        let slot = open.slots.entry(*layer).or_default();
        slot.asked = open.asked;
        slot.lower.clone()
    }

    /// Its mount holds the bytes; volumes that are made of it keep it open.
    pub(super) fn close(&self, layer: &Digest) {
        let closed = self.lock().slots.remove(layer);
        drop(closed);
    }

    /// Closes the layers that are not `used`, but for those that were asked for last. They close when what this returns is dropped,
    /// which may take a while: each is a file system that goes.
    #[must_use]
    fn close_idle(&self, used: impl Fn(&Digest) -> bool, most: usize) -> Vec<Slot> {
        let mut open = self.lock();
        let idle = open.slots.iter().filter(|(layer, slot)| !used(layer) && slot.is_idle());
        let mut idle: Vec<_> = idle.map(|(layer, slot)| (slot.asked, *layer)).collect();
        idle.sort_unstable();
        let last = idle.len().saturating_sub(most);
        let closed = idle[..last].iter().filter_map(|(_, layer)| open.slots.remove(layer));
        closed.collect()
    }
}

impl Slot {
    /// Whether nobody has it or is about to open it.
    fn is_idle(&self) -> bool {
        let lower = self.lower.try_lock();
        Arc::strong_count(&self.lower) == 1
            && lower.is_ok_and(|it| it.as_ref().is_none_or(|it| Arc::strong_count(&it.tree) == 1))
    }
}

impl Store {
    /// The layer, open as a lower. Every volume that has it gets the same mount, so its pages are cached once however
    /// many pods read them; nothing shows in mountinfo, and a kill leaves nothing behind.
    pub fn lower(&self, diff_id: &Digest) -> Result<Lower, LowerError> {
        let slot = self.lowers.slot(diff_id);
        // Held while mounting: the second who asks for this layer waits for the first one's mount, whoever asks for others does not.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(lower) => Ok(lower.clone()),
            None => Ok(slot.insert(self.open_lower(diff_id)?).clone()),
        }
    }

    /// How many layers are open.
    pub fn open_layers(&self) -> u64 {
        self.lowers.lock().slots.len() as u64
    }

    /// Closes layers that nothing has, of which a volume's `roots` name none.
    pub(super) fn close_idle(&self, roots: &HashSet<Digest>) {
        let held = self.leases.locked();
        let closed =
            self.lowers.close_idle(|layer| roots.contains(layer) || held.keeps(layer), IDLE);
        drop(held);
        drop(closed);
    }

    fn open_lower(&self, diff_id: &Digest) -> Result<Lower, LowerError> {
        let dir = self.layer(diff_id);
        let description = self.description(diff_id)?;
        let content = dir.join(description.form.content());
        let tree = match description.form {
            LayerFormat::Erofs => {
                let written = description.image_bytes;
                let found = fs::metadata(&content).map_or(0, |image| image.len());
                if written != found {
                    return Err(LowerError::Damaged { diff_id: *diff_id, written, found });
                }
                mount_image(&*self.mounts, &content)
            }
            LayerFormat::Dir => self.mounts.open_dir(&content),
        };
        let tree = tree.map_err(|source| LowerError::Mount { diff_id: *diff_id, source })?;
        Ok(Lower {
            tree: Arc::new(tree),
            opaque_root: description.opaque_root,
            is_snapshot: description.is_snapshot(),
            features: description.features,
        })
    }

    /// The digest of the tar that a layer came as; `None` for a cut, which came as none.
    pub fn diff_id(&self, key: &Digest) -> Result<Option<Digest>, LowerError> {
        Ok(self.description(key)?.diff_id)
    }

    /// Overlay's marks in a layer.
    pub fn features(&self, key: &Digest) -> Result<Features, LowerError> {
        Ok(self.description(key)?.features)
    }

    pub(super) fn description(&self, key: &Digest) -> Result<LayerMeta, LowerError> {
        if !self.has(key) {
            return Err(LowerError::Absent(*key));
        }
        LayerMeta::read(&self.layer(key))
            .map_err(|source| LowerError::Description { diff_id: *key, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mounts::{FakeMounts, Mounts as _};

    #[test]
    fn of_layers_that_nothing_has_the_last_ones_stay_open() {
        let (lowers, mounts) = (Lowers::default(), FakeMounts::default());
        let dir = tempfile::tempdir().unwrap();
        let [used, had, old, young] =
            ["used", "had", "old", "young"].map(|name| Digest::of(name.as_bytes()));
        let open = |layer: &Digest| {
            let tree = Arc::new(mounts.open_dir(dir.path()).unwrap());
            let features = Features::default();
            let lower = Lower { tree, opaque_root: false, is_snapshot: false, features };
            *lowers.slot(layer).lock().unwrap() = Some(lower.clone());
            lower
        };
        let mine = open(&had);
        [old, used, young].iter().for_each(|layer| drop(open(layer)));
        let is_open = |layer: &Digest| lowers.lock().slots.contains_key(layer);
        drop(lowers.close_idle(|layer| *layer == used, 1));
        assert_eq!([used, had, old, young].map(|layer| is_open(&layer)), [true, true, false, true]);
        // Asked for again, it is the last.
        drop(lowers.slot(&old));
        drop(lowers.close_idle(|_| false, 1));
        assert_eq!(
            [used, had, old, young].map(|layer| is_open(&layer)),
            [false, true, true, false]
        );
        drop(mine);
        drop(lowers.close_idle(|_| false, 0));
        assert_eq!(lowers.lock().slots.len(), 0);
    }
}
