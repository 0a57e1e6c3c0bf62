//! The layers of a new volume.

use super::pull::PulledLayers;
use crate::{
    digest::ManifestDigest,
    layers::{LayerKey, Lease, SnapshotId},
};

/// The layers of a new volume, all of them in the store.
#[derive(Debug)]
pub(super) struct VolumeLayers {
    /// Their keys, bottom first.
    pub(super) stack: Vec<LayerKey>,
    /// How many of these, at the top, are layers of snapshots and not of images.
    pub(super) snapshot_layers: usize,
    /// The manifests of the images, in the order of the stack.
    pub(super) manifests: Vec<ManifestDigest>,
    /// The snapshot that the volume starts from, if any.
    pub(super) snapshot: Option<SnapshotId>,
    /// Keeps the layers until the volume's record does.
    #[allow(dead_code, reason = "its drop releases the layers")]
    pub(super) lease: Lease,
}

impl From<PulledLayers> for VolumeLayers {
    /// The layers of a volume that starts from images only.
    fn from(PulledLayers { stack, manifests, lease }: PulledLayers) -> Self {
        Self { stack, snapshot_layers: 0, manifests, snapshot: None, lease }
    }
}
