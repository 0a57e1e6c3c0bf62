//! The lifecycle of volumes: publishes, recovers and unpublishes the overlay of each volume of the node.
//!
//! ```text
//!              record written            overlay attached
//!   (nothing) ────────────────► recorded ────────────────► mounted ──┐ another target: a clone
//!       ▲                        │    ▲                    │    ▲────┘
//!       │  data, then record     │    │  last target gone  │
//!       └────────────────────────┘    └────────────────────┘
//! ```
//!
//! A volume is `recorded` while its record exists, and `mounted` while mountinfo shows an overlay with its upper. Both
//! states are always read and never cached. So a kill at any line leaves a state from which the same call can
//! continue.
//!
//! An operation that reads and then changes a volume holds the volume's lock from the read to the change. Only the
//! pull of its layers holds no lock: a pod can be deleted during the pull, and the pull goes on after its call has
//! returned. The store's own lock excludes other processes, so an upper has one owner.
//!
//! A record is written before the mount that it describes, and removed after the mount. It is on disk no later than
//! the first data that the pod syncs (`records.rs`), so no call waits for the disk. No call waits for the removal of
//! data either (`background_removal.rs`). A target is removed by `rmdir` only, so that a mount below it is never
//! deleted through.
//!
//! May use: image, layers, overlay, changeset, sys
//!
//! Deliberately absent: gRPC, Kubernetes objects, and the format of layers.

#[cfg(test)]
mod attributes_tests;
mod background_removal;
#[cfg(test)]
mod builders_tests;
mod conflict;
#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod endurance_tests;
mod error;
mod events;
#[cfg(test)]
mod fake_snapshot_lookup;
mod gc;
mod guard;
#[cfg(test)]
mod guard_tests;
mod limit;
mod lock;
#[cfg(test)]
mod packages_tests;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod privileged_attributes_tests;
#[cfg(test)]
mod privileged_behaviour_tests;
#[cfg(test)]
mod privileged_restore_tests;
#[cfg(test)]
mod privileged_tests;
#[cfg(test)]
mod programs_tests;
mod project_quota;
mod publish;
mod pull;
mod pull_jobs;
#[cfg(test)]
mod pull_jobs_tests;
mod record;
mod records;
mod recover;
mod request;
mod restore;
mod restore_error;
#[cfg(test)]
mod restore_tests;
mod snapshot_lookup;
mod stats;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tools_tests;
mod unpublish;
mod upper;
mod view;
mod volume_layers;
#[cfg(test)]
mod warm_tests;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub use error::{OpenError, PublishError, ReadyError, UnpublishError};
pub use events::{EventRecorder, NoEvents, PodEvent, PodEventType};
pub use guard::{GuardError, VolumeGuard};
pub use pull::{ImagePolicy, PolicyError, Progress, PullError};
pub use record::RecordError;
pub use recover::GRACE;
pub use request::{
    Limits, Medium, OnUnclean, Pod, PodUid, PublishRequest, RequestError, Target, VolumeId,
    VolumeSpec,
};
pub use restore_error::{LayersError, RestoreError};
pub use snapshot_lookup::{FoundSnapshot, Lookup, LookupError, NoSnapshots, SnapshotLookup};
pub use stats::{Stats, StatsError, Usage};
pub use view::ViewError;

use crate::{
    image::Registries,
    layers::{Store, Watermarks},
    metrics::Metrics,
    overlay::{self, Features},
    sys::{
        blocking::blocking,
        durable,
        mounts::{Mount, Mounts},
    },
};
pub use crate::{
    image::{Keyring, KeyringError, PullPolicy, Reference},
    overlay::{Options, Owner, Xino},
};
use background_removal::Removal;
use gc::{GarbageCollector, LAYER_GRACE};
use lock::Locks;
use project_quota::Projects;
use pull::ImagePuller;
use pull_jobs::{PullJobs, PullTimeouts};
use records::Records;
use stats::Counts;

/// The objects that [`Volumes`] uses.
#[derive(Debug)]
pub struct Parts {
    /// Keeps layers and records.
    pub store: Arc<Store>,
    /// Provides images.
    pub registries: Arc<Registries>,
    /// The mount API of the kernel.
    pub mounts: Arc<dyn Mounts>,
    /// The overlay features of the kernel and of the store's file system.
    pub features: Features,
    /// Finds snapshots by name.
    pub snapshots: Arc<dyn SnapshotLookup>,
    /// Records the Events of pods.
    pub notices: Arc<dyn EventRecorder>,
    /// The metrics of the process.
    pub metrics: Metrics,
}

impl Parts {
    /// The parts of a node without snapshots, Events and a scraper of its metrics.
    pub fn new(
        store: Arc<Store>,
        registries: impl Into<Arc<Registries>>,
        mounts: Arc<dyn Mounts>,
        features: Features,
    ) -> Self {
        Self {
            store,
            registries: registries.into(),
            mounts,
            features,
            snapshots: Arc::new(NoSnapshots),
            notices: Arc::new(NoEvents),
            metrics: Metrics::default(),
        }
    }
}

