//! [`Volumes`], and the state that all its operations share.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    background_removal::BackgroundRemoval,
    counts::Counts,
    error::{OpenError, ReadyError},
    events::{EventRecorder, NoEvents},
    gc::{GarbageCollector, LAYER_GRACE},
    lock::Locks,
    mount_name::is_named,
    project_quota::Projects,
    pull::{ImagePolicy, ImagePuller},
    pull_jobs::{PullJobs, PullTimeouts},
    records::Records,
    request::{Medium, VolumeId},
    snapshot_lookup::{NoSnapshots, SnapshotLookup},
};
use crate::{
    image::{Keyring, Registries},
    layers::{CollectError, GcStats, Store, Watermarks},
    metrics::Metrics,
    overlay::{self, KernelFeatures},
    sys::{
        blocking::blocking,
        durable,
        mounts::{Mount, Mounts},
    },
};

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
    pub features: KernelFeatures,
    /// Finds snapshots by name.
    pub snapshots: Arc<dyn SnapshotLookup>,
    /// Records the Events of pods.
    pub events: Arc<dyn EventRecorder>,
    /// The metrics of the process.
    pub metrics: Metrics,
}

impl Parts {
    /// The parts of a node without snapshots, Events and a scraper of its metrics.
    pub fn new(
        store: Arc<Store>,
        registries: impl Into<Arc<Registries>>,
        mounts: Arc<dyn Mounts>,
        features: KernelFeatures,
    ) -> Self {
        Self {
            store,
            registries: registries.into(),
            mounts,
            features,
            snapshots: Arc::new(NoSnapshots),
            events: Arc::new(NoEvents),
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
pub struct Volumes(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) mounts: Arc<dyn Mounts>,
    pub(super) store: Arc<Store>,
    pub(super) puller: ImagePuller,
    pub(super) collector: Arc<GarbageCollector>,
    pub(super) records: Records,
    pub(super) locks: Locks,
    pub(super) pull_jobs: PullJobs,
    pub(super) projects: Arc<Projects>,
    pub(super) removal: BackgroundRemoval,
    pub(super) counts: Counts,
    pub(super) timeouts: PullTimeouts,
    pub(super) settings: Settings,
    pub(super) features: KernelFeatures,
    pub(super) events: Arc<dyn EventRecorder>,
    pub(super) snapshots: Arc<dyn SnapshotLookup>,
    pub(super) metrics: Metrics,
    pub(super) boot_id: String,
    /// Volumes whose pod does not exist any more, each with the time when that was found.
    pub(super) orphans: Mutex<HashMap<VolumeId, Instant>>,
}

impl Volumes {
    /// Opens the volumes that are recorded in `store`. Nothing is changed before [`Volumes::recover`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(parts: Parts, settings: Settings) -> Result<Self, OpenError> {
        Self::open_at(parts, settings, PullTimeouts::default())
    }

    pub(super) fn open_at(
        parts: Parts,
        settings: Settings,
        timeouts: PullTimeouts,
    ) -> Result<Self, OpenError> {
        let Parts { store, registries, mounts, features, snapshots, events, metrics } = parts;
        let boot_id = durable::boot_id().map_err(OpenError::BootId)?;
        let records = Records::new(store.volumes());
        let ids = records.list().map_err(OpenError::List)?;
        // A record that cannot be read fails only the operations on its own volume.
        let project = |id| records.read(id).ok().flatten().and_then(|record| record.project);
        let taken = || ids.iter().filter_map(project).collect();
        let projects = Arc::new(Projects::open(&store.volumes(), taken));
        let removal = BackgroundRemoval::start(projects.clone()).map_err(OpenError::Threads)?;
        let collector = GarbageCollector {
            store: store.clone(),
            records: records.clone(),
            mounts: mounts.clone(),
            watermarks: Watermarks {
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
            pull_jobs: PullJobs::new(events.clone(), timeouts),
            locks: Locks::default(),
            counts: Counts::default(),
            orphans: Mutex::default(),
            records,
            projects,
            removal,
            timeouts,
            settings,
            mounts,
            features,
            events,
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

    /// Removes layers that nothing needs and, if the disk is too full, images that no volume used lately. Blocks. The
    /// caller must repeat it periodically.
    ///
    /// # Errors
    /// The layers in use are not known for sure. Nothing is removed then.
    pub fn collect(&self) -> Result<GcStats, CollectError> {
        self.0.collector.collect()
    }
}

impl Inner {
    /// Whether a mount is this volume: by its name, or by its upper. A mount that another tool made of it keeps the
    /// upper.
    pub(super) fn is_of(&self, mount: &Mount, id: &VolumeId) -> bool {
        let upper = |medium| self.records.upper_and_work(id, medium);
        is_named(mount, &self.store, id)
            || overlay::is_ours(mount, upper(Medium::Disk).upper())
            || overlay::is_ours(mount, upper(Medium::Memory).upper())
    }
}
