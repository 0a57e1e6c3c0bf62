//! A volume goes away.

use super::{
    Inner, RecordError, Target, UnpublishError, VolumeId, Volumes, blocking, lock::VolumeLock,
};
use crate::sys::{
    mounts::{Mount, MountError},
    targets,
};

/// How many mounts may lie on one target before we say that something keeps mounting there.
const STACKED: usize = 8;

impl Volumes {
    /// Makes the volume disappear from the target, and with its last target from the disk. Whatever part of that is done
    /// already is skipped, so a volume that is not there is no error.
    pub async fn unpublish(&self, id: &VolumeId, target: &Target) -> Result<(), UnpublishError> {
        let inner = self.0.clone();
        if !inner.beneath_kubelet(target) {
            let kubelet = inner.kubelet.display().to_string();
            return Err(UnpublishError::Outside { target: target.clone(), kubelet });
        }
        let lock = inner.locks.try_lock(id).ok_or_else(|| UnpublishError::Busy(id.clone()))?;
        inner.pending.call_off(&lock);
        let target = target.clone();
        blocking(move || {
            inner.unmount_target(lock.id(), &target)?;
            inner.forget_target(&lock, &target)
        })
        .await
    }
}

impl Inner {
    /// Unmounts the volume from `target` and removes the folder, in that order, checking each in the mount table.
    fn unmount_target(&self, id: &VolumeId, target: &Target) -> Result<(), UnpublishError> {
        let failed = |source: MountError| UnpublishError::Mount { id: id.clone(), source };
        for _ in 0..STACKED {
            match self.mounted_at(target).map_err(failed)?.last() {
                None => return remove_target(id, target),
                Some(top) if self.is_of(top, id) => {
                    self.mounts.unmount(target.as_path()).map_err(failed)?;
                }
                Some(top) => {
                    let found = format!("{} ({})", top.fs_type, top.source.to_string_lossy());
                    let target = target.clone();
                    return Err(UnpublishError::Foreign { id: id.clone(), target, found });
                }
            }
        }
        Err(UnpublishError::StillMounted { id: id.clone(), target: target.clone() })
    }

    /// Takes `target` out of the record; without targets the volume is removed from the disk.
    fn forget_target(&self, lock: &VolumeLock, target: &Target) -> Result<(), UnpublishError> {
        match self.records.read(lock.id()) {
            Ok(Some(mut record)) => {
                record.targets.retain(|t| t != target);
                if record.targets.is_empty() {
                    self.remove(lock)
                } else {
                    Ok(self.records.write(lock, &record)?)
                }
            }
            // Half made. A record that cannot be read promises nothing more either: the pod is going.
            Ok(None) | Err(RecordError::Unreadable { .. }) => self.remove(lock),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the volume from the disk, unless it is mounted somewhere still.
    pub(super) fn remove(&self, lock: &VolumeLock) -> Result<(), UnpublishError> {
        self.ensure_unused(lock.id())?;
        self.discard(lock.id())
    }

    /// Makes sure that no mount uses the volume's folder: neither its overlay, nor anything that somebody mounted within.
    pub(super) fn ensure_unused(&self, id: &VolumeId) -> Result<(), UnpublishError> {
        let folder = self.records.folder(id);
        let table = self
            .mounts
            .table()
            .map_err(|source| UnpublishError::Mount { id: id.clone(), source })?;
        let user = |mount: &&Mount| self.is_of(mount, id) || mount.target.starts_with(&folder);
        match table.iter().find(user) {
            None => Ok(()),
            Some(mount) => {
                let at = mount.target.display().to_string();
                Err(UnpublishError::InUse { id: id.clone(), at })
            }
        }
    }

    /// Removes upper, work and record, all at once.
    pub(super) fn discard(&self, id: &VolumeId) -> Result<(), UnpublishError> {
        self.store
            .discard(&self.records.folder(id))
            .map_err(|source| UnpublishError::Discard { id: id.clone(), source })
    }
}

fn remove_target(id: &VolumeId, target: &Target) -> Result<(), UnpublishError> {
    targets::remove(target.as_path()).map_err(|source| UnpublishError::RemoveTarget {
        id: id.clone(),
        target: target.clone(),
        source,
    })
}
