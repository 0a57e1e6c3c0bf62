//! What the cluster wants: VolumeSnapshots become OverlaySnapshots and their contents, and the CSI controller calls are answered.
//!
//! ```text
//!  VolumeSnapshot ──requests──> OverlaySnapshot ──> its node
//!    ^     │  ^                    │   │
//!    │     └──┼──follow──> content │   └──leftovers──> removed by the node, then by us
//!    └─mirror─┼────────────────────┘
//!             └ stock snapshot-controller and csi-snapshotter bind it, and ask `snapshots` over CSI how far it is
//! ```
//!
//! One snapshot has one name everywhere: the OverlaySnapshot's, which is its CSI handle; for a VolumeSnapshot `snap-<uid>`. Everything
//! is decided by what the API server says at that moment, so that each step can be the last one before a crash:
//!
//! - The OverlaySnapshot is made before the content. A content without one is a snapshot that is lost, and is never cut anew: it would
//!   be another state under the old name.
//! - A VolumeSnapshot that goes before anybody has bound it takes content and OverlaySnapshot along; so does a content that goes
//!   without DeleteSnapshot, unless its policy was Retain.
//! - To be removed, an OverlaySnapshot says so (`spec.deleted`); its node removes what it has and says Deleted; then the object goes. A
//!   node that is gone, not ready or silent for too long is not waited for.
//!
//! May use: cluster, image
//!
//! Deliberately absent: anything of a node; it talks to nodes through OverlaySnapshots alone.

mod class;
mod error;
mod follow;
mod leftovers;
mod mirror;
mod names;
mod phases;
mod queue;
mod repository;
mod requests;
mod run;
mod snapshots;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use class::ParameterError;
pub use error::{ControllerError, NoCut};
pub use names::{SOURCE, id_of, is_subdomain, told, volume_handle};
pub use repository::RepositoryError;
pub use snapshots::{Page, Query, Snapshot};

use crate::{
    cluster::{About, Client, Event, Events, Severity, overlay_snapshot::ObjectId},
    metrics::Metrics,
};

/// The controller of one driver. Cheap to clone: clones are the same controller.
#[derive(Debug, Clone)]
pub struct Controller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    driver: String,
    events: Events,
    metrics: Metrics,
}

impl Controller {
    /// For the driver of this name; `identity` is what Events give as their host. A task on the runtime of whoever calls this
    /// writes those.
    pub fn new(client: Client, driver: &str, identity: &str, metrics: Metrics) -> Self {
        let events = Events::start(client.clone(), identity, driver);
        Self(Arc::new(Inner { client, driver: driver.to_owned(), events, metrics }))
    }

    /// Whether calls can be answered.
    ///
    /// # Errors
    /// That the API server does not answer.
    pub async fn ready(&self) -> Result<(), ControllerError> {
        Ok(self.0.client.reachable().await?)
    }

    fn client(&self) -> &Client {
        &self.0.client
    }

    /// Returns once all Events that were told are written or given up.
    pub async fn flush(&self) {
        self.0.events.flush().await;
    }

    /// Tells it to whoever looks at the VolumeSnapshot. Nothing waits for that to succeed.
    fn tell(&self, of: &ObjectId, severity: Severity, reason: &'static str, message: String) {
        let about = About::volume_snapshot(&of.namespace, &of.name, &of.uid);
        tracing::info!(namespace = of.namespace, snapshot = of.name, reason, message, "told");
        self.0.events.tell(Event { about, severity, reason, message });
    }
}
