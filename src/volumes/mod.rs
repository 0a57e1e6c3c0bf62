//! The lifecycle of volumes: publishes, recovers and unpublishes the overlay of each volume of the node.
//!
//! ```text
//!              record written            overlay attached
//!   (nothing) ────────────────► recorded ────────────────► mounted ──┐ another target: a clone
//!       ▲                        │    ▲                    │    ▲────┘
//!       │  moved into staging    │    │  last target gone  │
//!       └────────────────────────┘    └────────────────────┘
//! ```
//!
//! A volume is `recorded` while its record exists, and `mounted` while mountinfo shows an overlay with its name or its
//! upper. Both states are always read and never cached. So a kill at any line leaves a state from which the same call
//! can continue.
//!
//! An operation that reads and then changes a volume holds the volume's lock from the read to the change. Only the
//! pull of its layers holds no lock: a pod can be deleted during the pull, and the pull goes on after its call has
//! returned. The store's own lock excludes other processes, so one operation at a time
//! uses an upper.
//!
//! A record is written before the mount that it describes, and removed after the mount, by one rename of the volume's
//! directory. It is on disk no later than the first data that the pod syncs. On most file systems no call waits for the
//! disk for that; `records.rs` has the exceptions. The data are removed in the background (`background_removal.rs`). A
//! target is removed by `rmdir` only, so that a mount below it is never deleted through.
//!
//! May use: image, layers, overlay, sys
//!
//! Deliberately absent: gRPC, Kubernetes objects, and the format of layers.

#[cfg(test)]
mod attributes_tests;
mod background_removal;
#[cfg(test)]
mod builders_tests;
mod compared;
mod conflict;
mod counts;
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
mod mount_name;
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
mod state;
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

pub use compared::{MountedVolume, MountedVolumeError, SnapshotLayers};
pub use error::{
    OpenError, OutsideKubelet, PublishCause, PublishError, ReadyError, UnpublishCause,
    UnpublishError,
};
pub use events::{EventRecorder, NoEvents, PodEvent, PodEventType};
pub use guard::{GuardError, VolumeGuard};
pub use pull::{ImagePolicy, PolicyError, Progress, PullError};
pub use record::RecordError;
pub use recover::ORPHAN_GRACE;
pub use request::{
    Limits, Medium, OnUnclean, Pod, PodUid, PublishRequest, RequestError, Target, VolumeId,
    VolumeSpec,
};
pub use restore_error::{LayersError, RestoreError};
pub use snapshot_lookup::{FoundSnapshot, Lookup, LookupError, NoSnapshots, SnapshotLookup};
pub use state::{Parts, Settings, Volumes};
pub use stats::{Stats, StatsError, Usage};
pub use view::ViewError;
