//! What the node says, put where the users of one namespace can read it: on the VolumeSnapshot.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Controller, ControllerError,
    follow::name_of,
    names::{TOLD, told},
    requests::Request,
};
use crate::cluster::{
    Severity,
    overlay_snapshot::{OverlaySnapshot, OverlaySnapshotStatus, Phase},
    snapshot_api::VolumeSnapshot,
};

/// Annotations as they ought to be; `None`: absent.
pub(super) type Told = BTreeMap<&'static str, Option<String>>;

/// How far a snapshot is, as its node says.
pub(super) fn phase(made: &OverlaySnapshot) -> Option<Phase> {
    made.status.as_ref().and_then(|status| status.phase)
}

impl Controller {
    /// Puts it there where it is not, and tells what is news.
    pub(super) async fn mirror(
        &self,
        request: &Request,
        made: &OverlaySnapshot,
    ) -> Result<(), ControllerError> {
        let mut wanted = annotations(made);
        let status = made.status.clone().unwrap_or_default();
        match &status.parent {
            None => drop(wanted.insert(told::PARENT, None)),
            // Asked for once: it may be gone by now.
            Some(_) if request.annotation(told::PARENT).is_some() => {}
            Some(parent) => {
                let name = self.name_in(parent, &request.of.namespace).await?;
                wanted.insert(told::PARENT, name);
            }
        }
        wanted.retain(|key, value| request.annotation(key) != value.as_deref());
        let before = told_last(made).or_else(|| request.annotation(told::PHASE)).map(str::to_owned);
        if !wanted.is_empty() {
            self.annotate(request, &wanted).await?;
        }
        let news = news(before.as_deref(), made);
        if let Some(phase) = phase(made).filter(|_| !news.is_empty()) {
            self.remember_told(made, phase).await?;
        }
        for (severity, reason, message) in news {
            self.tell(&request.of, severity, reason, message);
        }
        Ok(())
    }

    /// Where only we write: whoever may edit the VolumeSnapshot would have the same told again and again.
    async fn remember_told(
        &self,
        made: &OverlaySnapshot,
        phase: Phase,
    ) -> Result<(), ControllerError> {
        let notes = json!({TOLD: phase.word()});
        let changes = json!({"metadata": {"uid": made.metadata.uid, "annotations": notes}});
        self.client().patch::<OverlaySnapshot>(None, &name_of(made), &changes).await?;
        Ok(())
    }

    /// The VolumeSnapshot of a snapshot, if it is one of this namespace.
    async fn name_in(&self, id: &str, namespace: &str) -> Result<Option<String>, ControllerError> {
        let found = self.client().get::<OverlaySnapshot>(None, id).await?;
        let of = found.and_then(|found| found.spec.volume_snapshot);
        Ok(of.filter(|of| of.namespace == namespace).map(|of| of.name))
    }

    /// Changes annotations of a VolumeSnapshot that is still the same object.
    pub(super) async fn annotate(
        &self,
        request: &Request,
        told: &Told,
    ) -> Result<(), ControllerError> {
        let told: Value =
            told.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let changes = json!({"metadata": {"uid": request.of.uid, "annotations": told}});
        let (namespace, name) = (&request.of.namespace, &request.of.name);
        self.client().patch::<VolumeSnapshot>(Some(namespace), name, &changes).await?;
        Ok(())
    }
}

fn told_last(made: &OverlaySnapshot) -> Option<&str> {
    made.metadata.annotations.as_ref()?.get(TOLD).map(String::as_str)
}

fn annotations(made: &OverlaySnapshot) -> Told {
    let status = made.status.clone().unwrap_or_default();
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    BTreeMap::from([
        (told::PHASE, status.phase.map(|phase| phase.word().to_owned())),
        (told::FROZEN, frozen(&status)),
        (told::MESSAGE, status.message),
        (told::DRIVER, Some(made.spec.driver.clone())),
        (told::NODE, Some(made.spec.node_name.clone())),
        (told::IMAGE, status.image),
        (told::ENTRIES, number(status.entries)),
        (told::BYTES, number(status.bytes)),
        (told::LAYERS, number(status.layers)),
        (told::OWN_LAYERS, number(status.own_layers)),
        (told::PUSHED_BYTES, number(status.pushed_bytes)),
    ])
}

