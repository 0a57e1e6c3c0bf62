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
//! A volume is `recorded` whenever its record is there and `mounted` whenever mountinfo shows an overlay with its upper:
//! both are read, never remembered, so a kill at any line leaves a state from which the same call goes on. Whatever looks and then
//! changes holds the volume's lock from the look to the change; only the pull of its layers goes without, so that a pod can go
//! while its image comes, and goes on when its call has been answered. The store's own lock keeps other processes out, so an upper has one owner.
//!
//! A record is there before the mount it describes and goes after the mount. It is on the disk no later than the first byte that the
//! pod syncs (`records.rs`), so no call waits for the disk; nor does one for bytes to be removed (`removal.rs`). A target is removed
//! by `rmdir` alone: a mount left beneath must never be deleted through.
//!
//! May use: image, layers, overlay, changeset, sys
//!
//! Deliberately absent: gRPC, Kubernetes objects, and any knowledge of how a layer's bytes look.

#[cfg(test)]
mod attributes_tests;
mod auth_cache;
mod authorization;
mod background_removal;
#[cfg(test)]
mod builders_tests;
mod conflict;
mod cross_layer_links;
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
mod lanes;
mod limit;
mod local_images;
mod lock;
mod negative_cache;
#[cfg(test)]
mod packages_tests;
mod policy;
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
mod progress;
mod progress_reader;
mod project_quota;
mod publish;
mod pull_jobs;
#[cfg(test)]
mod pull_jobs_tests;
mod puller;
mod record;
mod records;
mod recover;
mod request;
mod restore;
#[cfg(test)]
mod restore_tests;
mod single_flight;
mod snapshot_lookup;
mod stats;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tools_tests;
mod unpublish;
mod upper;
mod view;
#[cfg(test)]
mod warm_tests;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

pub use error::{OpenError, PublishError, PullError, ReadyError, UnpublishError};
pub use events::{EventRecorder, NoEvents, PodEvent, PodEventType};
pub use guard::{GuardError, VolumeGuard};
pub use policy::{ImagePolicy, PolicyError};
pub use progress::Progress;
pub use record::RecordError;
pub use recover::GRACE;
pub use request::{
    Limits, Medium, OnUnclean, Pod, PodUid, PublishRequest, PullPolicy, RequestError, Target,
    VolumeId, VolumeSpec,
};
pub use restore::RestoreError;
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
    image::{Keyring, KeyringError, Reference},
    overlay::{Options, Owner, Xino},
};
use background_removal::Removal;
use gc::{GarbageCollector, LAYER_GRACE};
use lock::Locks;
use project_quota::Projects;
use pull_jobs::{PullJobs, PullTimeouts};
use records::Records;
use stats::Counts;

/// What volumes are made with.
#[derive(Debug)]
pub struct Parts {
    /// Where layers and records are kept.
    pub store: Arc<Store>,
    /// Where images come from.
    pub registries: Arc<Registries>,
    /// The kernel.
    pub mounts: Arc<dyn Mounts>,
    /// What it can do.
    pub features: Features,
    /// Where snapshots are found.
    pub snapshots: Arc<dyn SnapshotLookup>,
    /// Where pods' owners are told things.
    pub notices: Arc<dyn EventRecorder>,
    /// Where it is counted.
    pub metrics: Metrics,
}

impl Parts {
    /// Where nobody is told and nothing is scraped.
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

/// How volumes are made on this node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kubelet's directory: targets lie beneath it, and its `pods` tells which pods are still there.
    pub kubelet: PathBuf,
    /// The node's own credentials, for every pod.
    pub keyring: Keyring,
    /// For how long a credential that a registry accepted is good without asking again. Zero: always ask.
    pub trust_for: Duration,
    /// Which images pods may have.
    pub policy: ImagePolicy,
    /// How full the store's disk may be, in percent, before images that nobody used lately go.
    pub disk_high: u8,
    /// How full it is when no more go.
    pub disk_low: u8,
}

impl Settings {
    /// For a node without credentials, on which every image is allowed.
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

/// All volumes of one node. Cheap to clone: clones are the same volumes.
#[derive(Debug, Clone)]
pub struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mounts: Arc<dyn Mounts>,
    store: Arc<Store>,
    pulls: puller::ImagePuller,
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
    /// Volumes whose pod was found gone, and when.
    orphans: Mutex<HashMap<VolumeId, Instant>>,
}

impl Volumes {
    /// The volumes recorded in `store`, as the last process left them: nothing is touched before [`Volumes::recover`].
    pub fn open(parts: Parts, settings: Settings) -> Result<Self, OpenError> {
        Self::open_at(parts, settings, PullTimeouts::default())
    }

    fn open_at(parts: Parts, settings: Settings, pace: PullTimeouts) -> Result<Self, OpenError> {
        let Parts { store, registries, mounts, features, snapshots, notices, metrics } = parts;
        let boot_id = durable::boot_id().map_err(OpenError::BootId)?;
        let records = Records::new(store.volumes());
        let ids = records.list().map_err(OpenError::List)?;
        // A record that cannot be read stops its own volume, when that is asked for.
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
            pulls: puller::ImagePuller::new(
                registries,
                collector.clone(),
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

    /// Whether volumes can be made at this moment: the store is readable and writable.
    pub async fn ready(&self) -> Result<(), ReadyError> {
        let store = self.0.store.clone();
        blocking(move || store.ready().map_err(ReadyError)).await
    }
}

impl Inner {
    /// Whether a mount is this volume: by its name, or by its upper, which a mount keeps that another tool made of it.
    fn is_of(&self, mount: &Mount, id: &VolumeId) -> bool {
        let upper = |medium| self.records.pair(id, medium);
        is_named(mount, &self.store, id)
            || overlay::is_ours(mount, upper(Medium::Disk).upper())
            || overlay::is_ours(mount, upper(Medium::Memory).upper())
    }
}

/// What the mount table shows as the source of a volume's mount: another store of this node may have a volume of the same id.
fn mount_name(store: &Store, id: &VolumeId) -> String {
    format!("ovl-csi:{id}@{}", store.id())
}

/// Whether a mount has the volume's name. An earlier version named no store, and a read-only volume that it mounted shows nothing
/// else of it.
fn is_named(mount: &Mount, store: &Store, id: &VolumeId) -> bool {
    overlay::is_named(mount, &mount_name(store, id))
        || overlay::is_named(mount, &format!("ovl-csi:{id}")) && !overlay::has_upper(mount)
}
