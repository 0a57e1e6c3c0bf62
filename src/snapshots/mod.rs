//! Snapshots of volumes: captures what a pod has written as layers of this node, merges these layers (squash), pushes
//! them to a registry, and lists what they change.
//!
//! ```text
//! capture ── pre_copy ──> rounds while the pod runs
//!     │  └── freeze ────> the last round, while the pod is frozen ──> the layer, and the record of the snapshot
//!     └ starts             counts captures that did not end
//! squash ─┬─ packing ──> the tar of a layer
//! push ───┘              (then push/ sends the blobs and the manifest)
//! diff                   lists what differs between two snapshots, or in a mounted volume
//! ```
//!
//! ```text
//! <root>/frozen/<id>.json     the cgroups frozen for a capture; written before the freeze, removed after the thaw
//! <root>/starts/<id>          how often the capture of this snapshot was started and did not end
//! ```
//!
//! May use: volumes, layers, changeset, image, sys
//!
//! Deliberately absent: the objects of the cluster (`agent`), and how a volume is published (`volumes`).

mod capture;
#[cfg(test)]
mod capture_tests;
mod diff;
mod diff_error;
mod diff_request;
mod error;
mod freeze;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod names_tests;
mod packing;
mod pre_copy;
mod push;
#[cfg(test)]
mod push_tests;
mod request;
mod squash;
mod starts;
#[cfg(test)]
mod testing;

use std::{collections::HashSet, io, sync::Arc};

use parking_lot::Mutex;

use self::freeze::Freezes;
pub use diff_error::DiffError;
pub use diff_request::{DiffRequest, NamedSnapshot, NamedVolume, VolumeState};
pub use error::CaptureError;
pub use packing::PackingError;
pub use push::{Blob, Progress, PushError, PushRequest, Pushed, Target, TargetError};
pub use request::{CaptureRequest, Consistency};
pub use squash::SquashError;

use crate::{
    digest::ManifestDigest,
    image::{ImageError, Keyring, Registries},
    layers::{SnapshotId, Store, StoreLock},
    metrics::Metrics,
    reference::Repository,
    sys::{blocking::blocking, freezer::Freezer},
    turns,
    volumes::Volumes,
};

/// The most captures at the same time. All of them wait for the same disk.
const MAX_CAPTURES: usize = 4;

/// The most layers that are packed at the same time. Packing one layer uses all cores, and memory for each
/// core.
const MAX_PACKINGS: usize = 1;

/// The most comparisons at the same time. They read the disk of all volumes.
const MAX_DIFFS: usize = 2;

/// How many more comparisons run for namespaces that have none under way.
const MORE_DIFFS: usize = 2;

/// The parts that [`Snapshots::open`] needs.
#[derive(Debug)]
pub struct Parts {
    /// The store with the layers and the records of snapshots.
    pub store: Arc<Store>,
    /// The volumes that are captured.
    pub volumes: Volumes,
    /// The registries to which snapshots are pushed.
    pub registries: Arc<Registries>,
    /// The cgroup freezer of this node: [`Freezer::of_node`].
    pub freezer: Freezer,
    /// Counts captures and pushes.
    pub metrics: Metrics,
}

/// All snapshots of one node. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    volumes: Volumes,
    registries: Arc<Registries>,
    freezer: Freezer,
    metrics: Metrics,
    locks: SnapshotLocks,
    captures: Arc<turns::Turns>,
    packing: Arc<turns::Turns>,
    diffs: Arc<turns::Turns>,
    freezes: Freezes,
}

/// Thaws all pods that an earlier process left frozen, by the records in the claimed store. This comes before any other
/// work on the store, because these pods wait. Blocks.
pub fn thaw_frozen(claim: &StoreLock) -> io::Result<()> {
    freeze::thaw_all(&claim.frozen())
}

impl Snapshots {
    /// Opens the snapshots that the store records. Pods that an earlier process left frozen are thawed first. Blocks.
    pub fn open(parts: Parts) -> io::Result<Self> {
        let Parts { store, volumes, registries, freezer, metrics } = parts;
        freeze::thaw_all(&store.frozen())?;
        starts::forget_old(&store.starts())?;
        let captures = turns::Turns::new(MAX_CAPTURES, 0);
        let packing = turns::Turns::new(MAX_PACKINGS, 0);
        let diffs = turns::Turns::new(MAX_DIFFS, MORE_DIFFS);
        Ok(Self(Arc::new(Inner {
            store,
            volumes,
            registries,
            freezer,
            metrics,
            locks: SnapshotLocks::default(),
            captures,
            packing,
            diffs,
            freezes: Freezes::default(),
        })))
    }

    /// Whether the repository has the manifest of a pushed snapshot.
    ///
    /// # Errors
    /// [`ImageError`]: the registry did not say whether it has it.
    pub async fn has_image(
        &self,
        of: &Repository,
        manifest: &ManifestDigest,
        keyring: &Keyring,
    ) -> Result<bool, ImageError> {
        self.0.registries.has_manifest(of, manifest, keyring).await
    }

    /// Whether all layers of a snapshot are in the store, so that it can be pushed.
    pub async fn has_layers(&self, id: &SnapshotId) -> bool {
        self.leased_record(id).await.is_ok()
    }

    /// Stops all further freezes: captures that would need one return [`CaptureError::Stopping`].
    pub fn close(&self) {
        self.0.freezes.close();
    }

    /// Thaws all pods, even if the captures that froze them then fail: this process is about to end, and its watchdogs
    /// end with it. Blocks.
    pub fn abort(&self) -> io::Result<()> {
        self.0.freezes.abort_all();
        freeze::thaw_all(&self.0.store.frozen())?;
        starts::forget_all(&self.0.store.starts())
    }
}

/// The snapshots that an operation has locked.
#[derive(Debug, Clone, Default)]
struct SnapshotLocks(Arc<Mutex<HashSet<SnapshotId>>>);

/// The lock of one snapshot, released when dropped.
#[derive(Debug)]
struct SnapshotLock {
    id: SnapshotId,
    locks: SnapshotLocks,
}

impl SnapshotLocks {
    /// Locks `id`. `None` while another operation has the lock.
    fn try_lock(&self, id: &SnapshotId) -> Option<SnapshotLock> {
        let is_new = self.with_ids(|ids| ids.insert(id.clone()));
        is_new.then(|| SnapshotLock { id: id.clone(), locks: self.clone() })
    }

    fn with_ids<T>(&self, f: impl FnOnce(&mut HashSet<SnapshotId>) -> T) -> T {
        f(&mut self.0.lock())
    }
}

impl Drop for SnapshotLock {
    fn drop(&mut self) {
        self.locks.with_ids(|ids| ids.remove(&self.id));
    }
}
