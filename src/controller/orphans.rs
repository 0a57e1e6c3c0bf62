//! Removes orphans: contents without a VolumeSnapshot, and snapshots without an owner or without a node.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{
    Controller, ControllerError,
    bind::name_of,
    names::{DELETED_AT, POLICY, id_of},
    status_annotations,
    volume_snapshot::Action,
};
use crate::{
    cluster::{
        EventType, NodeState,
        overlay_snapshot::{ObjectId, OverlaySnapshot, Phase},
        snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
    },
    dns_name::is_subdomain,
    format,
};

/// Without this annotation, csi-snapshotter does not delete a content: it waits for the VolumeSnapshot, which is gone.
/// The snapshot-controller sets it, unless the VolumeSnapshot was deleted before it was bound.
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
/// How long a node that is Ready may take to start the removal of a snapshot: its plugin may be gone.
const START_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a node may take once it has started: it retries its registry for 15 minutes, perhaps once more after a
/// restart.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long a node may be not Ready: a late heartbeat does not mean that the node is lost.
const GRACE: Duration = Duration::from_secs(60);

/// The progress of the removal of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Gone,
    /// Its node has not finished the removal.
    Waiting,
}

impl Controller {
    /// Deletes a content of this driver whose VolumeSnapshot is gone, unless its policy is `Retain`.
    pub(super) async fn orphaned_content(&self, name: &str) -> Result<Action, ControllerError> {
        if !is_subdomain(name) {
            // The name comes from the spec of a deleted VolumeSnapshot, which may contain any text.
            return Ok(Action::Gone);
        }
        let Some(content) = self.client().get::<VolumeSnapshotContent>(None, name).await? else {
            return Ok(Action::Gone);
        };
        let spec = &content.spec;
        let of = &spec.volume_snapshot_ref;
        let (Some(namespace), Some(name_of), Some(uid)) = (&of.namespace, &of.name, &of.uid) else {
            return Ok(Action::Nothing);
        };
        // A content that an administrator wrote for one of our snapshots is theirs to delete.
        let made_here = spec.driver == self.0.driver
            && spec.source.snapshot_handle.as_deref() == Some(&id_of(uid));
        if !made_here
            || spec.deletion_policy != "Delete"
            || self.is_there(namespace, name_of, uid).await?
        {
            return Ok(Action::Nothing);
        }
        let annotations = content.metadata.annotations.as_ref();
        if !annotations.is_some_and(|annotations| annotations.contains_key(BEING_DELETED)) {
            tracing::info!(content = name, "deleting a content: its VolumeSnapshot is gone");
            let changes = json!({"metadata": {"uid": content.metadata.uid, "annotations": {BEING_DELETED: "yes"}}});
            self.client().patch::<VolumeSnapshotContent>(None, name, &changes).await?;
        }
        if content.metadata.deletion_timestamp.is_none() {
            let uid = content.metadata.uid.as_deref().unwrap_or_default();
            self.client().delete::<VolumeSnapshotContent>(None, name, uid).await?;
        }
        Ok(Action::Nothing)
    }

    /// Removes a snapshot without an owner, and marks a snapshot as failed whose node is gone.
    pub(super) async fn orphaned_snapshot(&self, id: &str) -> Result<Action, ControllerError> {
        let Some(made) = self.client().get::<OverlaySnapshot>(None, id).await? else {
            return Ok(Action::Gone);
        };
        if made.spec.driver != self.0.driver {
            return Ok(Action::Nothing);
        }
        if !made.spec.deleted && self.is_wanted(&made).await? {
            self.fail_without_node(&made).await?;
            let phase = made.status.as_ref().and_then(|status| status.phase);
            // A node that disappears changes nothing here, so the snapshot is checked again until it has ended.
            return Ok(match phase {
                Some(Phase::Ready | Phase::Failed) => Action::Nothing,
                _ => Action::Again,
            });
        }
        match self.remove(&made).await? {
            Removal::Gone => Ok(Action::Gone),
            Removal::Waiting => Ok(Action::Again),
        }
    }