/// The node's settings for volumes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kubelet's directory. Targets lie below it, and its `pods` shows which pods exist.
    pub kubelet: PathBuf,
    /// The node's own registry credentials, which every pod may use.
    pub keyring: Keyring,
    /// How long a credential that a registry accepted is trusted without another request. Zero: it is never trusted.
    pub trust_for: Duration,
    /// The images that pods may use.
    pub policy: ImagePolicy,
    /// The use of the store's disk, in percent, at which images that no volume used lately are removed.
    pub disk_high: u8,
    /// The use, in percent, at which that removal stops.
    pub disk_low: u8,
}

impl Settings {
    /// The settings of a node without credentials, on which every image is allowed.
    pub fn new(kubelet: PathBuf) -> Self {
        Self {
            kubelet,
            keyring: Keyring::default(),
            trust_for: Duration::from_secs(3600),
            policy: ImagePolicy::default(),
            disk_high: 85,
            disk_low: 75,
        }
    }
}

/// All volumes of one node. A clone is cheap and shares all state.
#[derive(Debug, Clone)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mounts: Arc<dyn Mounts>,
    store: Arc<Store>,
    puller: ImagePuller,
    collector: Arc<GarbageCollector>,
    records: Records,
    locks: Locks,
    pending: PullJobs,
    projects: Arc<Projects>,
    removal: Removal,
    counts: Counts,
    pace: PullTimeouts,
    settings: Settings,
    features: Features,
    notices: Arc<dyn EventRecorder>,
    snapshots: Arc<dyn SnapshotLookup>,
    metrics: Metrics,
    boot_id: String,
    /// Volumes whose pod does not exist any more, each with the time when that was found.
    orphans: Mutex<HashMap<VolumeId, Instant>>,
}

impl Volumes {
    /// Opens the volumes that are recorded in `store`. Nothing is changed before [`Volumes::recover`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(parts: Parts, settings: Settings) -> Result<Self, OpenError> {
        Self::open_at(parts, settings, PullTimeouts::default())
    }

    fn open_at(parts: Parts, settings: Settings, pace: PullTimeouts) -> Result<Self, OpenError> {
        let Parts { store, registries, mounts, features, snapshots, notices, metrics } = parts;
        let boot_id = durable::boot_id().map_err(OpenError::BootId)?;
        let records = Records::new(store.volumes());
        let ids = records.list().map_err(OpenError::List)?;
        // A record that cannot be read fails only the operations on its own volume.
        let project = |id| records.read(id).ok().flatten().and_then(|record| record.project);
        let taken = || ids.iter().filter_map(project).collect();
        let projects = Arc::new(Projects::open(&store.volumes(), taken));
        let removal = Removal::begin(projects.clone()).map_err(OpenError::Threads)?;
        let collector = GarbageCollector {
            store: store.clone(),
            records: records.clone(),
            mounts: mounts.clone(),
            marks: Watermarks {
                high: settings.disk_high,
                low: settings.disk_low,
                grace: LAYER_GRACE,
            },
            metrics: metrics.clone(),
        }
        .start();
        Ok(Self(Arc::new(Inner {
            puller: ImagePuller::new(
                registries,
                store.clone(),
                metrics.clone(),
                settings.trust_for,
                settings.policy.clone(),
            ),
            collector,
            pending: PullJobs::new(notices.clone(), pace),
            locks: Locks::default(),
            counts: Counts::default(),
            orphans: Mutex::default(),
            records,
            projects,
            removal,
            pace,
            settings,
            mounts,
            features,
            notices,
            snapshots,
            metrics,
            store,
            boot_id,
        })))
    }

    /// Checks that volumes can be made at this moment.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn ready(&self) -> Result<(), ReadyError> {
        let store = self.0.store.clone();
        blocking(move || store.ready().map_err(ReadyError)).await
    }
}

impl Inner {
    /// Whether a mount is this volume: by its name, or by its upper. A mount that another tool made of it keeps the
    /// upper.
    fn is_of(&self, mount: &Mount, id: &VolumeId) -> bool {
        let upper = |medium| self.records.pair(id, medium);
        is_named(mount, &self.store, id)
            || overlay::is_ours(mount, upper(Medium::Disk).upper())
            || overlay::is_ours(mount, upper(Medium::Memory).upper())
    }
}

/// The source of a volume's mount in the mount table. It names the store, because another store of this node may have
/// a volume with the same id.
fn mount_name(store: &Store, id: &VolumeId) -> String {
    format!("ovl-csi:{id}@{}", store.id())
}

/// Whether a mount has the volume's name. An earlier version named no store. Only that name identifies a read-only
/// volume that it mounted.
fn is_named(mount: &Mount, store: &Store, id: &VolumeId) -> bool {
    overlay::is_named(mount, &mount_name(store, id))
        || overlay::is_named(mount, &format!("ovl-csi:{id}")) && !overlay::has_upper(mount)
}
