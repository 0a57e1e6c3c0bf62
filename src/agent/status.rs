//! Builds the status of an OverlaySnapshot: phase, message and conditions.

use std::time::Duration;

use jiff::Timestamp;

use super::engine::Failure;
use crate::{
    cluster::overlay_snapshot::{Condition, NOT_IN_REGISTRY, OverlaySnapshotStatus, Phase},
    format,
    layers::SnapshotRecord,
};

/// The types of the conditions, in the order in which they become true.
pub(super) use crate::cluster::overlay_snapshot::CAPTURED;
pub(super) const SQUASHED: &str = "Squashed";
pub(super) const PUSHED: &str = "Pushed";
pub(super) const READY: &str = "Ready";

/// The status of a condition: true or false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConditionStatus {
    Yes,
    No,
}

/// Sets a condition. Its transition time changes only if the condition's status changes.
pub(super) fn set_condition(
    status: &mut OverlaySnapshotStatus,
    r#type: &str,
    condition_status: ConditionStatus,
    reason: &str,
    message: impl Into<String>,
) {
    let condition_status = match condition_status {
        ConditionStatus::Yes => "True",
        ConditionStatus::No => "False",
    };
    let known = status.conditions.iter().position(|condition| condition.r#type == r#type);
    let known_condition = known.map(|at| &status.conditions[at]);
    // The generation is set when the status is written.
    let observed_generation = known_condition.and_then(|known| known.observed_generation);
    let same = known_condition.filter(|known| known.status == condition_status);
    let since = same.map_or_else(now, |known| known.last_transition_time.clone());
    let condition = Condition {
        r#type: r#type.to_owned(),
        status: condition_status.to_owned(),
        observed_generation,
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: since,
    };
    match known {
        Some(at) => status.conditions[at] = condition,
        None => status.conditions.push(condition),
    }
}

/// The condition of this type, if the status has it.
pub(super) fn condition<'a>(
    status: &'a OverlaySnapshotStatus,
    r#type: &str,
) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.r#type == r#type)
}

/// The reason of a condition, if the status has it.
pub(super) fn reason<'a>(status: &'a OverlaySnapshotStatus, r#type: &str) -> Option<&'a str> {
    condition(status, r#type).map(|condition| condition.reason.as_str())
}

/// Whether a condition is false. One that the status does not have is neither true nor false.
pub(super) fn is_false(status: &OverlaySnapshotStatus, r#type: &str) -> bool {
    condition(status, r#type).is_some_and(|condition| condition.status == "False")
}

/// Whether a condition is true.
pub(super) fn is_true(status: &OverlaySnapshotStatus, r#type: &str) -> bool {
    condition(status, r#type).is_some_and(|condition| condition.status == "True")
}

fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Sets the phase of a step that is under way. The snapshot is not ready.
pub(super) fn set_progress(status: &mut OverlaySnapshotStatus, phase: Phase, why: &str) {
    status.phase = Some(phase);
    status.message = None;
    set_condition(status, READY, ConditionStatus::No, phase.word(), why);
}

/// Records a failure of this try. `r#type` is the condition of the step that failed; the phase does not change.
pub(super) fn set_waiting(status: &mut OverlaySnapshotStatus, r#type: &str, failure: &Failure) {
    status.message = Some(failure.message.clone());
    set_condition(status, r#type, ConditionStatus::No, failure.reason(), &*failure.message);
}

/// Records a failure for good. `r#type` is the condition of the step that failed.
pub(super) fn failed(status: &mut OverlaySnapshotStatus, r#type: &str, failure: &Failure) {
    set_waiting(status, r#type, failure);
    status.phase = Some(Phase::Failed);
    set_condition(status, READY, ConditionStatus::No, "Failed", &*failure.message);
}

/// Records that the registry does not have the pushed image any more, and that it cannot be pushed again.
pub(super) fn not_in_registry(status: &mut OverlaySnapshotStatus, message: &str) {
    status.phase = Some(Phase::NotInRegistry);
    status.message = Some(message.to_owned());
    for r#type in [PUSHED, READY] {
        set_condition(status, r#type, ConditionStatus::No, NOT_IN_REGISTRY, message);
    }
}

/// Marks a snapshot as ready: pushed, or on its node where it has no repository.
pub(super) fn ready(status: &mut OverlaySnapshotStatus, node: &str) {
    status.phase = Some(Phase::Ready);
    status.message = None;
    match status.image.clone() {
        Some(image) => set_condition(status, READY, ConditionStatus::Yes, "Pushed", image),
        None => set_condition(
            status,
            READY,
            ConditionStatus::Yes,
            "OnNode",
            format!("it is only on node {node}"),
        ),
    }
}

/// Copies the figures of the record into the status, and sets the condition [`CAPTURED`].
pub(super) fn describe(status: &mut OverlaySnapshotStatus, record: &SnapshotRecord) {
    let count = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    status.capture_time = Some(record.captured_at.to_string());
    status.cut_time = None;
    status.frozen_micros = record.frozen_micros.and_then(count);
    status.entries = count(record.entries);
    status.bytes = count(record.bytes);
    status.layers = count(record.stack.len() as u64);
    status.own_layers = count(record.own_layers as u64);
    status.owner = record.owner.map(|owner| owner.to_string());
    status.parent = record.parent.as_ref().map(ToString::to_string);
    status.image.clone_from(&record.pushed);
    set_condition(status, CAPTURED, ConditionStatus::Yes, CAPTURED, summary(record));
}

/// A summary of the capture, for Events and the condition.
pub(super) fn summary(record: &SnapshotRecord) -> String {
    let frozen = match record.frozen_micros {
        Some(micros) => {
            format!("the pod was frozen for {}", format::span(Duration::from_micros(micros)))
        }
        None if record.ended => "the pod had ended".to_owned(),
        None => "the pod was not frozen".to_owned(),
    };
    let torn = match record.torn {
        0 => String::new(),
        1 => "; 1 file is inconsistent, because it changed during each copy".to_owned(),
        torn => format!("; {torn} files are inconsistent, because they changed during each copy"),
    };
    let entries = if record.entries == 1 { "entry" } else { "entries" };
    format!("{} {entries}, {}; {frozen}{torn}", record.entries, format::bytes(record.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_of_a_condition_changes_only_with_its_status() {
        let mut status = OverlaySnapshotStatus::default();
        set_condition(&mut status, READY, ConditionStatus::No, "Capturing", "");
        status.conditions[0].last_transition_time = "long ago".into();
        set_condition(&mut status, READY, ConditionStatus::No, "Pushing", "another message");
        let of = |status: &OverlaySnapshotStatus| status.conditions[0].last_transition_time.clone();
        assert_eq!((of(&status).as_str(), reason(&status, READY)), ("long ago", Some("Pushing")));
        set_condition(&mut status, READY, ConditionStatus::Yes, "OnNode", "");
        assert_ne!(of(&status), "long ago");
        assert_eq!(status.conditions.len(), 1);
    }
}
