//! One volume's life.
//!
//! ```text
//!              record written            overlay attached
//!   (nothing) ────────────────► recorded ────────────────► mounted ──┐ another target: a clone
//!       ▲                        │    ▲                    │    ▲────┘
//!       │  bytes, then record    │    │  last target gone  │
//!       └────────────────────────┘    └────────────────────┘
//! ```
//!
//! A volume is `recorded` whenever its `record.json` is there and `mounted` whenever mountinfo shows an overlay with its upper:
//! both are read, never remembered, so a kill at any line leaves a state from which the same call goes on. Whatever looks and then
//! changes holds the volume's lock from the look to the change; only the pull of its layers goes without, so that a pod can go
//! while its image comes. The store's own lock keeps other processes out, so an upper has one owner.
//!
//! A record is on disk before the mount it describes and goes after the mount and the bytes. A target is removed by `rmdir`
//! alone: a mount left beneath must never be deleted through.
//!
//! May use: image, layers, overlay, sys
//!
//! Deliberately absent: gRPC, Kubernetes objects, and any knowledge of how a layer's bytes look.

mod error;
mod lock;
mod pending;
#[cfg(test)]
mod privileged_tests;
mod publish;
mod pull;
mod record;
mod recover;
mod request;
#[cfg(test)]
mod tests;
mod unpublish;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

pub use error::{OpenError, PublishError, PullError, ReadyError, UnpublishError};
pub use record::RecordError;
pub use recover::GRACE;
pub use request::{
    Pod, PodUid, PublishRequest, PullPolicy, RequestError, Target, VolumeId, VolumeSpec,
};

pub use crate::image::Reference;
use crate::{
    image::Registries,
    layers::Store,
    overlay::{self, Upper},
    sys::{
        durable,
        mounts::{Mount, MountError, Mounts},
    },
};
use lock::Locks;
use pending::Pending;
use record::Records;

/// All volumes of one node. Cheap to clone: clones are the same volumes.
#[derive(Debug, Clone)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mounts: Arc<dyn Mounts>,
    store: Arc<Store>,
    pulls: pull::Pulls,
    records: Records,
    locks: Locks,
    pending: Pending,
    kubelet: PathBuf,
    boot_id: String,
    /// Volumes whose pod was found gone, and when.
    orphans: Mutex<HashMap<VolumeId, Instant>>,
}

impl Volumes {
    /// The volumes recorded in `store`, as the last process left them: nothing is touched before [`Volumes::recover`].
    /// `kubelet` is the kubelet's folder: targets lie beneath it, and its `pods` tells which pods are still there.
    pub fn open(
        store: Arc<Store>,
        registries: Registries,
        mounts: Arc<dyn Mounts>,
        kubelet: &Path,
    ) -> Result<Self, OpenError> {
        let boot_id = durable::boot_id().map_err(OpenError::BootId)?;
        Ok(Self(Arc::new(Inner {
            pulls: pull::Pulls::new(registries, store.clone()),
            records: Records::new(store.volumes()),
            locks: Locks::default(),
            pending: Pending::default(),
            orphans: Mutex::default(),
            kubelet: kubelet.to_owned(),
            mounts,
            store,
            boot_id,
        })))
    }

    /// Whether volumes can be made at this moment: the store is readable and writable.
    pub async fn ready(&self) -> Result<(), ReadyError> {
        let store = self.0.store.clone();
        blocking(move || store.ready().map_err(ReadyError)).await
    }
}

impl Inner {
    /// The mounts at `target`, the lowest first.
    fn mounted_at(&self, target: &Target) -> Result<Vec<Mount>, MountError> {
        let mut table = self.mounts.table()?;
        table.retain(|mount| mount.target == target.as_path());
        Ok(table)
    }

    /// The mounts of a volume, wherever they are.
    fn mounts_of(&self, id: &VolumeId) -> Result<Vec<Mount>, MountError> {
        let mut table = self.mounts.table()?;
        table.retain(|mount| self.is_of(mount, id));
        Ok(table)
    }

    /// Whether a mount is this volume: by its upper, or by its name where it has none.
    fn is_of(&self, mount: &Mount, id: &VolumeId) -> bool {
        overlay::is_ours(mount, self.upper(id).upper()) || overlay::is_named(mount, &mount_name(id))
    }

    fn upper(&self, id: &VolumeId) -> Upper {
        Upper::new(self.records.upper(id), self.records.work(id))
    }
}

/// What the mount table shows as the source of a volume's mount.
fn mount_name(id: &VolumeId) -> String {
    format!("ovl-csi:{id}")
}

/// Runs what blocks (syscalls, fsync, a layer being written) beside the async workers. It runs to its end whatever becomes of
/// the caller.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
