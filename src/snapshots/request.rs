//! The request for a capture.

use std::time::Duration;

use crate::{
    layers::SnapshotId,
    volumes::{Pod, VolumeId},
};

/// Which volume to capture, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// The name of the snapshot. A repeated request with the same name returns the same snapshot.
    pub id: SnapshotId,
    /// The volume to capture.
    pub volume: VolumeId,
    /// The pod of the volume. `None` if the caller may capture any volume. A volume of another pod is not touched, so a
    /// mistake in a request freezes no other pod.
    pub pod: Option<Pod>,
    /// Whether the pod is frozen.
    pub consistency: Consistency,
}

/// Whether the pod of a volume is frozen during a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// It is, for no longer than `within`. If that time is too short, the capture fails, or becomes live with
    /// `or_live`.
    Frozen {
        /// The longest allowed freeze.
        within: Duration,
        /// Whether the capture becomes live if the pod cannot be frozen, or not for long enough.
        or_live: bool,
    },
    /// It is not. Each file is as it was at some moment of the capture.
    Live,
}

impl Default for Consistency {
    fn default() -> Self {
        Self::Frozen { within: Duration::from_secs(5), or_live: false }
    }
}
