//! A volume that stays as it is while somebody copies what its pod wrote.

use std::{io, path::Path};

use super::{
    Owner, Pod, RecordError, Reference, VolumeId, Volumes, lock::VolumeLock, record::Record,
};
use crate::{
    digest::Digest,
    error::Class,
    layers::SnapshotId,
    overlay::{self, Upper},
    sys::mounts::{Mount, MountError},
};

/// A volume that nobody else works on, until dropped: it is neither published nor unpublished meanwhile. Its pod writes on.
#[derive(Debug)]
pub struct VolumeGuard {
    lock: VolumeLock,
    record: Record,
    upper: Upper,
    is_mounted: bool,
}

impl VolumeGuard {
    /// Which volume.
    pub fn id(&self) -> &VolumeId {
        self.lock.id()
    }

    /// For whom it is.
    pub fn pod(&self) -> &Pod {
        &self.record.pod
    }

    /// The keys of its layers, bottom first. They stay as long as it is held.
    pub fn stack(&self) -> &[Digest] {
        &self.record.stack
    }

    /// How many of these lie above the images that it was made of.
    pub fn snapshot_layers(&self) -> usize {
        self.record.own
    }

    /// The manifests of the images that it was made of; of a pushed snapshot's own image, where it was pulled for it.
    pub fn manifests(&self) -> &[Digest] {
        &self.record.manifests
    }

    /// The images as its pod named them.
    pub fn images(&self) -> &[Reference] {
        &self.record.spec.images
    }

    /// The snapshot that it was made of, if of one.
    pub fn parent(&self) -> Option<&SnapshotId> {
        self.record.snapshot.as_ref()
    }

    /// Whom root's files of its images belong to.
    pub fn owner(&self) -> Option<Owner> {
        self.record.spec.owner
    }

    /// Where its writes are: overlay's upper, with overlay's marks.
    pub fn upper(&self) -> &Path {
        self.upper.upper()
    }

    /// How many files of its layers have names that a copy of the upper would show as they were before: [`overlay::half_named`].
    ///
    /// # Errors
    /// The disk does not say so.
    pub fn half_named(&self) -> io::Result<u64> {
        overlay::half_named(&self.upper)
    }

    /// Whether it was mounted when it was taken hold of: if not, nobody writes to it.
    pub fn is_mounted(&self) -> bool {
        self.is_mounted
    }

    /// Whether somebody asked to unpublish it since: whoever copies it gives way.
    pub fn is_wanted(&self) -> bool {
        self.lock.is_wanted()
    }
}

/// Why a volume cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// There is no such volume on this node.
    #[error("there is no volume {0} on this node")]
    Absent(VolumeId),
    /// It is of another pod than the one that was named.
    #[error("volume {id} is of another pod than {pod}")]
    Foreign {
        /// The volume.
        id: VolumeId,
        /// The pod that was named, as namespace/name.
        pod: String,
    },
    /// Somebody works on it.
    #[error("volume {0} is being worked on; ask again")]
    Busy(VolumeId),
    /// A pod cannot write to it, so there is nothing to keep.
    #[error("volume {0} is read-only: there is nothing of its own in it")]
    ReadOnly(VolumeId),
    /// Its writes may be torn, or are gone.
    #[error(
        "volume {id} is not what its pod wrote, because {why}; wait until it is published again"
    )]
    Lost {
        /// The volume.
        id: VolumeId,
        /// What happened.
        why: &'static str,
    },
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The kernel did not say what is mounted.
    #[error("volume {id}: {source}")]
    Table {
        /// The volume.
        id: VolumeId,
        /// The kernel's words.
        source: MountError,
    },
}

impl GuardError {
    /// What it means to whoever asked.
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
    /// Takes hold of a volume, of this pod if one is named. Whoever names both is believed in neither: the volume's record says whose it is, by
    /// namespace and uid. Blocks.
    pub fn hold(&self, id: &VolumeId, pod: Option<&Pod>) -> Result<VolumeGuard, GuardError> {
        let inner = &self.0;
        let lock = inner.locks.try_lock(id).ok_or_else(|| GuardError::Busy(id.clone()))?;
        let record = inner.records.read(id)?.ok_or_else(|| GuardError::Absent(id.clone()))?;
        let is_of =
            |pod: &&Pod| (&record.pod.namespace, &record.pod.uid) == (&pod.namespace, &pod.uid);
        if let Some(pod) = pod.filter(|pod| !is_of(pod)) {
            let pod = format!("{}/{}", pod.namespace, pod.name);
            return Err(GuardError::Foreign { id: id.clone(), pod });
        }
        if record.spec.read_only {
            return Err(GuardError::ReadOnly(id.clone()));
        }
        let table = inner.mounts.table();
        let table = table.map_err(|source| GuardError::Table { id: id.clone(), source })?;
        if let Some(why) = inner.went_down(&record, &table) {
            return Err(GuardError::Lost { id: id.clone(), why });
        }
        let is_mounted = table.iter().any(|mount: &Mount| inner.is_of(mount, id));
        let upper = inner.records.pair(id, record.spec.medium);
        Ok(VolumeGuard { lock, record, upper, is_mounted })
    }
}
