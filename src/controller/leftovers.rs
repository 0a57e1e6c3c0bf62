//! What nobody wants any more goes, whatever was left undone before.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{
    Controller, ControllerError,
    follow::name_of,
    mirror,
    names::{DELETED_AT, POLICY, id_of, is_subdomain},
    requests::Next,
};
use crate::cluster::{
    NodeState, Severity,
    overlay_snapshot::{ObjectId, OverlaySnapshot, Phase},
    snapshot_api::{VolumeSnapshot, VolumeSnapshotContent},
};

/// Without it csi-snapshotter lets a content wait for its VolumeSnapshot, which is gone. Set by the snapshot-controller, unless the
/// VolumeSnapshot went before it was bound.
const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
/// How long a node that is Ready may not begin with a snapshot that it is to remove: its plugin may have gone.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// How long one may take that is at it: it asks its registry for a quarter of an hour, perhaps once more after a restart.
const PATIENCE_AT_WORK: Duration = Duration::from_secs(30 * 60);

/// How long one may be not Ready: a late heartbeat is no end.
const GRACE: Duration = Duration::from_secs(60);

/// How far the removal of a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Gone,
    /// Its node works on it.
    Waiting,
}

impl Controller {
    /// Looks at a content for which there may be no VolumeSnapshot.
    pub(super) async fn leftover_content(&self, name: &str) -> Result<Next, ControllerError> {
        if !is_subdomain(name) {
            // A VolumeSnapshot that is gone wanted it.
            return Ok(Next::Gone);
        }
        let Some(content) = self.client().get::<VolumeSnapshotContent>(None, name).await? else {
            return Ok(Next::Gone);
        };
        let spec = &content.spec;
        let of = &spec.volume_snapshot_ref;
        let (Some(namespace), Some(name_of), Some(uid)) = (&of.namespace, &of.name, &of.uid) else {
            return Ok(Next::Nothing);
        };
        // One that somebody else wrote for a snapshot of ours is theirs to delete.
        let made_here = spec.driver == self.0.driver
            && spec.source.snapshot_handle.as_deref() == Some(&id_of(uid));
        if !made_here
            || spec.deletion_policy != "Delete"
            || self.is_there(namespace, name_of, uid).await?
        {
            return Ok(Next::Nothing);
        }
        let marks = content.metadata.annotations.as_ref();
        if !marks.is_some_and(|marks| marks.contains_key(BEING_DELETED)) {
            tracing::info!(content = name, "its VolumeSnapshot is gone: it goes too");
            let changes = json!({"metadata": {"uid": content.metadata.uid, "annotations": {BEING_DELETED: "yes"}}});
            self.client().patch::<VolumeSnapshotContent>(None, name, &changes).await?;
        }
        if content.metadata.deletion_timestamp.is_none() {
            let uid = content.metadata.uid.as_deref().unwrap_or_default();
            self.client().delete::<VolumeSnapshotContent>(None, name, uid).await?;
        }
        Ok(Next::Nothing)
    }

    /// Looks at a snapshot that may be wanted by nobody, or whose node may be gone.
    pub(super) async fn leftover_snapshot(&self, id: &str) -> Result<Next, ControllerError> {
        let Some(made) = self.client().get::<OverlaySnapshot>(None, id).await? else {
            return Ok(Next::Gone);
        };
        if made.spec.driver != self.0.driver {
            return Ok(Next::Nothing);
        }
        if !made.spec.deleted && self.is_wanted(&made).await? {
            self.fail_without_node(&made).await?;
            let phase = made.status.as_ref().and_then(|status| status.phase);
            // A node that goes says nothing, so it is looked at until it is done.
            return Ok(match phase {
                Some(Phase::Ready | Phase::Failed) => Next::Nothing,
                _ => Next::Again,
            });
        }
        match self.remove(&made).await? {
            Removal::Gone => Ok(Next::Gone),
            Removal::Waiting => Ok(Next::Again),
        }
    }

    /// Has a snapshot removed from its node, and then removes the object.
    pub(super) async fn remove(&self, made: &OverlaySnapshot) -> Result<Removal, ControllerError> {
        let made = match made.spec.deleted {
            true => made.clone(),
            false => match self.mark_deleted(made).await? {
                Some(marked) => marked,
                None => return Ok(Removal::Gone),
            },
        };
        let node = &made.spec.node_name;
        let phase = mirror::phase(&made);
        if phase == Some(Phase::Deleted) {
            // What a node has to say then is what it could not remove.
            let left = made.status.as_ref().and_then(|status| status.message.as_deref());
            if let Some(left) = left.filter(|left| !left.is_empty()) {
                self.left_behind(&made, format!("removed by node {node}: {left}"));
            }
        } else {
            let patience = match phase {
                Some(Phase::Deleting) => PATIENCE_AT_WORK,
                _ => PATIENCE,
            };
            let why = match self.client().node(node).await? {
                NodeState::Gone => "is gone".to_owned(),
                NodeState::NotReady(since) if is_longer(since, GRACE) => "is not Ready".to_owned(),
                NodeState::Ready if is_overdue(&made, patience) => {
                    format!("has not done it in {} minutes", patience.as_secs() / 60)
                }
                NodeState::Ready | NodeState::NotReady(_) => return Ok(Removal::Waiting),
            };
            let left = match made.spec.repository.is_some() {
                true => "; what it pushed may be left in the registry",
                false => "",
            };
            let message = format!(
                "removed without node {node}, which {why}: it removes its own part when it is back{left}"
            );
            self.left_behind(&made, message);
        }
        let uid = made.metadata.uid.as_deref().unwrap_or_default();
        self.client().delete::<OverlaySnapshot>(None, &name_of(&made), uid).await?;
        Ok(Removal::Gone)
    }

    /// Tells what is left of a snapshot that goes; one that CSI asked for has nobody in a namespace who could be told.
    fn left_behind(&self, made: &OverlaySnapshot, message: String) {
        tracing::warn!(snapshot = name_of(made), message, "removed");
        if let Some(of) = &made.spec.volume_snapshot {
            self.tell(of, Severity::Warning, "SnapshotLeftBehind", message);
        }
    }

    /// From here on there is no way back. `None`: it is gone.
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

    /// Whether a VolumeSnapshot or a content stands for a snapshot, or stood for it and wanted it kept.
    async fn is_wanted(&self, made: &OverlaySnapshot) -> Result<bool, ControllerError> {
        // What CSI asked for is removed by CSI.
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

    /// Whether there is still this VolumeSnapshot, and not another of its name.
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

/// Whether the node had its time. One that nobody can read the time of had it.
fn is_overdue(made: &OverlaySnapshot, patience: Duration) -> bool {
    let since = made.metadata.annotations.as_ref().and_then(|notes| notes.get(DELETED_AT));
    is_longer(since.and_then(|since| since.parse().ok()), patience)
}

/// Whether that is longer ago; of what nobody knows it is.
fn is_longer(since: Option<Timestamp>, than: Duration) -> bool {
    since.is_none_or(|since| {
        Timestamp::now().duration_since(since) > than.try_into().unwrap_or_default()
    })
}
