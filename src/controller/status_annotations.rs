//! Copies the status of an OverlaySnapshot into annotations and Events of the VolumeSnapshot, for users of one
//! namespace.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    Controller, ControllerError,
    bind::name_of,
    names::{FORMER_REPORTED_PHASE, REPORTED_PHASE, annotation_keys},
    volume_snapshot::Request,
};
use crate::{
    cluster::{
        EventType,
        overlay_snapshot::{CAPTURED, OverlaySnapshot, OverlaySnapshotStatus, Phase},
        snapshot_api::VolumeSnapshot,
    },
    format,
};

/// Annotations with the values that they should have. `None`: the annotation should be absent.
pub(super) type Annotations = BTreeMap<&'static str, Option<String>>;

/// The phase of a snapshot, as its node reports it.
pub(super) fn phase(made: &OverlaySnapshot) -> Option<Phase> {
    made.status.as_ref().and_then(|status| status.phase)
}

impl Controller {
    /// Updates the annotations that differ, and records Events for a new phase.
    pub(super) async fn mirror(
        &self,
        request: &Request,
        made: &OverlaySnapshot,
    ) -> Result<(), ControllerError> {
        let mut wanted = wanted_annotations(made);
        let status = made.status.clone().unwrap_or_default();
        match &status.parent {
            None => drop(wanted.insert(annotation_keys::PARENT, None)),
            // Looked up only once: the parent may be gone by now.
            Some(_) if request.annotation(annotation_keys::PARENT).is_some() => {}
            Some(parent) => {
                let name = self.name_in(parent, &request.of.namespace).await?;
                wanted.insert(annotation_keys::PARENT, name);
            }
        }
        wanted.retain(|key, value| request.annotation(key) != value.as_deref());
        let before = last_reported_phase(made)
            .or_else(|| request.annotation(annotation_keys::PHASE))
            .map(str::to_owned);
        if !wanted.is_empty() {
            self.annotate(request, &wanted).await?;
        }
        let news = news(before.as_deref(), made);
        if let Some(phase) = phase(made).filter(|_| !news.is_empty()) {
            self.remember_phase(made, phase).await?;
        }
        for (severity, reason, message) in news {
            self.record_event(&request.of, severity, reason, message);
        }
        Ok(())
    }

    /// Stores the phase of the last Events on the OverlaySnapshot, which only the driver can write. On the
    /// VolumeSnapshot, its editors could change it and cause the same Events again and again.
    async fn remember_phase(
        &self,
        made: &OverlaySnapshot,
        phase: Phase,
    ) -> Result<(), ControllerError> {
        let notes = json!({REPORTED_PHASE: phase.word(), FORMER_REPORTED_PHASE: null});
        let changes = json!({"metadata": {"uid": made.metadata.uid, "annotations": notes}});
        self.client().patch::<OverlaySnapshot>(None, &name_of(made), &changes).await?;
        Ok(())
    }

    /// The name of the VolumeSnapshot of a snapshot, if it is in this namespace.
    async fn name_in(&self, id: &str, namespace: &str) -> Result<Option<String>, ControllerError> {
        let found = self.client().get::<OverlaySnapshot>(None, id).await?;
        let of = found.and_then(|found| found.spec.volume_snapshot);
        Ok(of.filter(|of| of.namespace == namespace).map(|of| of.name))
    }

    /// Changes annotations of a VolumeSnapshot, unless another object has its name.
    pub(super) async fn annotate(
        &self,
        request: &Request,
        changed: &Annotations,
    ) -> Result<(), ControllerError> {
        let changed: Value =
            changed.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let changes = json!({"metadata": {"uid": request.of.uid, "annotations": changed}});
        let (namespace, name) = (&request.of.namespace, &request.of.name);
        self.client().patch::<VolumeSnapshot>(Some(namespace), name, &changes).await?;
        Ok(())
    }
}

/// The phase of the last Events.
fn last_reported_phase(made: &OverlaySnapshot) -> Option<&str> {
    let annotations = made.metadata.annotations.as_ref()?;
    let phase = annotations.get(REPORTED_PHASE).or_else(|| annotations.get(FORMER_REPORTED_PHASE));
    phase.map(String::as_str)
}

