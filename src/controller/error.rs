//! The errors of CSI calls about snapshots, and the reasons for which a VolumeSnapshot is refused.

use super::{ParameterError, RepositoryError};
use crate::{
    cluster::{
        ClusterError, EventType, Pod,
        annotation_keys::{PENDING, REFUSED},
        overlay_snapshot::Phase,
    },
    error::Class,
};

/// A reason for which a volume of this driver cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCapturable {
    /// The volume is read-only, so it has no changes.
    #[error("volume {volume} of pod {pod} is read-only: it has no changes to capture")]
    ReadOnly {
        /// The name of the pod.
        pod: String,
        /// The name of the volume.
        volume: String,
    },
    /// The pod of this name has ended, so its volume does not exist any more.
    #[error("pod {0} has ended, and its volume is gone: take the snapshot while the pod runs")]
    Ended(String),
    /// The pod of this name is not running yet, so its volume does not exist yet.
    #[error("pod {0} is not running yet: the snapshot is taken when it runs")]
    Pending(String),
}

/// A failed call about snapshots.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// A request to the API server failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The class has an invalid parameter.
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    /// The repository of the class is invalid with the names of this snapshot.
    #[error("repository: {0}")]
    Repository(#[from] RepositoryError),
    /// No pod has the volume.
    #[error("no pod has an inline volume of {driver} with the handle {handle:?}")]
    NoVolume {
        /// The name of this driver.
        driver: String,
        /// The CSI handle of the volume, shortened.
        handle: String,
    },
    /// The volume cannot be captured.
    #[error(transparent)]
    NotCapturable(#[from] NotCapturable),
    /// The name belongs to a snapshot of another volume.
    #[error(
        "snapshot {id} exists already for volume {existing}, but the request names volume {requested}: use another name"
    )]
    OtherSource {
        /// The handle of the snapshot.
        id: String,
        /// The handle of the snapshot's volume.
        existing: String,
        /// The handle of the requested volume.
        requested: String,
    },
    /// The snapshot is being removed. Its name is free again after that.
    #[error("snapshot {name} is being removed by node {node}")]
    Removing {
        /// The name of the snapshot, as its user knows it.
        name: String,
        /// The node that removes it.
        node: String,
    },
    /// The snapshot failed for good.
    #[error("snapshot {name} failed: {why}")]
    Failed {
        /// The name of the snapshot, as its user knows it.
        name: String,
        /// The message of the node.
        why: String,
    },
    /// There is no snapshot of this handle.
    #[error("snapshot {0:?} does not exist")]
    NoSnapshot(String),
    /// The token does not come from an earlier page.
    #[error("starting_token {0:?} is not valid: list again from the start")]
    Token(String),
    /// A negative number of entries.
    #[error("max_entries is {0}: expected a number of entries, or 0 for all")]
    MaxEntries(i32),
}

impl ControllerError {
    /// The class for the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::Cluster(error) => match error.class() {
                // The object was changed or deleted meanwhile. A retry of the call finds its current state.
                Class::Conflict | Class::NotFound => Class::Busy,
                class => class,
            },
            Self::Parameters(_) | Self::Repository(_) | Self::MaxEntries(_) => Class::Invalid,
            Self::NoVolume { .. } | Self::NoSnapshot(_) => Class::NotFound,
            Self::NotCapturable(NotCapturable::ReadOnly { .. } | NotCapturable::Ended(_))
            | Self::Failed { .. } => Class::Precondition,
            Self::NotCapturable(NotCapturable::Pending(_)) => Class::Unavailable,
            Self::OtherSource { .. } => Class::Conflict,
            // CSI spec, ListSnapshots: ABORTED for an invalid token.
            Self::Removing { .. } | Self::Token(_) => Class::Busy,
        }
    }
}

/// The end of a reconcile that has not reached its goal.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// A request to the API server failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What the user requests cannot be done. It is tried again, because the cause may end.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The VolumeSnapshot belongs to another driver, which reports any error.
    #[error("it belongs to another driver")]
    OtherDriver,
    /// The turn of its namespace has not come. The snapshot is reconciled again when it comes.
    #[error("the turn of its namespace has not come")]
    NoTurn,
    /// The API server has an OverlaySnapshot of this name, which the cache lacks.
    #[error("OverlaySnapshot {0} is not in the cache yet")]
    NotCached(String),
    /// The node has not removed the snapshot yet.
    #[error("node {0} has not removed it yet")]
    Removing(String),
}

impl ReconcileError {
    /// The class for the metrics and the log.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Cluster(error) => match error.class() {
                // The object was changed or deleted meanwhile: the cache is old.
                Class::Conflict | Class::NotFound => Class::Busy,
                class => class,
            },
            Self::Refused(_) | Self::OtherDriver => Class::Precondition,
            Self::NoTurn | Self::NotCached(_) | Self::Removing(_) => Class::Busy,
        }
    }
}

