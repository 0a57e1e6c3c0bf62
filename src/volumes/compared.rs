//! What a comparison needs of this module: the layers of a snapshot, and a mounted volume as a tree.
//!
//! A comparison can take minutes, so it holds no lock. A lease keeps the layers. A clone of the mount keeps a volume's
//! overlay readable, and no unpublish waits for it.
//!
//! Deliberately absent: the pull with a pod's own credentials. A comparison is of no pod, so it has those of the node.

use std::{ffi::OsString, io, os::unix::ffi::OsStrExt as _};

use super::{
    FoundSnapshot, GuardError, LayersError, Medium, Pod, Progress, VolumeId, Volumes,
    pull::Requester,
};
use crate::{
    error::Class,
    layers::{LayerKey, Lease},
    owner::Owner,
    sys::{
        mounts::{Detached, MountError},
        tree_reader::Entry,
    },
};

/// The layers of a snapshot, all of them in the store while this value exists.
#[derive(Debug)]
pub struct SnapshotLayers {
    /// Their keys, bottom first.
    pub stack: Vec<LayerKey>,
    /// How many of these, at the top, are not layers of its images.
    pub snapshot_layers: usize,
    /// The attribute `owner` of the snapshot's volume.
    pub owner: Option<Owner>,
    _lease: Lease,
}

/// A mounted volume. Its pod can write to it, and it can be unpublished meanwhile.
#[derive(Debug)]
pub struct MountedVolume {
    /// The keys of its layers, bottom first. They stay in the store while this value exists.
    pub stack: Vec<LayerKey>,
    /// The attribute `owner` of the volume.
    pub owner: Option<Owner>,
    /// The volume as its pod sees it.
    pub merged: Detached,
    /// The directory with its upper.
    parent: Detached,
    /// The name of the upper in that directory.
    upper: OsString,
    id: VolumeId,
    volumes: Volumes,
    _lease: Lease,
}

impl MountedVolume {
    /// Its upper, only for reading.
    ///
    /// # Errors
    /// It cannot be read; `NotFound` once the volume is removed.
    pub fn upper(&self) -> io::Result<Entry> {
        let upper = Entry::root(&self.parent)?.entry(self.upper.as_bytes())?;
        upper.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether the volume still exists. After an unpublish its files disappear one by one.
    pub fn exists(&self) -> bool {
        self.volumes.0.records.has_dir(&self.id)
    }
}

/// Why a volume cannot be read as a tree.
#[derive(Debug, thiserror::Error)]
pub enum MountedVolumeError {
    /// It has no guard.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// It is not mounted.
    #[error("volume {0} is not mounted")]
    NotMounted(VolumeId),
    /// Its mount cannot be cloned, or its upper cannot be opened.
    #[error("volume {id}: {source}")]
    Mount {
        /// The volume.
        id: VolumeId,
        /// The kernel's error.
        source: MountError,
    },
    /// Its layers cannot be kept from garbage collection.
    #[error("volume {id}: {source}")]
    Lease {
        /// The volume.
        id: VolumeId,
        /// The system's error.
        source: io::Error,
    },
}

impl MountedVolumeError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::Guard(e) => e.class(),
            Self::NotMounted(_) => Class::Precondition,
            Self::Mount { source, .. } => source.class(),
            Self::Lease { source, .. } => Class::of_disk(source),
        }
    }
}

impl Volumes {
    /// Brings the layers of a snapshot into the store. One that was captured on this node has them there. The image of
    /// another one is pulled with the node's credentials.
    ///
    /// # Errors
    /// [`LayersError`].
    pub async fn snapshot_layers(
        &self,
        namespace: &str,
        name: &str,
        found: &FoundSnapshot,
    ) -> Result<SnapshotLayers, LayersError> {
        let inner = &self.0;
        let requester = Requester { namespace, keyring: &inner.settings.keyring };
        let local = inner.local_snapshot(&found.id).await;
        let owner = local.as_ref().map_or(found.owner, |(owner, _)| *owner);
        let progress = Progress::default();
        let layers = inner.layers_of(name, found, local, None, requester, &progress).await?;
        let (stack, snapshot_layers) = (layers.stack, layers.snapshot_layers);
        Ok(SnapshotLayers { stack, snapshot_layers, owner, _lease: layers.lease })
    }

    /// Opens a mounted volume of this pod for reading. Blocks, and holds the volume's lock only until it returns.
    ///
    /// # Errors
    /// [`MountedVolumeError`].
    pub fn mounted(&self, id: &VolumeId, pod: &Pod) -> Result<MountedVolume, MountedVolumeError> {
        let inner = &self.0;
        let guard = self.guard(id, Some(pod))?;
        if guard.pod().name != pod.name {
            let pod = format!("{}/{}", pod.namespace, pod.name);
            return Err(GuardError::Foreign { id: id.clone(), pod }.into());
        }
        let target = guard.targets().first().filter(|_| guard.is_mounted());
        let target = target.ok_or_else(|| MountedVolumeError::NotMounted(id.clone()))?;
        let failed = |source| MountedVolumeError::Mount { id: id.clone(), source };
        let merged = inner.mounts.clone_of(target.as_path()).map_err(failed)?;
        let parent = match guard.medium() {
            Medium::Disk => inner.mounts.open_dir(&inner.records.upper_parent(id, Medium::Disk)),
            // An open directory of the tmpfs itself would keep it busy, so an unpublish would wait.
            Medium::Memory => inner.mounts.clone_of(&inner.records.memory(id)),
        };
        let parent = parent.map_err(failed)?;
        let upper = guard.upper().file_name().unwrap_or_default().to_owned();
        let stack = guard.stack().to_vec();
        // While the guard keeps the record, which names them.
        let leased = inner.store.leases.take(&stack);
        let lease =
            leased.map_err(|source| MountedVolumeError::Lease { id: id.clone(), source })?;
        let (id, volumes, owner) = (id.clone(), self.clone(), guard.owner());
        Ok(MountedVolume { stack, owner, merged, parent, upper, id, volumes, _lease: lease })
    }
}