fn wanted_annotations(made: &OverlaySnapshot) -> Annotations {
    let status = made.status.clone().unwrap_or_default();
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    BTreeMap::from([
        (annotation_keys::PHASE, status.phase.map(|phase| phase.word().to_owned())),
        (annotation_keys::FROZEN, frozen(&status)),
        (annotation_keys::MESSAGE, status.message),
        (annotation_keys::DRIVER, Some(made.spec.driver.clone())),
        (annotation_keys::NODE, Some(made.spec.node_name.clone())),
        (annotation_keys::IMAGE, status.image),
        (annotation_keys::ENTRIES, number(status.entries)),
        (annotation_keys::BYTES, number(status.bytes)),
        (annotation_keys::LAYERS, number(status.layers)),
        (annotation_keys::OWN_LAYERS, number(status.own_layers)),
        (annotation_keys::PUSHED_BYTES, number(status.pushed_bytes)),
    ])
}

fn frozen(status: &OverlaySnapshotStatus) -> Option<String> {
    let micros = u64::try_from(status.frozen_micros?).ok()?;
    Some(format::span(Duration::from_micros(micros)))
}

/// The Events for the change from one phase to another.
fn news(before: Option<&str>, made: &OverlaySnapshot) -> Vec<(EventType, &'static str, String)> {
    let status = made.status.clone().unwrap_or_default();
    let Some(phase) = status.phase else { return Vec::new() };
    if before == Some(phase.word()) {
        return Vec::new();
    }
    let source = &made.spec.source;
    let mut news = Vec::new();
    let was_captured = matches!(before, Some("Pushing" | "Ready"));
    if matches!(phase, Phase::Pushing | Phase::Ready) && !was_captured {
        let how = status.conditions.iter().find(|condition| condition.r#type == CAPTURED);
        let how = how.map(|condition| format!(": {}", condition.message)).unwrap_or_default();
        let (volume, pod, node) = (&source.volume, &source.pod, &made.spec.node_name);
        let message = format!("volume {volume} of pod {pod} was captured on node {node}{how}");
        news.push((EventType::Normal, "SnapshotCaptured", message));
    }
    match (phase, &status.image) {
        (Phase::Ready, Some(image)) => {
            news.push((EventType::Normal, "SnapshotPushed", format!("snapshot pushed as {image}")));
        }
        (Phase::Failed, _) => {
            let why = status.message.unwrap_or_else(|| "its node gives no reason".to_owned());
            news.push((EventType::Warning, "SnapshotFailed", why));
        }
        _ => {}
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::overlay_snapshot::OverlaySnapshotSpec;

    fn made(status: Value) -> OverlaySnapshot {
        let spec: OverlaySnapshotSpec = serde_json::from_value(json!({
            "driver": "d", "nodeName": "n-1", "volumeHandle": "csi-1", "freezeTimeoutMillis": 1, "squashAbove": 1,
            "source": {"namespace": "ci", "pod": "p", "podUid": "u", "volume": "ws"},
        }))
        .unwrap();
        let status = serde_json::from_value(status).unwrap();
        OverlaySnapshot { status: Some(status), ..OverlaySnapshot::new("snap-1", spec) }
    }

    #[test]
    fn a_status_becomes_annotations() {
        let full = json!({"phase": "Ready", "frozenMicros": 12_345, "entries": 3, "bytes": 4, "layers": 5,
            "ownLayers": 2, "image": "r.io/a@sha256:0", "pushedBytes": 6, "message": "m"});
        let values: Vec<_> = wanted_annotations(&made(full)).into_values().flatten().collect();
        assert_eq!(
            values,
            ["4", "d", "3", "12.3ms", "r.io/a@sha256:0", "5", "m", "n-1", "2", "Ready", "6"]
        );
        let values: Vec<_> = wanted_annotations(&made(json!({}))).into_values().flatten().collect();
        assert_eq!(values, ["d", "n-1"]);
    }

    #[test]
    fn each_phase_is_reported_once() {
        let reasons = |before: Option<&str>, status: Value| -> Vec<_> {
            news(before, &made(status)).into_iter().map(|(_, reason, _)| reason).collect()
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
        // An earlier version wrote the type and the reason `Cut`.
        for word in ["Captured", "Cut"] {
            let made = made(json!({"phase": "Ready", "conditions": [
                {"type": word, "status": "True", "reason": word, "message": "the pod had ended, 3 entries, 4 B",
                 "lastTransitionTime": "2026-11-21T10:00:00Z"}]}));
            assert_eq!(
                news(None, &made)[0].2,
                "volume ws of pod p was captured on node n-1: the pod had ended, 3 entries, 4 B"
            );
        }
    }
}