fn frozen(status: &OverlaySnapshotStatus) -> Option<String> {
    let micros = status.frozen_micros?;
    Some(format!("{}.{}ms", micros / 1000, micros % 1000 / 100))
}

/// What users are told when a snapshot has come from one phase to another.
fn news(before: Option<&str>, made: &OverlaySnapshot) -> Vec<(Severity, &'static str, String)> {
    let status = made.status.clone().unwrap_or_default();
    let Some(phase) = status.phase else { return Vec::new() };
    if before == Some(phase.word()) {
        return Vec::new();
    }
    let source = &made.spec.source;
    let mut news = Vec::new();
    let was_cut = matches!(before, Some("Pushing" | "Ready"));
    if matches!(phase, Phase::Pushing | Phase::Ready) && !was_cut {
        let how = status.conditions.iter().find(|condition| condition.r#type == "Cut");
        let how = how.map(|condition| format!(": {}", condition.message)).unwrap_or_default();
        let (volume, pod, node) = (&source.volume, &source.pod, &made.spec.node_name);
        let message = format!("volume {volume} of pod {pod} was cut on node {node}{how}");
        news.push((Severity::Normal, "SnapshotCut", message));
    }
    match (phase, &status.image) {
        (Phase::Ready, Some(image)) => {
            news.push((Severity::Normal, "SnapshotPushed", format!("pushed as {image}")));
        }
        (Phase::Failed, _) => {
            let why = status.message.unwrap_or_else(|| "its node does not say why".to_owned());
            news.push((Severity::Warning, "SnapshotFailed", why));
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
    fn a_status_is_annotations_for_people() {
        let full = json!({"phase": "Ready", "frozenMicros": 12_345, "entries": 3, "bytes": 4, "layers": 5,
            "ownLayers": 2, "image": "r.io/a@sha256:0", "pushedBytes": 6, "message": "m"});
        let told: Vec<_> = annotations(&made(full)).into_values().flatten().collect();
        assert_eq!(
            told,
            ["4", "d", "3", "12.3ms", "r.io/a@sha256:0", "5", "m", "n-1", "2", "Ready", "6"]
        );
        let told: Vec<_> = annotations(&made(json!({}))).into_values().flatten().collect();
        assert_eq!(told, ["d", "n-1"]);
    }

    #[test]
    fn news_are_told_once() {
        let reasons = |before: Option<&str>, status: Value| -> Vec<_> {
            news(before, &made(status)).into_iter().map(|(_, reason, _)| reason).collect()
        };
        let pushed = json!({"phase": "Ready", "image": "r.io/a@sha256:0"});
        assert_eq!(reasons(None, json!({"phase": "Cutting"})), Vec::<&str>::new());
        assert_eq!(reasons(Some("Cutting"), json!({"phase": "Pushing"})), ["SnapshotCut"]);
        assert_eq!(reasons(Some("Pushing"), pushed.clone()), ["SnapshotPushed"]);
        assert_eq!(reasons(Some("Ready"), pushed.clone()), Vec::<&str>::new());
        assert_eq!(reasons(None, pushed), ["SnapshotCut", "SnapshotPushed"]);
        assert_eq!(reasons(Some("Cutting"), json!({"phase": "Failed"})), ["SnapshotFailed"]);
        let cut = &news(
            None,
            &made(json!({"phase": "Ready", "conditions": [
                {"type": "Cut", "status": "True", "reason": "Cut", "message": "the pod had ended, 3 entries, 4 B",
                 "lastTransitionTime": "2026-11-21T10:00:00Z"}]})),
        )[0]
        .2;
        assert_eq!(
            cut,
            "volume ws of pod p was cut on node n-1: the pod had ended, 3 entries, 4 B"
        );
    }
}
