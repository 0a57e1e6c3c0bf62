//! Finalizes snapshots: deletes one whose spec says so, and the record of one whose OverlaySnapshot is gone.

use std::time::Instant;

use super::{
    engine::{Engine, Failure},
    reconcile::{Next, ObjectGone, Reconciler},
    spec::{self, Spec},
    status::{self, ConditionStatus},
};
use crate::{
    cluster::overlay_snapshot::{OverlaySnapshot, OverlaySnapshotStatus, Phase},
    layers::SnapshotId,
};

impl<E: Engine> Reconciler<'_, E> {
    /// Deletes a snapshot from its registry and from this node.
    pub(super) async fn delete(
        &mut self,
        object: &OverlaySnapshot,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, ObjectGone> {
        if status.phase == Some(Phase::Deleted) {
            return Ok(Next::Done);
        }
        let before = status.clone();
        status::set_progress(status, Phase::Deleting, "");
        self.report(&before, status).await?;
        let before = status.clone();
        if let Ok(id) = spec::id(object) {
            match self.delete_manifest(object, &id, status).await {
                Ok(message) => {
                    if let Some(why) = &message {
                        // The object with this message is deleted soon, so it is logged too.
                        tracing::warn!(
                            snapshot = self.name,
                            why,
                            "a part of the snapshot is not deleted"
                        );
                    }
                    status.message = message;
                }
                Err(failure) => {
                    status.message = Some(failure.message);
                    self.report(&before, status).await?;
                    return Ok(Next::Retry);
                }
            }
            if let Err(failure) = self.shared.engine.forget(&id).await {
                let failure = Spec::named_for(object, failure);
                tracing::warn!(
                    snapshot = self.name,
                    why = failure.message,
                    "the record of the snapshot is not deleted yet"
                );
                status.message = Some(failure.message);
                self.report(&before, status).await?;
                return Ok(Next::Retry);
            }
        }
        status.phase = Some(Phase::Deleted);
        status::set_condition(status, status::READY, ConditionStatus::No, "Deleted", "");
        self.report(&before, status).await?;
        tracing::info!(snapshot = self.name, "deleted");
        Ok(Next::Done)
    }

    /// Deletes the manifest of a snapshot. Returns a message where the manifest stays in the registry; a failure where
    /// a later try may delete it.
    async fn delete_manifest(
        &mut self,
        object: &OverlaySnapshot,
        id: &SnapshotId,
        status: &OverlaySnapshotStatus,
    ) -> Result<Option<String>, Failure> {
        let record = self.shared.engine.record(id);
        let image = record.as_ref().and_then(|record| record.pushed.clone());
        let image = image.or_else(|| status.image.clone());
        let Ok(Some(target)) = spec::target(object) else { return Ok(None) };
        if record.is_none() && image.is_none() {
            // It was never pushed there, not even in part.
            return Ok(None);
        }
        let message = |why: String| format!("the image is still in {}: {why}", target.to);
        let image = image.and_then(|image| image.parse().ok());
        let engine = &self.shared.engine;
        let deleted = match self.shared.keyring(&target).await {
            Ok(keyring) => engine.delete_manifest(id, &target.to, image.as_ref(), &keyring).await,
            Err(failure) => Err(failure),
        };
        let deleted = deleted.map_err(|failure| Spec::named_for(object, failure));
        let since = *self.delete_since.get_or_insert_with(Instant::now);
        match deleted {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(message("the registry does not support deletion".to_owned()))),
            Err(failure)
                if failure.is_retryable()
                    && since.elapsed() < self.shared.timing.delete_timeout =>
            {
                Err(failure)
            }
            // A VolumeSnapshot must not wait forever for a registry that is gone.
            Err(failure) => Ok(Some(message(failure.message))),
        }
    }

    /// Deletes the record of a snapshot whose OverlaySnapshot is gone. One response "not found" is not enough: an API
    /// server that does not know the kind yet returns it too. So the object must also be missing in a list of the
    /// OverlaySnapshots of this node.
    pub(super) async fn forget_orphan(&self) -> Next {
        let Ok(id) = self.name.parse::<SnapshotId>() else { return Next::Done };
        if self.shared.engine.record(&id).is_none() {
            return Next::Done;
        }
        let of_this_node = format!("spec.nodeName={}", self.shared.node);
        let all = match self.shared.client.list_selected::<OverlaySnapshot>(&of_this_node).await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(snapshot = self.name, %error, "cannot list OverlaySnapshots");
                return Next::Retry;
            }
        };
        if all.iter().any(|object| object.metadata.name.as_deref() == Some(self.name)) {
            return Next::Retry;
        }
        match self.shared.engine.forget(&id).await {
            Ok(()) => {
                tracing::info!(snapshot = self.name, "record deleted: its OverlaySnapshot is gone");
                Next::Done
            }
            Err(failure) => {
                tracing::warn!(
                    snapshot = self.name,
                    why = failure.message,
                    "the record of the snapshot is not deleted yet"
                );
                Next::Retry
            }
        }
    }
}
