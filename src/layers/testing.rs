//! Records for tests.

use super::{SnapshotRecord, SnapshotSource};

/// The record of a snapshot without layers, of volume `csi-0123` of pod `build` in namespace `ci`. Tests change the
/// fields that they are about.
pub(crate) fn snapshot_record(id: &str) -> SnapshotRecord {
    SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        id: id.parse().unwrap(),
        stack: Vec::new(),
        own: 1,
        manifests: Vec::new(),
        base: None,
        parent: None,
        source: SnapshotSource {
            namespace: "ci".to_owned(),
            pod: "build".to_owned(),
            pod_uid: "u-1".to_owned(),
            volume: "csi-0123".to_owned(),
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
