//! Removes orphans: contents without a VolumeSnapshot, and snapshots to which nothing refers or without a node.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{
    Controller,
    cached::{Content, Overlay},
    caches::SnapshotObjects,
    error::ReconcileError,
    names::{BEING_DELETED, DELETED_AT, id_of},
    run::Reconciler,
    turn::Turn,
};
use crate::{
    cluster::{
        Client, ClusterError, EventType, NodeState,
        overlay_snapshot::{ObjectId, OverlaySnapshot, Phase},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    dns_name::is_subdomain,
    format,
};

/// How long a node that is Ready may take to start the removal of a snapshot: the driver may not run there.
const START_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a node may take once it has started: it retries its registry for 15 minutes, perhaps once more after a
/// restart.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long a node may be not Ready: a late heartbeat does not mean that the node is lost.
const GRACE: Duration = Duration::from_secs(60);

/// The progress of the removal of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Removal {
    /// Its object can be deleted. The reason and the message of an Event say what remains.
    Done(Option<(&'static str, String)>),
    /// Its node has not finished the removal.
    Waiting,
}

impl Reconciler {
    /// Deletes the contents that this driver created for a VolumeSnapshot that is gone, unless their policy is
    /// `Retain`.
    pub(super) async fn delete_orphaned_contents(
        &self,
        turn: &Turn<'_>,
        snapshot: &SnapshotObjects,
    ) -> Result<(), ReconcileError> {
        for content in &snapshot.contents {
            let Some(reference) = &content.reference else { continue };
            // A content that an administrator wrote for one of our snapshots is theirs to delete.
            let made_here = content.handle.as_deref() == Some(&id_of(&reference.uid));
            let is_done = content.is_released && content.is_deleting;
            if !made_here || content.retains || is_done {
                continue;
            }
            let client = turn.client()?;
            if !exists(client, reference).await? {
                delete_content(client, content).await?;
            }
        }
        Ok(())
    }

    /// Removes a snapshot to which nothing refers, and marks a snapshot as failed whose node is gone.
    pub(super) async fn reconcile_overlay(
        &self,
        turn: &Turn<'_>,
        overlay: &Overlay,
        snapshot: &SnapshotObjects,
    ) -> Result<(), ReconcileError> {
        if overlay.is_deleted {
            return self.finish_removal(turn, overlay).await;
        }
        if self.is_referenced(turn, overlay, snapshot).await? {
            return self.fail_without_node(turn, overlay).await;
        }
        turn.client()?;
        match self.controller.mark_deleted(overlay).await? {
            Some(marked) => self.finish_removal(turn, &marked).await,
            None => Ok(()),
        }
    }

    /// Deletes the object of a removed snapshot once its node is done, or is not waited for.
    async fn finish_removal(
        &self,
        turn: &Turn<'_>,
        overlay: &Overlay,
    ) -> Result<(), ReconcileError> {
        let waiting = || ReconcileError::Removing(overlay.node.clone());
        let mut node = self.caches.node(&overlay.node);
        if removal(overlay, node) == Removal::Waiting {
            return Err(waiting());
        }
        let client = turn.client()?;
        if overlay.status.phase != Some(Phase::Deleted) {
            // What the cache says of the node may be old.
            node = client.node(&overlay.node).await?;
        }
        match self.controller.finish_removal(overlay, node).await? {
            true => Ok(()),
            false => Err(waiting()),
        }
    }

    /// Whether a snapshot still has a VolumeSnapshot or a content, or had one with the policy `Retain`.
    async fn is_referenced(
        &self,
        turn: &Turn<'_>,
        overlay: &Overlay,
        snapshot: &SnapshotObjects,
    ) -> Result<bool, ReconcileError> {
        // A snapshot of the CSI call CreateSnapshot is removed by DeleteSnapshot.
        let Some(reference) = &overlay.reference else { return Ok(true) };
        let known = snapshot.request.is_some() || !snapshot.contents.is_empty();
        if known || overlay.retained == Some(true) {
            return Ok(true);
        }
        let client = turn.client()?;
        if exists(client, reference).await? {
            return Ok(true);
        }
        let has_handle = |content: &VolumeSnapshotContent| {
            content.spec.driver == overlay.driver
                && content.spec.source.snapshot_handle.as_deref() == Some(&overlay.name)
        };
        match &overlay.content {
            Some(name) => {
                let content = client.get::<VolumeSnapshotContent>(None, name).await?;
                Ok(content.is_some_and(|content| has_handle(&content)))
            }
            // An earlier version created it, so the name of its content is not known.
            None => {
                let contents = client.list::<VolumeSnapshotContent>().await?;
                Ok(contents.iter().any(has_handle))
            }
        }
    }
}

impl Controller {
    /// Deletes the object of a snapshot whose removal was requested, and reports what remains. `false`: its node has
    /// not finished the removal.
    pub(super) async fn finish_removal(
        &self,
        overlay: &Overlay,
        node: NodeState,
    ) -> Result<bool, ClusterError> {
        let Removal::Done(remains) = removal(overlay, node) else { return Ok(false) };
        if let Some((reason, message)) = remains {
            tracing::warn!(snapshot = overlay.name, message, "snapshot removed incompletely");
            // A snapshot of the CSI call CreateSnapshot has no VolumeSnapshot for an Event.
            if let Some(of) = &overlay.reference {
                self.record_event(of, EventType::Warning, reason, message);
            }
        }
        self.requeue_removed(overlay).await?;
        self.client().delete::<OverlaySnapshot>(None, &overlay.name, &overlay.uid).await?;
        Ok(true)
    }

    /// Sets `spec.deleted`, which cannot be undone. Returns `None` if the object is gone.
    pub(super) async fn mark_deleted(
        &self,
        overlay: &Overlay,
    ) -> Result<Option<Overlay>, ClusterError> {
        let since = Timestamp::now().to_string();
        let changes = json!({
            "metadata": {"uid": overlay.uid, "annotations": {DELETED_AT: since}},
            "spec": {"deleted": true},
        });
        let marked = self.client().patch::<OverlaySnapshot>(None, &overlay.name, &changes).await?;
        Ok(marked.map(Overlay::from))
    }
}

/// Whether the removal of a snapshot has ended, with its node in this state.
fn removal(overlay: &Overlay, state: NodeState) -> Removal {
    let (node, phase) = (&overlay.node, overlay.status.phase);
    if phase == Some(Phase::Deleted) {
        // In this phase, the message of the node says what it could not remove.
        let remains = overlay.status.message.as_deref().filter(|remains| !remains.is_empty());
        return Removal::Done(remains.map(|remains| {
            ("ImageNotDeleted", format!("node {node} deleted the snapshot, but {remains}"))
        }));
    }
    let timeout = match phase {
        Some(Phase::Deleting) => REMOVAL_TIMEOUT,
        _ => START_TIMEOUT,
    };
    let why = match state {
        NodeState::Gone => "is gone".to_owned(),
        NodeState::NotReady(since) if is_longer(since, GRACE) => "is not Ready".to_owned(),
        NodeState::Ready if is_longer(overlay.deleted_at, timeout) => {
            format!("did not delete it within {}", format::span(timeout))
        }
        NodeState::Ready | NodeState::NotReady(_) => return Removal::Waiting,
    };
    let (reason, image) = match &overlay.repository {
        Some(repository) => (
            "ImageNotDeleted",
            format!(
                "the image may still be in {repository}, where an administrator must delete it: "
            ),
        ),
        None => ("DeletedWithoutNode", String::new()),
    };
    let message = format!(
        "{image}the snapshot was deleted without node {node}, which {why}; the node deletes its layers when it is back"
    );
    Removal::Done(Some((reason, message)))
}

/// Deletes a content, and lets csi-snapshotter delete it.
async fn delete_content(client: &Client, content: &Content) -> Result<(), ClusterError> {
    if !content.is_released {
        tracing::info!(content = content.name, "deleting a content: its VolumeSnapshot is gone");
        let annotations = json!({BEING_DELETED: "yes"});
        let changes = json!({"metadata": {"uid": content.uid, "annotations": annotations}});
        client.patch::<VolumeSnapshotContent>(None, &content.name, &changes).await?;
    }
    if !content.is_deleting {
        client.delete::<VolumeSnapshotContent>(None, &content.name, &content.uid).await?;
    }
    Ok(())
}

/// Whether this VolumeSnapshot still exists, and not another one of the same name.
async fn exists(client: &Client, reference: &ObjectId) -> Result<bool, ClusterError> {
    let ObjectId { namespace, name, uid } = reference;
    if ![namespace, name].into_iter().all(|name| is_subdomain(name)) {
        // No object can have this name, and it must not become a part of a request path.
        return Ok(false);
    }
    let found = client.get::<VolumeSnapshot>(Some(namespace), name).await?;
    Ok(found.is_some_and(|found| found.metadata.uid.as_ref() == Some(uid)))
}

/// Whether a time is longer ago than a duration. An unknown time counts as longer ago.
fn is_longer(since: Option<Timestamp>, than: Duration) -> bool {
    since.is_none_or(|since| {
        Timestamp::now().duration_since(since) > than.try_into().unwrap_or_default()
    })
}
