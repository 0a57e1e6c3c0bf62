//! One operation at a time on one volume.
//!
//! A second operation does not wait: the kubelet retries a call that is still running, and CSI asks for ABORTED then
//! (CSI spec, "Error Scheme"), so that retries never queue up behind a slow pull.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::VolumeId;

/// The volumes that are being worked on.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks(Arc<Mutex<HashSet<VolumeId>>>);

/// The right to work on one volume, given back when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct VolumeLock {
    id: VolumeId,
    locks: Locks,
}

impl Locks {
    /// The lock of `id`, or `None` while another operation holds it.
    pub(super) fn try_lock(&self, id: &VolumeId) -> Option<VolumeLock> {
        let taken = self.held(|held| held.insert(id.clone()));
        taken.then(|| VolumeLock { id: id.clone(), locks: self.clone() })
    }

    fn held<T>(&self, f: impl FnOnce(&mut HashSet<VolumeId>) -> T) -> T {
        // A set of ids is whole after any panic, so a poisoned lock is as good as any.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl VolumeLock {
    /// The volume this is the lock of.
    pub(super) fn id(&self) -> &VolumeId {
        &self.id
    }
}

impl Drop for VolumeLock {
    fn drop(&mut self) {
        self.locks.held(|held| held.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_until_dropped() {
        let locks = Locks::default();
        let (a, b): (VolumeId, VolumeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = locks.try_lock(&a).unwrap();
        assert!(locks.try_lock(&a).is_none());
        assert!(locks.try_lock(&b).is_some());
        drop(first);
        assert!(locks.try_lock(&a).is_some());
    }
}