/// A reason for which no snapshot is started for a VolumeSnapshot, as a message for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the annotation ovl.csi.dev/source is {0:?}: expected POD/VOLUME, both in this namespace"
    )]
    Source(String),
    #[error(
        "spec.source.volumeSnapshotContentName is missing: set it to an unused name, and remove \
         spec.source.persistentVolumeClaimName"
    )]
    Claim,
    #[error(
        "spec.source.volumeSnapshotContentName is {0:?}, which is not a valid object name: expected at most 253 \
         lower-case letters, digits, '-' and '.', with a letter or digit at both ends and on both sides of each '.'"
    )]
    ContentName(String),
    #[error(
        "VolumeSnapshotContent {0} belongs to another snapshot: set spec.source.volumeSnapshotContentName to an unused \
         name, such as this one with a suffix"
    )]
    NameTaken(String),
    #[error(
        "VolumeSnapshotContent {0} is left from an earlier VolumeSnapshot of this name, because its deletionPolicy is \
         Retain: use another name for the snapshot, or let an administrator delete the content (docs/snapshots.md, \
         \"Delete a snapshot\")"
    )]
    Retained(String),
    #[error(
        "spec.source.volumeSnapshotContentName is {content}, and names that begin with {prefix:?} are for snapshots of \
         namespace {}: delete this VolumeSnapshot, and create it with the content name {own}, or with a name without \
         a dot",
        prefix.trim_end_matches('.')
    )]
    ForeignName { content: String, prefix: String, own: String },
    #[error("VolumeSnapshotClass {0} does not exist")]
    NoClass(String),
    #[error(
        "VolumeSnapshotClasses {0} are all the default of this driver: set spec.volumeSnapshotClassName, or keep \
         only one default"
    )]
    ManyDefaults(String),
    #[error("VolumeSnapshotClass {class}: {why}")]
    Class { class: String, why: String },
    #[error("pod {0} does not exist in this namespace")]
    NoPod(String),
    /// The message names no driver, as that of `NotCsi`. Only inline csi volumes can be right.
    #[error("pod {pod} has no volume {volume}: {others}")]
    NoVolume { pod: String, volume: String, others: String },
    #[error(
        "volume {volume} of pod {pod} is not a volume of {driver}: only inline csi volumes of this driver can have \
         snapshots"
    )]
    NotOurs { pod: String, volume: String, driver: String },
    /// The message names no driver. If the VolumeSnapshot names no class either, all releases write the same message.
    #[error(
        "volume {volume} of pod {pod} is not an inline csi volume: only inline csi volumes can have snapshots"
    )]
    NotCsi { pod: String, volume: String },
    #[error(transparent)]
    NotCapturable(#[from] NotCapturable),
    #[error(
        "the OverlaySnapshot {0} of this snapshot was deleted: delete this VolumeSnapshot, and take a new snapshot"
    )]
    Lost(String),
}

impl Refusal {
    /// The refusal for a volume that the pod does not have, with those that could be meant.
    pub(super) fn no_volume(pod: &Pod, volume: &str) -> Self {
        let others = pod.volumes.iter().filter(|other| other.driver.is_some());
        let others: Vec<_> = others.map(|other| other.name.as_str()).collect();
        let others = match others.is_empty() {
            true => "it has no inline csi volume".to_owned(),
            false => format!("its inline csi volumes are {}", others.join(", ")),
        };
        Self::NoVolume { pod: pod.name.clone(), volume: volume.to_owned(), others }
    }

    /// The type of its Event: waiting for a pod is no reason for a warning.
    pub(super) fn severity(&self) -> EventType {
        match self {
            Self::NotCapturable(NotCapturable::Pending(_)) => EventType::Normal,
            _ => EventType::Warning,
        }
    }

    /// The phase of its VolumeSnapshot: what waits for a pod is not refused, and a lost snapshot never comes back.
    pub(super) fn phase(&self) -> &'static str {
        match self {
            Self::NotCapturable(NotCapturable::Pending(_)) => PENDING,
            Self::Lost(_) => Phase::Failed.word(),
            _ => REFUSED,
        }
    }

    /// The reason of its Event, one word in CamelCase.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) | Self::Claim | Self::ContentName(_) | Self::ForeignName { .. } => {
                "SnapshotSourceInvalid"
            }
            Self::NameTaken(_) | Self::Retained(_) => "SnapshotContentNameTaken",
            Self::NoClass(_) | Self::ManyDefaults(_) | Self::Class { .. } => {
                "SnapshotClassUnusable"
            }
            Self::NoPod(_) | Self::NoVolume { .. } => "SnapshotSourceMissing",
            Self::NotOurs { .. }
            | Self::NotCsi { .. }
            | Self::NotCapturable(NotCapturable::ReadOnly { .. } | NotCapturable::Ended(_)) => {
                "SnapshotSourceUnusable"
            }
            Self::NotCapturable(NotCapturable::Pending(_)) => "SnapshotPending",
            Self::Lost(_) => "SnapshotLost",
        }
    }
}
