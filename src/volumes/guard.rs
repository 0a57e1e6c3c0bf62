//! The guard of a volume: holds the volume's lock for a capture, so the volume is neither published nor unpublished
//! meanwhile.

use std::{io, path::Path};

use super::{
    Medium, Pod, RecordError, Target, VolumeId, Volumes, lock::VolumeLock, record::Record,
};
use crate::{
    digest::ManifestDigest,
    error::Class,
    layers::{LayerKey, SnapshotId},
    overlay::{self, UpperAndWork},
    owner::Owner,
    reference::Reference,
    sys::mounts::{Mount, MountError},
};

/// A volume with its lock held. It is neither published nor unpublished until the guard is dropped. Its pod can still
/// write.
#[derive(Debug)]
pub struct VolumeGuard {
    lock: VolumeLock,
    record: Record,
    upper: UpperAndWork,
    is_mounted: bool,
}

impl VolumeGuard {
    /// The id of the volume.
    pub fn id(&self) -> &VolumeId {
        self.lock.id()
    }

    /// The pod of the volume, from its record.
    pub fn pod(&self) -> &Pod {
        &self.record.pod
    }

    /// The keys of its layers, bottom first. The layers stay in the store while the guard is held.
    pub fn stack(&self) -> &[LayerKey] {
        &self.record.stack
    }

    /// How many of these, at the top, are layers of snapshots and not of images.
    pub fn snapshot_layers(&self) -> usize {
        self.record.snapshot_layers
    }

    /// The digests of the manifests of its images. If a pushed snapshot was pulled for it, that of the snapshot's
    /// image.
    pub fn manifests(&self) -> &[ManifestDigest] {
        &self.record.manifests
    }

    /// The images, as the pod named them.
    pub fn images(&self) -> &[Reference] {
        &self.record.spec.images
    }

    /// The snapshot that the volume started from, if any.
    pub fn parent(&self) -> Option<&SnapshotId> {
        self.record.snapshot.as_ref()
    }

    /// The attribute `owner`: the owner of the images' files that belong to root.
    pub fn owner(&self) -> Option<Owner> {
        self.record.spec.owner
    }

    /// The upper directory: the pod's writes, in overlayfs' format (whiteouts, xattrs).
    pub fn upper(&self) -> &Path {
        self.upper.upper()
    }

    /// [`overlay::partly_named_files`] of the volume: files of its layers whose changed names a copy of the upper would
    /// lose.
    ///
    /// # Errors
    /// The work directory cannot be read.
    pub fn partly_named_files(&self) -> io::Result<u64> {
        overlay::partly_named_files(&self.upper)
    }

    /// Where the pod's writes go.
    pub(super) fn medium(&self) -> Medium {
        self.record.spec.medium
    }

    /// The targets at which the volume is published, from its record.
    pub(super) fn targets(&self) -> &[Target] {
        &self.record.targets
    }

    /// Whether the volume was mounted when the guard was made. If not, no process writes to it.
    pub fn is_mounted(&self) -> bool {
        self.is_mounted
    }

    /// Whether an unpublish waits for the volume. The holder of the guard must then stop and drop it.
    pub fn is_unpublish_requested(&self) -> bool {
        self.lock.is_unpublish_requested()
    }
}

/// Why a volume cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// There is no such volume on this node.
    #[error(
        "volume {0} is not on this node: its pod has ended or was deleted; take a snapshot while the pod runs"
    )]
    Absent(VolumeId),
    /// The volume belongs to another pod than the named one.
    #[error("volume {id} does not belong to pod {pod}")]
    Foreign {
        /// The volume.
        id: VolumeId,
        /// The named pod, as namespace/name.
        pod: String,
    },
    /// Another operation on this volume has not finished.
    #[error("volume {0}: another operation on it has not finished; try again")]
    Busy(VolumeId),
    /// The pod cannot write to the volume, so there is nothing to capture.
    #[error("volume {0} is read-only, so it has no data of its own")]
    ReadOnly(VolumeId),
    /// The pod's writes may be torn or lost.
    #[error(
        "cannot capture volume {id}: its data may be incomplete, because {why}; start the pod again, then take the snapshot again"
    )]
    Lost {
        /// The volume.
        id: VolumeId,
        /// The cause, as a clause.
        why: &'static str,
    },
    /// The record of the volume cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The mount table cannot be read.
    #[error("volume {id}: {source}")]
    Table {
        /// The volume.
        id: VolumeId,
        /// The kernel's error.
        source: MountError,
    },
}

impl GuardError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Absent(_) => Class::NotFound,
            Self::Foreign { .. } => Class::Denied,
            Self::Busy(_) => Class::Busy,
            Self::ReadOnly(_) | Self::Lost { .. } => Class::Precondition,
            Self::Record(e) => e.class(),
            Self::Table { source, .. } => source.class(),
        }
    }
}

impl Volumes {
    /// Locks a volume and returns its guard. Blocks.
    ///
    /// If `pod` is named, the volume must belong to it. Neither name is trusted: the volume's record says which pod it
    /// belongs to, by namespace and uid.
    ///
    /// # Errors
    /// [`GuardError`].
    pub fn guard(&self, id: &VolumeId, pod: Option<&Pod>) -> Result<VolumeGuard, GuardError> {
        let inner = &self.0;
        let lock = inner.locks.try_lock(id).ok_or_else(|| GuardError::Busy(id.clone()))?;
        let record = inner.records.read(id)?.ok_or_else(|| GuardError::Absent(id.clone()))?;
        let owns =
            |pod: &&Pod| (&record.pod.namespace, &record.pod.uid) == (&pod.namespace, &pod.uid);
        if let Some(pod) = pod.filter(|pod| !owns(pod)) {
            let pod = format!("{}/{}", pod.namespace, pod.name);
            return Err(GuardError::Foreign { id: id.clone(), pod });
        }
        if record.spec.read_only {
            return Err(GuardError::ReadOnly(id.clone()));
        }
        let table = inner.mounts.table();
        let table = table.map_err(|source| GuardError::Table { id: id.clone(), source })?;
        if let Some(why) = inner.crash_reason(&record, &table) {
            return Err(GuardError::Lost { id: id.clone(), why });
        }
        let is_mounted = table.iter().any(|mount: &Mount| inner.is_of(mount, id));
        let upper = inner.records.upper_and_work(id, record.spec.medium);
        Ok(VolumeGuard { lock, record, upper, is_mounted })
    }
}
