//! Layers and records for tests.

use super::{LayerKey, NewLayer, Origin, SnapshotRecord, SnapshotSource};
use crate::{
    digest::{BlobDigest, DiffId},
    media_type::Format,
};

/// The layer with this tar, from a public repository.
pub(crate) fn new_layer(tar: &[u8], format: Format) -> NewLayer {
    let origin = Origin {
        registry: "r.example".to_owned(),
        repository: "a".to_owned(),
        blob: BlobDigest::of(tar),
        public: true,
        packed: None,
        namespace: None,
    };
    NewLayer { diff_id: DiffId::of(tar), format, origin }
}

/// The keys of portable layers that are unpacked alone.
pub(crate) fn keys(diff_ids: &[DiffId]) -> Vec<LayerKey> {
    diff_ids.iter().map(|diff_id| LayerKey::alone(diff_id, Format::Portable)).collect()
}

/// The record of a snapshot without layers, of volume `csi-0123` of pod `build` in namespace `ci`. Tests change the
/// fields that they are about.
pub(crate) fn snapshot_record(id: &str) -> SnapshotRecord {
    SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        id: id.parse().unwrap(),
        stack: Vec::new(),
        own_layers: 1,
        manifests: Vec::new(),
        base: None,
        parent: None,
        source: SnapshotSource {
            namespace: "ci".to_owned(),
            pod: "build".to_owned(),
            pod_uid: "u-1".to_owned(),
            volume_id: "csi-0123".to_owned(),
        },
        owner: None,
        captured_at: "2026-11-21T10:00:00Z".parse().unwrap(),
        entries: 1,
        bytes: 1,
        frozen_micros: None,
        ended: false,
        torn: 0,
        pushed: None,
    }
}
