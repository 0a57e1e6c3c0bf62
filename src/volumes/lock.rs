//! The locks of volumes: one operation at a time on one volume.
//!
//! A second operation does not wait. The kubelet retries a call that is still running, and CSI requires ABORTED for
//! the retry (CSI spec, "Error Scheme"). So retries never queue up behind a slow operation.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::VolumeId;

/// The locked volumes, each with a flag that is set when an unpublish waits for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks(Arc<Mutex<HashMap<VolumeId, Arc<AtomicBool>>>>);

/// The lock of one volume, released when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct VolumeLock {
    id: VolumeId,
    locks: Locks,
    wanted: Arc<AtomicBool>,
}

impl Locks {
    /// The lock of `id`, or `None` while another operation holds it.
    pub(super) fn try_lock(&self, id: &VolumeId) -> Option<VolumeLock> {
        let wanted = Arc::<AtomicBool>::default();
        self.locked(|held| match held.contains_key(id) {
            true => false,
            false => held.insert(id.clone(), wanted.clone()).is_none(),
        })
        .then(|| VolumeLock { id: id.clone(), locks: self.clone(), wanted })
    }

    /// As [`Locks::try_lock`], for an unpublish. While another operation holds the lock, sets its
    /// [`VolumeLock::is_unpublish_requested`], so that a capture stops.
    pub(super) fn want(&self, id: &VolumeId) -> Option<VolumeLock> {
        self.try_lock(id).or_else(|| {
            self.locked(|held| {
                held.get(id).inspect(|wanted| wanted.store(true, Relaxed)).is_some()
            });
            None
        })
    }

    fn locked<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Arc<AtomicBool>>) -> T) -> T {
        f(&mut self.0.lock())
    }
}

impl VolumeLock {
    /// The locked volume.
    pub(super) fn id(&self) -> &VolumeId {
        &self.id
    }

    /// Whether an unpublish waits for the volume.
    pub(super) fn is_unpublish_requested(&self) -> bool {
        self.wanted.load(Relaxed)
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        self.locks.locked(|held| held.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_one_lock_until_it_is_dropped() {
        let locks = Locks::default();
        let (a, b): (VolumeId, VolumeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = locks.try_lock(&a).unwrap();
        assert!(locks.try_lock(&a).is_none());
        assert!(locks.try_lock(&b).is_some());
        drop(first);
        assert!(locks.try_lock(&a).is_some());
    }

    #[test]
    fn the_holder_of_a_lock_sees_that_an_unpublish_waits() {
        let locks = Locks::default();
        let a: VolumeId = "a".parse().unwrap();
        let first = locks.want(&a).unwrap();
        assert!(locks.try_lock(&a).is_none() && !first.is_unpublish_requested());
        assert!(locks.want(&a).is_none() && first.is_unpublish_requested());
        drop(first);
        assert!(!locks.try_lock(&a).unwrap().is_unpublish_requested());
    }
}
