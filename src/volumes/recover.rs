//! Recovery: removes half-made volumes, and orphaned volumes, whose pods do not exist any more.
//!
//! The kubelet may never call unpublish (a reboot, a forced delete). So the node looks for such volumes itself, at its
//! start and periodically while it runs.

use std::{
    collections::hash_map::Entry,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    OpenError, UnpublishError, VolumeId, Volumes, error::UnpublishCause, lock::VolumeLock,
    state::Inner,
};
use crate::sys::mounts::Mount;

/// How long a pod's directory must be absent before the pod's volume is removed.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(60);

/// Why the recovery of one volume failed.
#[derive(Debug, thiserror::Error)]
enum RecoverError {
    #[error(transparent)]
    Unpublish(#[from] UnpublishError),
    #[error("cannot find out whether its pod exists: {path}: {source}", path = path.display())]
    Pod { path: PathBuf, source: io::Error },
}

impl Volumes {
    /// Removes half-made volumes, and volumes whose pod has been absent for `grace`. Tries again to remove what could
    /// not be removed. Checks the quotas of the other volumes. A mounted volume is left as it is, because a process
    /// may be writing to it. If the recovery of a volume fails, the error is logged and the volume is left.
    ///
    /// Blocks, and needs a tokio runtime. The caller must call it before it serves requests, and then periodically.
    ///
    /// # Errors
    /// The volumes cannot be listed, or the mount table cannot be read.
    pub fn recover(&self, grace: Duration) -> Result<(), OpenError> {
        self.0.removal.retry();
        let ids = self.0.records.list().map_err(OpenError::List)?;
        // One table for all volumes, most of which are in use. Before a volume is removed, the table is read again.
        let table = self.0.mounts.table().map_err(OpenError::Table)?;
        // If `pods` itself is absent (a disk that is mounted late), nothing is known about any pod.
        let pods = self.0.settings.kubelet.join("pods");
        let pods = fs::metadata(&pods).is_ok_and(|m| m.is_dir()).then_some(pods);
        self.0.retain_orphans(&ids);
        for id in &ids {
            // A volume with an operation in progress is in use.
            let Some(lock) = self.0.locks.try_lock(id) else { continue };
            match self.0.recover_one(&lock, &table, pods.as_deref(), grace) {
                Ok(None) => {}
                Ok(Some(why)) => tracing::info!(volume = %id, why, "volume removed"),
                Err(error) => {
                    tracing::error!(volume = %id, %error, "cannot recover the volume; it is left as it is")
                }
            }
        }
        let left = self.0.records.list().map_err(OpenError::List)?.len();
        self.0.metrics.volumes(left as u64);
        Ok(())
    }
}

impl Inner {
    /// Returns why the volume was removed, if it was.
    fn recover_one(
        &self,
        lock: &VolumeLock,
        table: &[Mount],
        pods: Option<&Path>,
        grace: Duration,
    ) -> Result<Option<&'static str>, RecoverError> {
        let id = lock.id();
        let Some(record) = self.records.read(id).map_err(UnpublishError::from)? else {
            self.remove(lock, None, &mut Vec::new())?;
            return Ok(Some("it was half made"));
        };
        let Some(dir) = pods.map(|pods| pods.join(record.pod.uid.as_str())) else {
            return Ok(None);
        };
        let exists = dir.try_exists().map_err(|source| RecoverError::Pod { path: dir, source })?;
        if !self.orphaned_for(id, !exists, grace) || self.ensure_unused(id, table).is_err() {
            self.check_limit(&record);
            return Ok(None);
        }
        match self.remove(lock, record.project, &mut Vec::new()) {
            Ok(()) => Ok(Some("its pod does not exist any more")),
            Err(UnpublishError::Failed { cause: UnpublishCause::InUse { .. }, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Records since when a volume has been an orphan. Returns whether that is at least `grace`.
    fn orphaned_for(&self, id: &VolumeId, orphan: bool, grace: Duration) -> bool {
        let mut orphans = self.orphans.lock();
        match orphans.entry(id.clone()) {
            Entry::Occupied(entry) if !orphan => {
                entry.remove();
                false
            }
            Entry::Occupied(entry) => entry.get().elapsed() >= grace,
            Entry::Vacant(entry) => {
                if orphan {
                    entry.insert(Instant::now());
                }
                orphan && grace.is_zero()
            }
        }
    }

    fn retain_orphans(&self, ids: &[VolumeId]) {
        let mut orphans = self.orphans.lock();
        orphans.retain(|id, _| ids.contains(id));
    }
}
