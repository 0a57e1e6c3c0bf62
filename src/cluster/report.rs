//! What a node says of a snapshot, on its way into the object's status.

use serde_json::{Value, json};

use super::{
    Client, ClusterError,
    overlay_snapshot::{MESSAGE_MAX, OverlaySnapshot, OverlaySnapshotStatus},
    recorder::cut,
};

/// Every field of a status: what is not said any more has to be taken away by name.
const FIELDS: [&str; 13] = [
    "phase",
    "conditions",
    "message",
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
    /// Puts what a node says of a snapshot in the place of what it said before. Sentences are cut where the API takes no longer
    /// ones. `None`: there is no such snapshot any more.
    ///
    /// # Errors
    /// The API server's; of class [`Denied`](crate::fault::Class::Denied) for another node's snapshot.
    pub async fn report(
        &self,
        name: &str,
        status: &OverlaySnapshotStatus,
    ) -> Result<Option<OverlaySnapshot>, ClusterError> {
        self.patch_status(None, name, &json!({ "status": whole(status) })).await
    }
}

fn whole(status: &OverlaySnapshotStatus) -> Value {
    let mut status = status.clone();
    let conditions = status.conditions.iter_mut().map(|condition| &mut condition.message);
    for sentence in conditions.chain(&mut status.message) {
        *sentence = cut(sentence, MESSAGE_MAX).to_owned();
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
    fn what_is_not_said_any_more_is_taken_away() {
        let condition = Condition {
            r#type: "Cut".into(),
            status: "True".into(),
            reason: "Cut".into(),
            message: "ä".repeat(MESSAGE_MAX),
            last_transition_time: "2026-01-02T03:04:05Z".into(),
        };
        let full = OverlaySnapshotStatus {
            phase: Some(Phase::Ready),
            conditions: vec![condition],
            message: Some("m".into()),
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
        let (said, unsaid) = (whole(&full), whole(&OverlaySnapshotStatus::default()));
        assert_eq!(names(&said), names(&unsaid));
        assert!(unsaid.as_object().unwrap().values().all(Value::is_null), "{unsaid}");
        assert_eq!(said["conditions"][0]["message"], "ä".repeat(MESSAGE_MAX / 2));
    }
}
