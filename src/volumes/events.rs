//! What a pod's owner is told beside the answer to a call.

use std::fmt;

use super::Pod;

/// Takes notices to where a pod's owner sees them: in a cluster, the pod's Events. Never blocks, never fails: a notice is a
/// courtesy.
pub trait EventRecorder: Send + Sync + fmt::Debug {
    /// Tells it. The same notice again may be dropped or counted.
    fn record(&self, pod: &Pod, notice: PodEvent);
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// How bad it is.
    pub kind: PodEventType,
    /// One word in CamelCase, for programs (an Event's `reason`).
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

/// How bad a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEventType {
    /// Good to know.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Tells nobody: a node without a cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl EventRecorder for NoEvents {
    fn record(&self, _: &Pod, _: PodEvent) {}
}
