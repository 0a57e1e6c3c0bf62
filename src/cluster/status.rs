//! Writes the status of an OverlaySnapshot, as its node reports it.

use serde_json::{Value, json};

use super::{
    Client, ClusterError,
    overlay_snapshot::{MESSAGE_MAX, OverlaySnapshot, OverlaySnapshotStatus},
    recorder::truncated,
};

/// All fields of a status. A merge patch removes a field only if it sets the field to null.
const FIELDS: [&str; 14] = [
    "phase",
    "conditions",
    "message",
    "captureTime",
    "cutTime",
    "frozenMicros",
    "entries",
    "bytes",
    "layers",
    "ownLayers",
    "owner",
    "parent",
    "image",
    "pushedBytes",
];

impl Client {
    /// Replaces the whole status of an OverlaySnapshot. `generation` is the `metadata.generation` of the object that was
    /// reconciled: all conditions are as of it. Truncates messages that are longer than the API allows. Returns `None` if
    /// the OverlaySnapshot is gone.
    ///
    /// # Errors
    /// The error of the API server; of class [`Denied`](crate::error::Class::Denied) for the snapshot of another node.
    pub async fn report(
        &self,
        name: &str,
        generation: Option<i64>,
        status: &OverlaySnapshotStatus,
    ) -> Result<Option<OverlaySnapshot>, ClusterError> {
        self.patch_status(None, name, &json!({ "status": whole(status, generation) })).await
    }
}

fn whole(status: &OverlaySnapshotStatus, generation: Option<i64>) -> Value {
    let mut status = status.clone();
    for condition in &mut status.conditions {
        condition.observed_generation = generation.or(condition.observed_generation);
    }
    let conditions = status.conditions.iter_mut().map(|condition| &mut condition.message);
    for message in conditions.chain(&mut status.message) {
        *message = truncated(message, MESSAGE_MAX).to_owned();
    }
    let mut whole = json!(status);
    for field in FIELDS {
        if whole.get(field).is_none() {
            whole[field] = Value::Null;
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::overlay_snapshot::{Condition, Phase};

    #[test]
    fn fields_that_a_status_no_longer_has_are_removed() {
        let condition = Condition {
            r#type: "Captured".into(),
            status: "True".into(),
            observed_generation: Some(1),
            reason: "Captured".into(),
            message: "ä".repeat(MESSAGE_MAX),
            last_transition_time: "2026-01-02T03:04:05Z".into(),
        };
        let full = OverlaySnapshotStatus {
            phase: Some(Phase::Ready),
            conditions: vec![condition],
            message: Some("m".into()),
            capture_time: Some("2026-01-02T03:04:05Z".into()),
            cut_time: Some("2026-01-02T03:04:05Z".into()),
            frozen_micros: Some(1),
            entries: Some(2),
            bytes: Some(3),
            layers: Some(4),
            own_layers: Some(5),
            owner: Some("1:1".into()),
            parent: Some("snap-0".into()),
            image: Some("r.io/a@sha256:0".into()),
            pushed_bytes: Some(6),
        };
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let (written, empty) =
            (whole(&full, Some(2)), whole(&OverlaySnapshotStatus::default(), Some(2)));
        assert_eq!(names(&written), names(&empty));
        assert!(empty.as_object().unwrap().values().all(Value::is_null), "{empty}");
        assert_eq!(written["conditions"][0]["message"], "ä".repeat(MESSAGE_MAX / 2));
        assert_eq!(written["conditions"][0]["observedGeneration"], 2);
        assert_eq!(whole(&full, None)["conditions"][0]["observedGeneration"], 1);
    }
}
