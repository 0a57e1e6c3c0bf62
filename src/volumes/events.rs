//! The Events of pods: messages for the user of a pod in addition to the response of a call.

use std::fmt;

use super::Pod;

/// Records Events where the pod's user sees them: in a cluster, as Events of the pod. It never blocks and never fails,
/// because nothing depends on an Event.
pub trait EventRecorder: Send + Sync + fmt::Debug {
    /// Records an Event. A repeated Event may be dropped or counted.
    fn record(&self, pod: &Pod, event: PodEvent);
}

/// One Event of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// The type of the Event.
    pub kind: PodEventType,
    /// One word in CamelCase, for programs (an Event's `reason`).
    pub reason: &'static str,
    /// The message, a sentence.
    pub message: String,
}

/// The type of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEventType {
    /// For information.
    Normal,
    /// The user should act on it.
    Warning,
}

/// Records nothing: for a node without a cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl EventRecorder for NoEvents {
    fn record(&self, _: &Pod, _: PodEvent) {}
}
