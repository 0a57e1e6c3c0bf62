//! One operation at a time on one volume.
//!
//! A second operation does not wait: the kubelet retries a call that is still running, and CSI asks for ABORTED then
//! (CSI spec, "Error Scheme"), so that retries never queue up behind a slow pull.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::VolumeId;

/// The volumes that are being worked on, and whether somebody wants them to go meanwhile.
#[derive(Debug, Clone, Default)]
pub(super) struct Locks(Arc<Mutex<HashMap<VolumeId, Arc<AtomicBool>>>>);

/// The right to work on one volume, given back when dropped.
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

    /// As [`Locks::try_lock`], for somebody before whom a copy has to give way: the holder sees [`VolumeLock::is_wanted`].
    pub(super) fn want(&self, id: &VolumeId) -> Option<VolumeLock> {
        self.try_lock(id).or_else(|| {
            self.locked(|held| {
                held.get(id).inspect(|wanted| wanted.store(true, Relaxed)).is_some()
            });
            None
        })
    }

    fn locked<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Arc<AtomicBool>>) -> T) -> T {
        // Changed by whole entries only, so it is whole after any panic.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl VolumeLock {
    /// The volume this is the lock of.
    pub(super) fn id(&self) -> &VolumeId {
        &self.id
    }

    /// Whether somebody asked for it meanwhile who wants the volume to go.
    pub(super) fn is_wanted(&self) -> bool {
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
    fn one_at_a_time_until_dropped() {
        let locks = Locks::default();
        let (a, b): (VolumeId, VolumeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = locks.try_lock(&a).unwrap();
        assert!(locks.try_lock(&a).is_none());
        assert!(locks.try_lock(&b).is_some());
        drop(first);
        assert!(locks.try_lock(&a).is_some());
    }

    #[test]
    fn whoever_holds_it_sees_that_the_volume_is_to_go() {
        let locks = Locks::default();
        let a: VolumeId = "a".parse().unwrap();
        let first = locks.want(&a).unwrap();
        assert!(locks.try_lock(&a).is_none() && !first.is_wanted());
        assert!(locks.want(&a).is_none() && first.is_wanted());
        drop(first);
        assert!(!locks.try_lock(&a).unwrap().is_wanted());
    }
}
