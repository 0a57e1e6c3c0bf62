//! The request for the differences between two states of volumes.

use std::time::Duration;

use crate::volumes::{FoundSnapshot, Pod, VolumeId};

/// How long a comparison may take, without the pull of its layers and the wait for its turn.
pub(super) const DIFF_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// A snapshot, with the name that messages have.
#[derive(Debug, Clone)]
pub struct NamedSnapshot {
    /// Its name.
    pub name: String,
    /// The snapshot. Its lookup has authorized its use in the namespace.
    pub found: FoundSnapshot,
}

/// A volume of a pod, with the name that messages have.
#[derive(Debug, Clone)]
pub struct NamedVolume {
    /// The name of the volume in its pod.
    pub name: String,
    /// The volume.
    pub id: VolumeId,
    /// The pod that it must belong to.
    pub pod: Pod,
}

/// A state of a volume.
#[derive(Debug, Clone)]
pub enum VolumeState {
    /// The state that a snapshot has captured.
    Snapshot(NamedSnapshot),
    /// What the pod sees in the volume now.
    Mounted(NamedVolume),
}

/// The request for the differences between two states.
#[derive(Debug, Clone)]
pub struct DiffRequest {
    /// The namespace, whose turn it is.
    pub namespace: String,
    /// The state before. `None`: the state from which the volume of `state` started.
    pub base: Option<NamedSnapshot>,
    /// The state after.
    pub state: VolumeState,
}
