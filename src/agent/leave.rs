//! A snapshot's end: asked for, or because nobody knows of it any more.

use std::time::Instant;

use super::{
    engine::{Engine, Failure},
    order,
    status::{self, Holds},
    worker::{Gone, Next, Worker},
};
use crate::{
    cluster::overlay_snapshot::{OverlaySnapshot, OverlaySnapshotStatus, Phase},
    layers::SnapshotId,
};

impl<E: Engine> Worker<'_, E> {
    /// Removes it from the registry and from here.
    pub(super) async fn remove(
        &mut self,
        object: &OverlaySnapshot,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, Gone> {
        if status.phase == Some(Phase::Deleted) {
            return Ok(Next::Done);
        }
        let before = status.clone();
        status::goes_on(status, Phase::Deleting, "");
        self.report(&before, status).await?;
        let before = status.clone();
        if let Ok(id) = order::id(object) {
            match self.unpushed(object, &id, status).await {
                Ok(left) => {
                    if let Some(left) = &left {
                        // The object that says so goes soon.
                        tracing::warn!(
                            snapshot = self.name,
                            why = left,
                            "not all of it is removed"
                        );
                    }
                    status.message = left;
                }
                Err(failure) => {
                    status.message = Some(failure.message);
                    self.report(&before, status).await?;
                    return Ok(Next::Again);
                }
            }
            if let Err(failure) = self.shared.engine.forget(&id).await {
                tracing::warn!(snapshot = self.name, why = failure.message, "not forgotten yet");
                status.message = Some(failure.message);
                self.report(&before, status).await?;
                return Ok(Next::Again);
            }
        }
        status.phase = Some(Phase::Deleted);
        status::say(status, status::READY, Holds::No, "Deleted", "");
        self.report(&before, status).await?;
        tracing::info!(snapshot = self.name, "removed");
        Ok(Next::Done)
    }

    /// Removes its manifest; says what is left, or why that has to wait.
    async fn unpushed(
        &mut self,
        object: &OverlaySnapshot,
        id: &SnapshotId,
        status: &OverlaySnapshotStatus,
    ) -> Result<Option<String>, Failure> {
        let record = self.shared.engine.record(id);
        let image = record.as_ref().and_then(|record| record.pushed.clone());
        let image = image.or_else(|| status.image.clone());
        let Ok(Some(target)) = order::target(object) else { return Ok(None) };
        if record.is_none() && image.is_none() {
            // Nothing of it was ever on its way there.
            return Ok(None);
        }
        let left = |why: String| format!("its manifest is left in {}: {why}", target.to);
        let image = image.and_then(|image| image.parse().ok());
        let removed = match self.shared.keyring(&target).await {
            Ok(keyring) => {
                self.shared.engine.unpush(id, &target.to, image.as_ref(), &keyring).await
            }
            Err(failure) => Err(failure),
        };
        let since = *self.removing.get_or_insert_with(Instant::now);
        match removed {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(left("this registry deletes nothing".to_owned()))),
            Err(failure) if failure.heals() && since.elapsed() < self.shared.pace.patience => {
                Err(failure)
            }
            // Nobody's VolumeSnapshot waits for a registry that is gone.
            Err(failure) => Ok(Some(left(failure.message))),
        }
    }

    /// Forgets what is here of a snapshot that nobody wants any more. That its object is not found once is not enough: an API
    /// server that does not know the kind yet finds none. One that lists the others does.
    pub(super) async fn forget_lost(&self) -> Next {
        let Ok(id) = self.name.parse::<SnapshotId>() else { return Next::Done };
        if self.shared.engine.record(&id).is_none() {
            return Next::Done;
        }
        let all = match self.shared.client.list::<OverlaySnapshot>().await {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(snapshot = self.name, %error, "cannot be looked for");
                return Next::Again;
            }
        };
        if all.iter().any(|object| object.metadata.name.as_deref() == Some(self.name)) {
            return Next::Again;
        }
        match self.shared.engine.forget(&id).await {
            Ok(()) => {
                tracing::info!(snapshot = self.name, "forgotten: its OverlaySnapshot is gone");
                Next::Done
            }
            Err(failure) => {
                tracing::warn!(snapshot = self.name, why = failure.message, "not forgotten yet");
                Next::Again
            }
        }
    }
}
