//! The objects of the cluster as the controller caches them: only what a reconcile reads, because there are many.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
};

use jiff::Timestamp;

use super::names::{
    BEING_DELETED, CONTENT, DELETED_AT, FORMER_REPORTED_PHASE, PARENT_NAME, POLICY, REPORTED_PHASE,
    id_of,
};
use crate::cluster::{
    annotation_keys::{self, SOURCE},
    overlay_snapshot::{CAPTURED, ObjectId, OverlaySnapshot, Phase},
    snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
};

type Annotations = BTreeMap<String, String>;

/// A VolumeSnapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CachedVolumeSnapshot {
    pub(super) reference: ObjectId,
    /// The value of the annotation [`SOURCE`].
    pub(super) source: Option<String>,
    /// The name of the content in its spec, which may be any text.
    pub(super) content: Option<String>,
    /// The name of the class in its spec, which may be any text.
    pub(super) class: Option<String>,
    /// Whether it was ever bound to a content.
    pub(super) is_bound: bool,
    pub(super) is_deleting: bool,
    /// A hash of each annotation of [`annotation_keys::ALL`]: a reconcile only compares them.
    annotations: [Option<u64>; annotation_keys::ALL.len()],
}

impl CachedVolumeSnapshot {
    /// `None` for an object without namespace, name or uid: one that the API server has not stored.
    pub(super) fn of(object: VolumeSnapshot) -> Option<Self> {
        let metadata = object.metadata;
        let reference =
            ObjectId { namespace: metadata.namespace?, name: metadata.name?, uid: metadata.uid? };
        let mut annotations = metadata.annotations.unwrap_or_default();
        let status = object.status;
        let bound = status.and_then(|status| status.bound_volume_snapshot_content_name);
        Some(Self {
            reference,
            source: annotations.remove(SOURCE),
            content: object.spec.source.volume_snapshot_content_name,
            class: object.spec.volume_snapshot_class_name,
            is_bound: bound.is_some(),
            is_deleting: metadata.deletion_timestamp.is_some(),
            annotations: annotation_keys::ALL
                .map(|key| annotations.get(key).map(|text| hash(text))),
        })
    }

    /// The name of its OverlaySnapshot.
    pub(super) fn id(&self) -> String {
        id_of(&self.reference.uid)
    }

    /// Whether an annotation of [`annotation_keys::ALL`] has this value; for `None`, whether it is absent.
    pub(super) fn annotation_is(&self, key: &str, value: Option<&str>) -> bool {
        let known = annotation_keys::ALL.iter().zip(self.annotations).find(|(k, _)| **k == key);
        known.and_then(|(_, known)| known) == value.map(hash)
    }
}

/// A hash that no user can aim at: its key is new in each process.
fn hash(text: &str) -> u64 {
    static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    STATE.hash_one(text)
}

/// A VolumeSnapshotContent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) name: String,
    pub(super) uid: String,
    /// Whether it is a content of this driver. Others are cached because their names are taken.
    pub(super) has_our_driver: bool,
    /// The handle in its spec.
    pub(super) handle: Option<String>,
    /// The VolumeSnapshot in its spec. `None` where a part of the reference is missing.
    pub(super) reference: Option<ObjectId>,
    /// `Delete` or `Retain`.
    pub(super) retains: bool,
    /// The name of its class.
    pub(super) class: Option<String>,
    /// Whether csi-snapshotter may delete it.
    pub(super) is_released: bool,
    pub(super) is_deleting: bool,
    /// The phase for which csi-snapshotter was last notified.
    pub(super) phase: Option<String>,
}

impl Content {
    /// A content as the controller of `driver` sees it.
    pub(super) fn of(object: VolumeSnapshotContent, driver: &str) -> Self {
        let (metadata, spec) = (object.metadata, object.spec);
        let mut annotations = metadata.annotations.unwrap_or_default();
        let reference = spec.volume_snapshot_ref;
        let reference = match (reference.namespace, reference.name, reference.uid) {
            (Some(namespace), Some(name), Some(uid)) => Some(ObjectId { namespace, name, uid }),
            _ => None,
        };
        Self {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            has_our_driver: spec.driver == driver,
            handle: spec.source.snapshot_handle,
            reference,
            retains: spec.deletion_policy != "Delete",
            class: spec.volume_snapshot_class_name,
            is_released: annotations.contains_key(BEING_DELETED),
            is_deleting: metadata.deletion_timestamp.is_some(),
            phase: annotations.remove(annotation_keys::PHASE),
        }
    }

    /// Whether it is the one that this driver created for a VolumeSnapshot.
    pub(super) fn is_of(&self, request: &CachedVolumeSnapshot) -> bool {
        self.has_our_driver
            && self.handle.as_deref() == Some(&request.id())
            && self.reference.as_ref() == Some(&request.reference)
    }
}

