//! The snapshot controller: reconciles VolumeSnapshots into OverlaySnapshots and their contents, and implements the CSI
//! snapshot calls, which `csi` serves.
//!
//! ```text
//!  VolumeSnapshot ──volume_snapshot──> OverlaySnapshot ──> its node
//!    ^     │  ^                           │   │
//!    │     └──┼──bind──> content          │   └──orphans──> removed by the node, then by the controller
//!    │        │                           │
//!    └────────┼─── status_annotations ────┘
//!             └ stock snapshot-controller and csi-snapshotter bind it, and query `snapshots` over CSI for its progress
//! ```
//!
//! A snapshot has one id everywhere: the name of its OverlaySnapshot. This is also its CSI handle. For a VolumeSnapshot
//! it is `snap-<uid>`; users know the snapshot by the name of the VolumeSnapshot. The leader watches all these objects.
//! Whatever changes, it reconciles the whole snapshot of that id (`run`). A reconcile reads caches (`caches`), which
//! may be old. So a crash between any two steps, an old cache, and two leaders at once do no harm:
//!
//! - What is created has a name that is the same in each try. What is changed is named by uid, or by resource version.
//! - Before something is deleted or given up, the API server is read.
//! - The OverlaySnapshot is created before the content. A content without an OverlaySnapshot means that the snapshot is
//!   lost. It is never captured again, because that would be another state under the old name.
//! - If a VolumeSnapshot is deleted before it is bound, its content and OverlaySnapshot are deleted too. If a content
//!   is deleted without a DeleteSnapshot call, its OverlaySnapshot is deleted, unless the policy was `Retain`.
//! - To remove a snapshot, the controller sets `spec.deleted` of the OverlaySnapshot. The node removes its part and
//!   reports `Deleted`. Then the controller deletes the object. It does not wait for a node that is gone, not ready, or
//!   silent for too long.
//!
//! It also assigns OverlayDiffs to nodes, and deletes them after some minutes (`diffs`).
//!
//! May use: cluster
//!
//! Deliberately absent: all work on a node. The controller communicates with nodes only through OverlaySnapshots and
//! OverlayDiffs.

mod bind;
mod cached;
mod caches;
mod diff_node;
mod diffs;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod names;
mod orphans;
mod parameters;
mod repository;
mod run;
mod snapshots;
mod status_annotations;
#[cfg(test)]
mod tests;
mod turn;
mod volume_snapshot;

use std::sync::Arc;

pub use error::{ControllerError, NotCapturable};
pub use names::{id_of, volume_handle};
pub use parameters::ParameterError;
pub use repository::RepositoryError;
pub use snapshots::{CsiSnapshot, Page, Query};

use crate::{
    cluster::{Client, Event, EventType, Events, Regarding, overlay_snapshot::ObjectId},
    metrics::Metrics,
};

/// The controller of one driver. Cheap to clone: clones are the same controller.
#[derive(Debug, Clone)]
pub struct Controller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    driver: String,
    /// `None`: no Events are written.
    events: Option<Events>,
    metrics: Metrics,
}

impl Controller {
    /// The controller of the driver of this name. Without `events`, it writes none.
    pub fn new(client: Client, driver: &str, events: Option<Events>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { client, driver: driver.to_owned(), events, metrics }))
    }

    /// Checks that calls can be served.
    ///
    /// # Errors
    /// The API server does not respond.
    pub async fn ready(&self) -> Result<(), ControllerError> {
        Ok(self.0.client.reachable().await?)
    }

    fn client(&self) -> &Client {
        &self.0.client
    }

    /// Returns once all recorded Events are written or given up.
    pub async fn flush(&self) {
        if let Some(events) = &self.0.events {
            events.flush().await;
        }
    }

    /// Logs an Event on a VolumeSnapshot, and records it unless Events are off. Does not wait until it is written.
    fn record_event(
        &self,
        of: &ObjectId,
        severity: EventType,
        reason: &'static str,
        message: String,
    ) {
        let about = Regarding::volume_snapshot(&of.namespace, &of.name, &of.uid);
        tracing::info!(
            namespace = of.namespace,
            snapshot = of.name,
            reason,
            message,
            "recording an Event"
        );
        if let Some(events) = &self.0.events {
            events.record(Event { regarding: about, event_type: severity, reason, message });
        }
    }
}
