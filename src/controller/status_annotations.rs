//! Copies the status of an OverlaySnapshot into annotations and Events of the VolumeSnapshot, for users of one
//! namespace.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    cached::{CachedVolumeSnapshot, Overlay, Status},
    caches::SnapshotObjects,
    error::ReconcileError,
    names::{FORMER_REPORTED_PHASE, PARENT_NAME, REPORTED_PHASE, uid_of},
    run::Reconciler,
    turn::Turn,
};
use crate::{
    cluster::{
        EventType, annotation_keys,
        overlay_snapshot::{NOT_IN_REGISTRY, OverlaySnapshot, Phase},
        snapshot_api::VolumeSnapshot,
    },
    format,
};

/// Annotations with the values that they should have. `None`: the annotation should be absent.
pub(super) type Annotations = BTreeMap<&'static str, Option<String>>;

/// An Event to record: its type, reason and message.
type NewEvent = (EventType, &'static str, String);

impl Reconciler {
    /// Updates the annotations that differ, and records Events for a new phase.
    pub(super) async fn mirror(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        overlay: &Overlay,
        snapshot: &SnapshotObjects,
    ) -> Result<(), ReconcileError> {
        let mut desired = desired_annotations(overlay);
        let parent = self.parent_name(overlay);
        if let Some(name) = &parent {
            let name = (!name.is_empty()).then(|| name.clone());
            let uid = overlay.status.parent.as_deref().and_then(uid_of).filter(|_| name.is_some());
            desired.insert(annotation_keys::PARENT_UID, uid.map(str::to_owned));
            desired.insert(annotation_keys::PARENT, name);
        }
        if let Some(content) = snapshot.contents.iter().find(|content| content.is_of(request)) {
            desired.insert(annotation_keys::CLASS, content.class.clone());
            let policy = if content.retains { "Retain" } else { "Delete" };
            desired.insert(annotation_keys::DELETION_POLICY, Some(policy.to_owned()));
        }
        desired.retain(|key, value| !request.annotation_is(key, value.as_deref()));
        if !desired.is_empty() {
            self.annotate(turn, request, &desired).await?;
        }
        let reported = snapshot.reported.map(Phase::word).or(overlay.reported.as_deref());
        let copied = || {
            let mut all = Phase::ALL.into_iter().map(Phase::word);
            all.find(|word| request.annotation_is(annotation_keys::PHASE, Some(word)))
        };
        let events = new_events(reported.or_else(copied), overlay);
        if let Some(phase) = overlay.status.phase.filter(|_| !events.is_empty()) {
            self.remember_phase(turn, overlay, phase, parent).await?;
        }
        for (severity, reason, message) in events {
            self.controller.record_event(&request.reference, severity, reason, message);
        }
        Ok(())
    }

    /// The name of the VolumeSnapshot of the parent, empty if there is none in the namespace. `None`: the parent is
    /// gone, so its name is not known.
    fn parent_name(&self, overlay: &Overlay) -> Option<String> {
        let Some(parent) = &overlay.status.parent else { return Some(String::new()) };
        if overlay.parent_name.is_some() {
            return overlay.parent_name.clone();
        }
        let namespace = &overlay.reference.as_ref()?.namespace;
        let parent = self.caches.snapshots.get(parent)?.overlay?;
        let of = parent.reference.as_ref().filter(|of| of.namespace == *namespace);
        Some(of.map(|of| of.name.clone()).unwrap_or_default())
    }

    /// Stores the phase of the last Events on the OverlaySnapshot, which only the driver can write, and the name of the
    /// parent. On the VolumeSnapshot, its editors could change them, and cause the same Events again and again. If the
    /// cache is old, this is a conflict: then another reconcile has recorded the Events.
    async fn remember_phase(
        &self,
        turn: &Turn<'_>,
        overlay: &Overlay,
        phase: Phase,
        parent: Option<String>,
    ) -> Result<(), ReconcileError> {
        let mut annotations = json!({REPORTED_PHASE: phase.word()});
        if overlay.has_former_report {
            annotations[FORMER_REPORTED_PHASE] = Value::Null;
        }
        if let Some(parent) = parent.filter(|_| overlay.status.parent.is_some()) {
            annotations[PARENT_NAME] = parent.into();
        }
        let metadata = json!({
            "uid": overlay.uid, "resourceVersion": overlay.resource_version, "annotations": annotations,
        });
        let changes = json!({ "metadata": metadata });
        turn.client()?.patch::<OverlaySnapshot>(None, &overlay.name, &changes).await?;
        self.caches.set_reported(&overlay.name, phase);
        Ok(())
    }

    /// Changes annotations of a VolumeSnapshot, unless another object has its name.
    pub(super) async fn annotate(
        &self,
        turn: &Turn<'_>,
        request: &CachedVolumeSnapshot,
        changed: &Annotations,
    ) -> Result<(), ReconcileError> {
        let reference = &request.reference;
        let changes = json!({"metadata": {"uid": reference.uid, "annotations": changed}});
        let (namespace, name) = (Some(reference.namespace.as_str()), &reference.name);
        turn.client()?.patch::<VolumeSnapshot>(namespace, name, &changes).await?;
        Ok(())
    }
}

fn desired_annotations(overlay: &Overlay) -> Annotations {
    let status = &overlay.status;
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    BTreeMap::from([
        (annotation_keys::PHASE, status.phase.map(|phase| phase.word().to_owned())),
        (annotation_keys::FROZEN, status.frozen_micros.and_then(frozen)),
        (annotation_keys::MESSAGE, status.message.clone()),
        (annotation_keys::DRIVER, Some(overlay.driver.clone())),
        (annotation_keys::NODE, Some(overlay.node.clone())),
        (annotation_keys::IMAGE, status.image.clone()),
        (annotation_keys::ENTRIES, number(status.entries)),
        (annotation_keys::BYTES, number(status.bytes)),
        (annotation_keys::LAYERS, number(status.layers)),
        (annotation_keys::OWN_LAYERS, number(status.own_layers)),
        (annotation_keys::PUSHED_BYTES, number(status.pushed_bytes)),
    ])
}

fn frozen(micros: i64) -> Option<String> {
    Some(format::span(Duration::from_micros(u64::try_from(micros).ok()?)))
}

/// The Events for the change from one phase to another.
fn new_events(before: Option<&str>, overlay: &Overlay) -> Vec<NewEvent> {
    let status = &overlay.status;
    let Some(phase) = status.phase else { return Vec::new() };
    if before == Some(phase.word()) {
        return Vec::new();
    }
    let mut events = Vec::new();
    let was_captured = matches!(before, Some("Pushing" | "Ready" | NOT_IN_REGISTRY));
    if matches!(phase, Phase::Pushing | Phase::Ready) && !was_captured {
        let how = status.captured.as_ref().map(|how| format!(": {how}")).unwrap_or_default();
        let Overlay { volume, pod, node, .. } = overlay;
        let message = format!("volume {volume} of pod {pod} was captured on node {node}{how}");
        events.push((EventType::Normal, "SnapshotCaptured", message));
    }
    match (phase, &status.image) {
        (Phase::Ready, Some(image)) => {
            let message = format!("snapshot pushed as {image}");
            events.push((EventType::Normal, "SnapshotPushed", message));
        }
        (Phase::NotInRegistry, _) => {
            events.push((EventType::Warning, "SnapshotNotInRegistry", reason(status)))
        }
        (Phase::Failed, _) => events.push((EventType::Warning, "SnapshotFailed", reason(status))),
        _ => {}
    }
    events
}

fn reason(status: &Status) -> String {
    status.message.clone().unwrap_or_else(|| "its node gives no reason".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::overlay_snapshot::OverlaySnapshotSpec;

    fn overlay(status: Value) -> Overlay {
        let spec: OverlaySnapshotSpec = serde_json::from_value(json!({
            "driver": "d", "nodeName": "n-1", "volumeHandle": "csi-1", "freezeTimeoutMillis": 1, "squashAbove": 1,
            "source": {"namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws"},
        }))
        .unwrap();
        let status = serde_json::from_value(status).unwrap();
        OverlaySnapshot { status: Some(status), ..OverlaySnapshot::new("snap-1", spec) }.into()
    }

    #[test]
    fn a_status_becomes_annotations() {
        let full = json!({"phase": "Ready", "frozenMicros": 12_345, "entries": 3, "bytes": 4, "layers": 5,
            "ownLayers": 2, "image": "r.io/a@sha256:0", "pushedBytes": 6, "message": "m"});
        let values: Vec<_> = desired_annotations(&overlay(full)).into_values().flatten().collect();
        assert_eq!(
            values,
            ["4", "d", "3", "12.3ms", "r.io/a@sha256:0", "5", "m", "n-1", "2", "Ready", "6"]
        );
        let values: Vec<_> =
            desired_annotations(&overlay(json!({}))).into_values().flatten().collect();
        assert_eq!(values, ["d", "n-1"]);
    }

    #[test]
    fn each_phase_is_reported_once() {
        let reasons = |before: Option<&str>, status: Value| -> Vec<_> {
            new_events(before, &overlay(status)).into_iter().map(|(_, reason, _)| reason).collect()
        };
        let pushed = json!({"phase": "Ready", "image": "r.io/a@sha256:0"});
        assert_eq!(reasons(None, json!({"phase": "Capturing"})), Vec::<&str>::new());
        assert_eq!(reasons(Some("Capturing"), json!({"phase": "Pushing"})), ["SnapshotCaptured"]);
        // The word of an earlier version.
        assert_eq!(reasons(Some("Cutting"), json!({"phase": "Capturing"})), Vec::<&str>::new());
        assert_eq!(reasons(Some("Cutting"), json!({"phase": "Pushing"})), ["SnapshotCaptured"]);
        assert_eq!(reasons(Some("Pushing"), pushed.clone()), ["SnapshotPushed"]);
        assert_eq!(reasons(Some("Ready"), pushed.clone()), Vec::<&str>::new());
        assert_eq!(reasons(None, pushed), ["SnapshotCaptured", "SnapshotPushed"]);
        assert_eq!(reasons(Some("Capturing"), json!({"phase": "Failed"})), ["SnapshotFailed"]);
        let lost = json!({"phase": "NotInRegistry", "image": "r.io/a@sha256:0"});
        assert_eq!(reasons(Some("Ready"), lost.clone()), ["SnapshotNotInRegistry"]);
        assert_eq!(reasons(Some("NotInRegistry"), lost), Vec::<&str>::new());
        let again = json!({"phase": "Ready", "image": "r.io/a@sha256:0"});
        assert_eq!(reasons(Some("NotInRegistry"), again), ["SnapshotPushed"]);
        // An earlier version wrote the type and the reason `Cut`.
        for word in ["Captured", "Cut"] {
            let overlay = overlay(json!({"phase": "Ready", "conditions": [
                {"type": word, "status": "True", "reason": word, "message": "the pod had ended, 3 entries, 4 B",
                 "lastTransitionTime": "2026-11-21T10:00:00Z"}]}));
            assert_eq!(
                new_events(None, &overlay)[0].2,
                "volume ws of pod p was captured on node n-1: the pod had ended, 3 entries, 4 B"
            );
        }
    }
}
