//! A volume goes away.

use super::{
    Inner, RecordError, Target, UnpublishError, VolumeId, Volumes, blocking, lock::VolumeLock,
    upper::is_memory,
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
            let kubelet = inner.settings.kubelet.display().to_string();
            return Err(UnpublishError::Outside { target: target.clone(), kubelet });
        }
        let lock = inner.locks.try_lock(id).ok_or_else(|| UnpublishError::Busy(id.clone()))?;
        inner.pending.call_off(&lock);
        let target = target.clone();
        blocking(move || {
            let table = inner.unmount_target(lock.id(), &target)?;
            inner.forget_target(&lock, &target, &table)
        })
        .await
    }
}

impl Inner {
    /// Unmounts the volume from `target` and removes the folder, in that order, checking each in the mount table. Answers the
    /// table as it is then.
    fn unmount_target(&self, id: &VolumeId, target: &Target) -> Result<Vec<Mount>, UnpublishError> {
        let failed = |source: MountError| UnpublishError::Mount { id: id.clone(), source };
        for _ in 0..STACKED {
            let table = self.mounts.table().map_err(failed)?;
            match table.iter().rfind(|mount| mount.target == target.as_path()) {
                None => return remove_target(id, target).map(|()| table),
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
    fn forget_target(
        &self,
        lock: &VolumeLock,
        target: &Target,
        table: &[Mount],
    ) -> Result<(), UnpublishError> {
        match self.records.read(lock.id()) {
            Ok(Some(mut record)) => {
                record.targets.retain(|t| t != target);
                if record.targets.is_empty() {
                    self.remove(lock, table, record.project)
                } else {
                    Ok(self.records.write(lock, &record)?)
                }
            }
            // Half made. A record that cannot be read promises nothing more either: the pod is going.
            Ok(None) | Err(RecordError::Unreadable { .. }) => self.remove(lock, table, None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the volume from memory and disk, all at once, unless it is mounted somewhere still. `table` is of a time at which
    /// the lock was held.
    pub(super) fn remove(
        &self,
        lock: &VolumeLock,
        table: &[Mount],
        project: Option<u32>,
    ) -> Result<(), UnpublishError> {
        let id = lock.id();
        self.ensure_unused(id, table)?;
        self.remove_memory(id, table)
            .map_err(|source| UnpublishError::Mount { id: id.clone(), source })?;
        self.store
            .discard(&self.records.folder(id))
            .map_err(|source| UnpublishError::Discard { id: id.clone(), source })?;
        self.counts.forget(id);
        if let Some(project) = project {
            self.projects.give_back(project);
        }
        Ok(())
    }

    /// Makes sure that no mount uses the volume's folder but its own tmpfs: neither its overlay, nor anything that somebody
    /// mounted within.
    pub(super) fn ensure_unused(
        &self,
        id: &VolumeId,
        table: &[Mount],
    ) -> Result<(), UnpublishError> {
        let (folder, memory) = (self.records.folder(id), self.records.memory(id));
        let user = |mount: &&Mount| {
            self.is_of(mount, id) || mount.target.starts_with(&folder) && !is_memory(mount, &memory)
        };
        match table.iter().find(user) {
            None => Ok(()),
            Some(mount) => {
                let at = mount.target.display().to_string();
                Err(UnpublishError::InUse { id: id.clone(), at })
            }
        }
    }
}

fn remove_target(id: &VolumeId, target: &Target) -> Result<(), UnpublishError> {
    targets::remove(target.as_path()).map_err(|source| UnpublishError::RemoveTarget {
        id: id.clone(),
        target: target.clone(),
        source,
    })
}
