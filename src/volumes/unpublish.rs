//! The unpublish operation: unmounts a volume from a target, and removes the volume with its last target.

use super::{
    RecordError, Target, UnpublishError, VolumeId, Volumes, background_removal::RemovedVolume,
    error::UnpublishCause, lock::VolumeLock, state::Inner, upper::is_memory,
};
use crate::sys::{
    blocking::blocking,
    mount_target,
    mounts::{Detached, Mount},
};

/// The most mounts that are unmounted from one target. If there are more, another process keeps mounting there.
const MAX_STACKED_MOUNTS: usize = 8;

impl Volumes {
    /// Unmounts the volume from the target, and removes the volume with its last target. Steps that are already done
    /// are skipped, so a volume that does not exist is not an error.
    ///
    /// The volume's data are removed after this has returned, without a wait for the disk (`background_removal.rs`).
    ///
    /// # Errors
    /// [`UnpublishError`].
    pub async fn unpublish(&self, id: &VolumeId, target: &Target) -> Result<(), UnpublishError> {
        let inner = self.0.clone();
        inner.check_target(target)?;
        // A capture in progress then ends soon, and a retry gets the lock.
        let lock =
            inner.locks.want(id).ok_or(UnpublishCause::Busy).map_err(UnpublishError::of(id))?;
        inner.pull_jobs.cancel(&lock);
        let target = target.clone();
        blocking(move || {
            let mut mounts_to_drop = Vec::new();
            let done = inner
                .unmount_target(lock.id(), &target, &mut mounts_to_drop)
                .and_then(|()| inner.forget_target(&lock, &target, &mut mounts_to_drop));
            inner.removal.close(mounts_to_drop);
            done
        })
        .await
    }
}

impl Inner {
    /// Unmounts the volume from `target`, and then removes the directory. Queries the kernel for the topmost mount of
    /// the target before each step. `mounts_to_drop` gets clones of the mounts, which keep the overlay alive.
    fn unmount_target(
        &self,
        id: &VolumeId,
        target: &Target,
        mounts_to_drop: &mut Vec<Detached>,
    ) -> Result<(), UnpublishError> {
        for _ in 0..MAX_STACKED_MOUNTS {
            match self.mounts.topmost(target.as_path()).map_err(UnpublishError::of(id))? {
                None => return remove_target(id, target),
                Some(top) if self.is_of(&top, id) => {
                    // Without this clone the unmount waits for the disk. If the clone fails, it does.
                    mounts_to_drop.extend(self.mounts.clone_of(target.as_path()).ok());
                    self.mounts.unmount(target.as_path()).map_err(UnpublishError::of(id))?;
                }
                Some(top) => {
                    let found = format!("{} ({})", top.fs_type, top.source.to_string_lossy());
                    let target = target.clone();
                    return Err(UnpublishError::of(id)(UnpublishCause::Foreign { target, found }));
                }
            }
        }
        Err(UnpublishError::of(id)(UnpublishCause::StillMounted { target: target.clone() }))
    }

    /// Removes `target` from the record. Removes the volume if that was its last target.
    fn forget_target(
        &self,
        lock: &VolumeLock,
        target: &Target,
        mounts_to_drop: &mut Vec<Detached>,
    ) -> Result<(), UnpublishError> {
        match self.records.read(lock.id()) {
            Ok(Some(mut record)) => {
                record.targets.retain(|t| t != target);
                if record.targets.is_empty() {
                    self.remove(lock, record.project, mounts_to_drop)
                } else {
                    Ok(self.records.write(lock, &record)?)
                }
            }
            // Half made, or with an unreadable record, which is not needed any more because the pod is being deleted.
            Ok(None) | Err(RecordError::Unreadable { .. }) => {
                self.remove(lock, None, mounts_to_drop)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the volume's directory into staging by one rename, and starts its background removal. Fails if the volume
    /// is still mounted. `mounts_to_drop` holds the mounts that keep its overlay alive until then.
    pub(super) fn remove(
        &self,
        lock: &VolumeLock,
        project: Option<u32>,
        mounts_to_drop: &mut Vec<Detached>,
    ) -> Result<(), UnpublishError> {
        let id = lock.id();
        // Without a directory nothing can be mounted from it.
        if !self.records.has_dir(id) {
            project.into_iter().for_each(|project| self.projects.give_back(project));
            return Ok(());
        }
        let table = self.mounts.table().map_err(UnpublishError::of(id))?;
        self.ensure_unused(id, &table)?;
        self.remove_memory(id, &table, mounts_to_drop).map_err(UnpublishError::of(id))?;
        let tree = self
            .store
            .staging
            .move_here(&self.records.dir(id))
            .map_err(UnpublishCause::Discard)
            .map_err(UnpublishError::of(id))?;
        self.counts.forget(id);
        self.removal.remove(RemovedVolume {
            tree,
            project,
            mounts: std::mem::take(mounts_to_drop),
        });
        Ok(())
    }

    /// Makes sure that only the volume's own tmpfs uses its directory: neither its overlay is mounted, nor another
    /// file system inside of the directory.
    pub(super) fn ensure_unused(
        &self,
        id: &VolumeId,
        table: &[Mount],
    ) -> Result<(), UnpublishError> {
        let (dir, memory) = (self.records.dir(id), self.records.memory(id));
        let user = |mount: &&Mount| {
            self.is_of(mount, id) || mount.target.starts_with(&dir) && !is_memory(mount, &memory)
        };
        match table.iter().find(user) {
            None => Ok(()),
            Some(mount) => {
                let at = mount.target.display().to_string();
                Err(UnpublishError::of(id)(UnpublishCause::InUse { at }))
            }
        }
    }
}

fn remove_target(id: &VolumeId, target: &Target) -> Result<(), UnpublishError> {
    mount_target::remove(target.as_path())
        .map_err(|source| UnpublishCause::RemoveTarget { target: target.clone(), source })
        .map_err(UnpublishError::of(id))
}
