//! What nobody asks for: half-made volumes, and those of pods that are gone.
//!
//! The kubelet may never call unpublish (a reboot, a forced delete), so the node looks for itself: at its start, and again and
//! again while it runs.

use std::{
    collections::hash_map::Entry,
    fs, io,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{Inner, OpenError, UnpublishError, VolumeId, Volumes, lock::VolumeLock};
use crate::sys::mounts::Mount;

/// How long a pod's directory has to be gone before its volume is removed.
pub const GRACE: Duration = Duration::from_secs(60);

/// Why a volume was not looked at to the end.
#[derive(Debug, thiserror::Error)]
enum RecoverError {
    #[error(transparent)]
    Unpublish(#[from] UnpublishError),
    #[error("cannot tell whether its pod is there: {path}: {source}", path = path.display())]
    Pod { path: PathBuf, source: io::Error },
}

impl Volumes {
    /// Removes half-made volumes, and those whose pod has been gone for `grace`; tries again what could not be removed, and has limited
    /// volumes counted. What is mounted is left as it is: somebody may be writing to it. One volume that cannot be mended is told and
    /// left.
    ///
    /// Blocks, within a runtime; to be called before requests are served, and then every now and then.
    pub fn recover(&self, grace: Duration) -> Result<(), OpenError> {
        self.0.removal.retry();
        let ids = self.0.records.list().map_err(OpenError::List)?;
        // Good for telling what is in use, as most volumes are; before one is removed the table is read again.
        let table = self.0.mounts.table().map_err(OpenError::Table)?;
        // Whose directory is not there yet (a disk that is mounted late) says nothing of any pod.
        let pods = self.0.settings.kubelet.join("pods");
        let pods = fs::metadata(&pods).is_ok_and(|m| m.is_dir()).then_some(pods);
        self.0.forget_orphans_but(&ids);
        for id in &ids {
            // Somebody works on it, so somebody wants it.
            let Some(lock) = self.0.locks.try_lock(id) else { continue };
            match self.0.recover_one(&lock, &table, pods.as_deref(), grace) {
                Ok(None) => {}
                Ok(Some(why)) => tracing::info!(volume = %id, why, "volume removed"),
                Err(error) => tracing::error!(volume = %id, %error, "volume left as it is"),
            }
        }
        let left = self.0.records.list().map_err(OpenError::List)?.len();
        self.0.metrics.volumes(left as u64);
        Ok(())
    }
}

impl Inner {
    /// Answers why the volume was removed, if it was.
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
        let there = dir.try_exists().map_err(|source| RecoverError::Pod { path: dir, source })?;
        if !self.orphaned_for(id, !there, grace) || self.ensure_unused(id, table).is_err() {
            self.check_limit(&record);
            return Ok(None);
        }
        match self.remove(lock, record.project, &mut Vec::new()) {
            Ok(()) => Ok(Some("its pod is gone")),
            Err(UnpublishError::InUse { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Remembers since when a volume has no pod; answers whether that is long enough.
    fn orphaned_for(&self, id: &VolumeId, orphan: bool, grace: Duration) -> bool {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn forget_orphans_but(&self, ids: &[VolumeId]) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.retain(|id, _| ids.contains(id));
    }
}
