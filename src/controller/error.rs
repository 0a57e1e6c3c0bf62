//! Why a call is not carried out, and why a VolumeSnapshot is not made.

use super::{ParameterError, RepositoryError};
use crate::{
    cluster::{ClusterError, Severity},
    fault::Class,
};

/// Why there is nothing to cut in a volume of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCut {
    /// Nobody can have written to it.
    #[error("volume {volume} of pod {pod} is read-only: there is nothing of its own in it")]
    ReadOnly {
        /// The pod's name.
        pod: String,
        /// The volume's name.
        volume: String,
    },
    /// The volume of the pod of this name is not there yet.
    #[error("pod {0} does not run yet: waiting for it")]
    Pending(String),
}

/// A call about snapshots that failed.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server's.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Of the class.
    #[error(transparent)]
    Parameters(#[from] ParameterError),
    /// Of the class, with the names of this snapshot.
    #[error("repository: {0}")]
    Repository(#[from] RepositoryError),
    /// No pod has it.
    #[error("no pod has an inline volume of {driver} with the handle {handle:?}")]
    NoVolume {
        /// Our name.
        driver: String,
        /// The volume's.
        handle: String,
    },
    /// Of the volume.
    #[error(transparent)]
    NoCut(#[from] NoCut),
    /// The name is taken.
    #[error("there is a snapshot {id} already, of volume {theirs}: asked for is one of {ours}")]
    OtherSource {
        /// The snapshot.
        id: String,
        /// The handle of its volume.
        theirs: String,
        /// The handle that was asked for.
        ours: String,
    },
    /// The same name may be had when it is gone.
    #[error("snapshot {id} is being removed by node {node}")]
    Removing {
        /// The snapshot.
        id: String,
        /// The node that works on it.
        node: String,
    },
    /// It will never be ready.
    #[error("snapshot {id} failed: {why}")]
    Failed {
        /// The snapshot.
        id: String,
        /// What went wrong.
        why: String,
    },
    /// It is not there.
    #[error("there is no snapshot {0:?}")]
    NoSnapshot(String),
    /// No list of ours ended there.
    #[error("starting_token {0:?} is none that was given: list from the beginning")]
    Token(String),
    /// A number of entries that cannot be.
    #[error("max_entries is {0}: expected a number of entries, or 0 for all")]
    Most(i32),
}

impl ControllerError {
    /// What it means to whoever asked.
    pub fn class(&self) -> Class {
        match self {
            Self::Cluster(error) => match error.class() {
                // Somebody changed the object meanwhile, or it went: the same call finds it as it is now.
                Class::Conflict | Class::NotFound => Class::Busy,
                class => class,
            },
            Self::Parameters(_) | Self::Repository(_) | Self::Most(_) => Class::Invalid,
            Self::NoVolume { .. } | Self::NoSnapshot(_) => Class::NotFound,
            Self::NoCut(NoCut::ReadOnly { .. }) | Self::Failed { .. } => Class::Precondition,
            Self::NoCut(NoCut::Pending(_)) => Class::Unavailable,
            Self::OtherSource { .. } => Class::Conflict,
            // CSI spec, ListSnapshots: ABORTED for a token that is not good.
            Self::Removing { .. } | Self::Token(_) => Class::Busy,
        }
    }
}

/// Why a VolumeSnapshot is not made, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the annotation ovl.csi.dev/source is {0:?}: expected POD/VOLUME, both in this namespace"
    )]
    Source(String),
    #[error(
        "a snapshot of a pod's volume has source.volumeSnapshotContentName, any free name, in the place of \
         source.persistentVolumeClaimName"
    )]
    Claim,
    #[error(
        "source.volumeSnapshotContentName is {0:?}, which no object can be called: expected at most 253 small letters, \
         digits, '-' and '.', with a letter or a digit at both ends and beside each '.'"
    )]
    ContentName(String),
    #[error(
        "VolumeSnapshotContent {0} belongs to another snapshot: take a free name, such as this one with a suffix"
    )]
    NameTaken(String),
    #[error("there is no VolumeSnapshotClass {0}")]
    NoClass(String),
    #[error(
        "VolumeSnapshotClasses {0} are all the default of this driver: name one in volumeSnapshotClassName, or leave one the default"
    )]
    ManyDefaults(String),
    #[error("VolumeSnapshotClass {class}: {why}")]
    Class { class: String, why: String },
    #[error("there is no pod {0} in this namespace")]
    NoPod(String),
    #[error("pod {pod} has no volume {volume}: its volumes are {others}")]
    NoVolume { pod: String, volume: String, others: String },
    #[error(
        "volume {volume} of pod {pod} is none of {driver}: only its inline csi volumes can be snapshots"
    )]
    NotOurs { pod: String, volume: String, driver: String },
    /// Names no driver: where no class does either, all releases say the same of it.
    #[error(
        "volume {volume} of pod {pod} is no inline csi volume: no driver can keep what is in it this way"
    )]
    NotCsi { pod: String, volume: String },
    #[error(transparent)]
    NoCut(#[from] NoCut),
    #[error(
        "the snapshot is lost: its OverlaySnapshot {0} is gone; delete this object and make another"
    )]
    Lost(String),
}

impl Refusal {
    /// That something is waited for is no news to worry about.
    pub(super) fn severity(&self) -> Severity {
        match self {
            Self::NoCut(NoCut::Pending(_)) => Severity::Normal,
            _ => Severity::Warning,
        }
    }

    /// One word in CamelCase, for the Event.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) | Self::Claim | Self::ContentName(_) => "SnapshotSourceInvalid",
            Self::NameTaken(_) => "SnapshotContentNameTaken",
            Self::NoClass(_) | Self::ManyDefaults(_) | Self::Class { .. } => {
                "SnapshotClassUnusable"
            }
            Self::NoPod(_) | Self::NoVolume { .. } => "SnapshotSourceMissing",
            Self::NotOurs { .. } | Self::NotCsi { .. } | Self::NoCut(NoCut::ReadOnly { .. }) => {
                "SnapshotSourceUnusable"
            }
            Self::NoCut(NoCut::Pending(_)) => "SnapshotPending",
            Self::Lost(_) => "SnapshotLost",
        }
    }
}
