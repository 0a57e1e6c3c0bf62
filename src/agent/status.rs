//! What is said of a snapshot.

use jiff::Timestamp;

use super::engine::Failure;
use crate::{
    cluster::overlay_snapshot::{Condition, OverlaySnapshotStatus, Phase},
    layers::SnapshotRecord,
    units,
};

/// The conditions, in the order in which they come true.
pub(super) const CUT: &str = "Cut";
pub(super) const SQUASHED: &str = "Squashed";
pub(super) const PUSHED: &str = "Pushed";
pub(super) const READY: &str = "Ready";

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
}

/// Says a condition in the status; since when, where it was otherwise before.
pub(super) fn say(
    status: &mut OverlaySnapshotStatus,
    r#type: &str,
    holds: Holds,
    reason: &str,
    message: impl Into<String>,
) {
    let holds = match holds {
        Holds::Yes => "True",
        Holds::No => "False",
    };
    let known = status.conditions.iter().position(|condition| condition.r#type == r#type);
    let same = known.map(|at| &status.conditions[at]).filter(|known| known.status == holds);
    let since = same.map_or_else(now, |known| known.last_transition_time.clone());
    let condition = Condition {
        r#type: r#type.to_owned(),
        status: holds.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        last_transition_time: since,
    };
    match known {
        Some(at) => status.conditions[at] = condition,
        None => status.conditions.push(condition),
    }
}

/// A condition, if it was said.
pub(super) fn condition<'a>(
    status: &'a OverlaySnapshotStatus,
    r#type: &str,
) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.r#type == r#type)
}

/// What a condition's reason is, if it was said.
pub(super) fn reason<'a>(status: &'a OverlaySnapshotStatus, r#type: &str) -> Option<&'a str> {
    condition(status, r#type).map(|condition| condition.reason.as_str())
}

/// Whether a condition is said to hold.
pub(super) fn holds(status: &OverlaySnapshotStatus, r#type: &str) -> bool {
    condition(status, r#type).is_some_and(|condition| condition.status == "True")
}

fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// It is being worked at.
pub(super) fn goes_on(status: &mut OverlaySnapshotStatus, phase: Phase, why: &str) {
    status.phase = Some(phase);
    status.message = None;
    say(status, READY, Holds::No, phase.word(), why);
}

/// It went wrong this time: `doing` is the condition that it was about.
pub(super) fn has_to_wait(status: &mut OverlaySnapshotStatus, doing: &str, failure: &Failure) {
    status.message = Some(failure.message.clone());
    say(status, doing, Holds::No, failure.reason(), &*failure.message);
}

/// It went wrong for good.
pub(super) fn failed(status: &mut OverlaySnapshotStatus, doing: &str, failure: &Failure) {
    has_to_wait(status, doing, failure);
    status.phase = Some(Phase::Failed);
    say(status, READY, Holds::No, "Failed", &*failure.message);
}

/// It is where it is to be.
pub(super) fn ready(status: &mut OverlaySnapshotStatus, node: &str) {
    status.phase = Some(Phase::Ready);
    status.message = None;
    match status.image.clone() {
        Some(image) => say(status, READY, Holds::Yes, "Pushed", image),
        None => say(status, READY, Holds::Yes, "Local", format!("it is on node {node} only")),
    }
}

/// Says what its record says.
pub(super) fn describe(status: &mut OverlaySnapshotStatus, record: &SnapshotRecord) {
    let count = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
    status.cut_time = Some(record.cut.to_string());
    status.frozen_micros = record.frozen_micros.and_then(count);
    status.entries = count(record.entries);
    status.bytes = count(record.bytes);
    status.layers = count(record.stack.len() as u64);
    status.own_layers = count(record.own as u64);
    status.owner = record.owner.map(|(uid, gid)| format!("{uid}:{gid}"));
    status.parent = record.parent.as_ref().map(ToString::to_string);
    status.image.clone_from(&record.pushed);
    say(status, CUT, Holds::Yes, "Cut", sentence(record));
}

/// How the cut went, as people read it.
pub(super) fn sentence(record: &SnapshotRecord) -> String {
    let stood = match record.frozen_micros {
        Some(micros) if micros < 10_000 => {
            format!("the pod stood still for {}.{} ms", micros / 1000, micros % 1000 / 100)
        }
        Some(micros) => format!("the pod stood still for {} ms", micros / 1000),
        None if record.ended => "the pod had ended".to_owned(),
        None => "the pod did not stand still".to_owned(),
    };
    let torn = match record.torn {
        0 => String::new(),
        1 => ", 1 file changed while it was copied".to_owned(),
        torn => format!(", {torn} files changed while they were copied"),
    };
    let entries = if record.entries == 1 { "entry" } else { "entries" };
    format!("{stood}, {} {entries}, {}{torn}", record.entries, units::bytes(record.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_knows_since_when() {
        let mut status = OverlaySnapshotStatus::default();
        say(&mut status, READY, Holds::No, "Cutting", "");
        status.conditions[0].last_transition_time = "long ago".into();
        say(&mut status, READY, Holds::No, "Pushing", "other words");
        let of = |status: &OverlaySnapshotStatus| status.conditions[0].last_transition_time.clone();
        assert_eq!((of(&status).as_str(), reason(&status, READY)), ("long ago", Some("Pushing")));
        say(&mut status, READY, Holds::Yes, "Local", "");
        assert_ne!(of(&status), "long ago");
        assert_eq!(status.conditions.len(), 1);
    }
}