/// An OverlaySnapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlay {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) driver: String,
    pub(super) node: String,
    /// The volume that is captured: its namespace, the pod and its own name.
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) volume: String,
    /// The VolumeSnapshot that requested it; `None` for the CSI call CreateSnapshot.
    pub(super) reference: Option<ObjectId>,
    /// The repository that it is pushed to.
    pub(super) repository: Option<String>,
    pub(super) is_deleted: bool,
    /// When its removal was requested. `None` also where the text cannot be read.
    pub(super) deleted_at: Option<Timestamp>,
    /// Whether the policy of its content is `Retain`; `None` if that was never written down.
    pub(super) retained: Option<bool>,
    /// The phase for which Events were last recorded.
    pub(super) reported: Option<String>,
    /// Whether an earlier version has recorded Events.
    pub(super) has_former_report: bool,
    /// The name of its content, as the VolumeSnapshot requested it; `None` where an earlier version created it.
    pub(super) content: Option<String>,
    /// The VolumeSnapshot of its parent, if it was looked up; empty for one in another namespace.
    pub(super) parent_name: Option<String>,
    pub(super) status: Status,
}

/// The status of an OverlaySnapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) phase: Option<Phase>,
    pub(super) message: Option<String>,
    pub(super) image: Option<String>,
    /// The name of the parent's OverlaySnapshot.
    pub(super) parent: Option<String>,
    /// The message of the condition [`CAPTURED`].
    pub(super) captured: Option<String>,
    /// When it was captured. `None` also where the text cannot be read.
    pub(super) captured_at: Option<Timestamp>,
    pub(super) frozen_micros: Option<i64>,
    pub(super) entries: Option<i64>,
    pub(super) bytes: Option<i64>,
    pub(super) layers: Option<i64>,
    pub(super) own_layers: Option<i64>,
    pub(super) pushed_bytes: Option<i64>,
}

impl From<OverlaySnapshot> for Overlay {
    fn from(object: OverlaySnapshot) -> Self {
        let OverlaySnapshot { metadata, spec, status } = object;
        let mut annotations: Annotations = metadata.annotations.unwrap_or_default();
        let status = status.unwrap_or_default();
        let captured_at = status.captured_at().and_then(|time| time.parse().ok());
        let captured = status.conditions.into_iter().find(|condition| condition.r#type == CAPTURED);
        let former = annotations.remove(FORMER_REPORTED_PHASE);
        Self {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            driver: spec.driver,
            node: spec.node_name,
            namespace: spec.source.namespace,
            pod: spec.source.pod,
            volume: spec.source.volume,
            reference: spec.volume_snapshot,
            repository: spec.repository,
            is_deleted: spec.deleted,
            deleted_at: annotations.get(DELETED_AT).and_then(|since| since.parse().ok()),
            retained: annotations.get(POLICY).map(|policy| policy == "Retain"),
            has_former_report: former.is_some(),
            reported: annotations.remove(REPORTED_PHASE).or(former),
            content: annotations.remove(CONTENT),
            parent_name: annotations.remove(PARENT_NAME),
            status: Status {
                phase: status.phase,
                message: status.message,
                image: status.image,
                parent: status.parent,
                captured: captured.map(|condition| condition.message),
                captured_at,
                frozen_micros: status.frozen_micros,
                entries: status.entries,
                bytes: status.bytes,
                layers: status.layers,
                own_layers: status.own_layers,
                pushed_bytes: status.pushed_bytes,
            },
        }
    }
}

impl Overlay {
    /// Whether its layers are nowhere but on its node, as far as is known: the node is needed. A node that could not push
    /// a lost image again does not have them either.
    pub(super) fn needs_node(&self) -> bool {
        let kept_elsewhere = self.status.phase == Some(Phase::Ready) && self.status.image.is_some();
        !kept_elsewhere && !matches!(self.status.phase, Some(Phase::NotInRegistry | Phase::Failed))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_are_compared_by_their_hashes() {
        let object = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": {"namespace": "ci", "name": "a", "uid": "u", "annotations": {
                "ovl.csi.dev/source": "p/ws", "ovl.csi.dev/phase": "Ready", "ovl.csi.dev/parent": ""}},
            "spec": {"source": {}},
        });
        let request = CachedVolumeSnapshot::of(serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!((request.source.as_deref(), request.id()), (Some("p/ws"), "snap-u".into()));
        for (key, value, expected) in [
            (annotation_keys::PHASE, Some("Ready"), true),
            (annotation_keys::PHASE, Some("Pushing"), false),
            (annotation_keys::PHASE, None, false),
            (annotation_keys::PARENT, Some(""), true),
            (annotation_keys::PARENT, None, false),
            (annotation_keys::NODE, None, true),
            (annotation_keys::NODE, Some("n-1"), false),
        ] {
            assert_eq!(request.annotation_is(key, value), expected, "{key} {value:?}");
        }
    }
}