    /// Requests the removal of a snapshot from its node, and deletes the object once the node is done or is not waited
    /// for.
    pub(super) async fn remove(&self, made: &OverlaySnapshot) -> Result<Removal, ControllerError> {
        let made = match made.spec.deleted {
            true => made.clone(),
            false => match self.mark_deleted(made).await? {
                Some(marked) => marked,
                None => return Ok(Removal::Gone),
            },
        };
        let node = &made.spec.node_name;
        let phase = status_annotations::phase(&made);
        if phase == Some(Phase::Deleted) {
            // In this phase, the message of the node says what it could not remove.
            let left = made.status.as_ref().and_then(|status| status.message.as_deref());
            if let Some(left) = left.filter(|left| !left.is_empty()) {
                let message = format!("node {node} deleted the snapshot, but {left}");
                self.report_remains(&made, "ImageNotDeleted", message);
            }
        } else {
            let timeout = match phase {
                Some(Phase::Deleting) => REMOVAL_TIMEOUT,
                _ => START_TIMEOUT,
            };
            let why = match self.client().node(node).await? {
                NodeState::Gone => "is gone".to_owned(),
                NodeState::NotReady(since) if is_longer(since, GRACE) => "is not Ready".to_owned(),
                NodeState::Ready if is_overdue(&made, timeout) => {
                    format!("did not delete it within {}", format::span(timeout))
                }
                NodeState::Ready | NodeState::NotReady(_) => return Ok(Removal::Waiting),
            };
            let (reason, image) = match &made.spec.repository {
                Some(repository) => (
                    "ImageNotDeleted",
                    format!(
                        "the image may still be in {repository}, where an administrator must delete it: "
                    ),
                ),
                None => ("DeletedWithoutNode", String::new()),
            };
            let message = format!(
                "{image}the snapshot was deleted without node {node}, which {why}; the node deletes its layers when it \
                 is back"
            );
            self.report_remains(&made, reason, message);
        }
        let uid = made.metadata.uid.as_deref().unwrap_or_default();
        self.client().delete::<OverlaySnapshot>(None, &name_of(&made), uid).await?;
        Ok(Removal::Gone)
    }

    /// Reports what remains of a removed snapshot. A snapshot of the CSI call CreateSnapshot has no VolumeSnapshot for
    /// an Event.
    fn report_remains(&self, made: &OverlaySnapshot, reason: &'static str, message: String) {
        tracing::warn!(snapshot = name_of(made), message, "snapshot removed incompletely");
        if let Some(of) = &made.spec.volume_snapshot {
            self.record_event(of, EventType::Warning, reason, message);
        }
    }

    /// Sets `spec.deleted`, which cannot be undone. Returns `None` if the object is gone.
    pub(super) async fn mark_deleted(
        &self,
        made: &OverlaySnapshot,
    ) -> Result<Option<OverlaySnapshot>, ControllerError> {
        let since = Timestamp::now().to_string();
        let changes = json!({
            "metadata": {"uid": made.metadata.uid, "annotations": {DELETED_AT: since}},
            "spec": {"deleted": true},
        });
        Ok(self.client().patch::<OverlaySnapshot>(None, &name_of(made), &changes).await?)
    }

    /// Whether a snapshot still has a VolumeSnapshot or a content, or had one with the policy `Retain`.
    async fn is_wanted(&self, made: &OverlaySnapshot) -> Result<bool, ControllerError> {
        // A snapshot of the CSI call CreateSnapshot is removed by DeleteSnapshot.
        let Some(ObjectId { namespace, name, uid }) = &made.spec.volume_snapshot else {
            return Ok(true);
        };
        let kept = made.metadata.annotations.as_ref().and_then(|notes| notes.get(POLICY));
        if kept.is_some_and(|policy| policy == "Retain")
            || self.is_there(namespace, name, uid).await?
        {
            return Ok(true);
        }
        let id = name_of(made);
        let contents = self.client().list::<VolumeSnapshotContent>().await?;
        Ok(contents.iter().any(|content| {
            content.spec.driver == self.0.driver
                && content.spec.source.snapshot_handle.as_deref() == Some(&id)
        }))
    }

    /// Whether this VolumeSnapshot still exists, and not another one of the same name.
    async fn is_there(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<bool, ControllerError> {
        let found = self.client().get::<VolumeSnapshot>(Some(namespace), name).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid)))
    }
}

/// Whether the removal has taken longer than the timeout. Without a readable start time it has.
fn is_overdue(made: &OverlaySnapshot, timeout: Duration) -> bool {
    let since = made.metadata.annotations.as_ref().and_then(|notes| notes.get(DELETED_AT));
    is_longer(since.and_then(|since| since.parse().ok()), timeout)
}

/// Whether a time is longer ago than a duration. An unknown time is.
fn is_longer(since: Option<Timestamp>, than: Duration) -> bool {
    since.is_none_or(|since| {
        Timestamp::now().duration_since(since) > than.try_into().unwrap_or_default()
    })
}
