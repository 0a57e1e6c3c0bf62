//! The steps after a capture: squashes a snapshot and pushes it to its registry.
//!
//! A capture cannot be repeated, because the pod has written to the volume since. So a push waits for a registry or a
//! Secret that is missing, and volumes on this node can use the snapshot meanwhile. A push fails only for a reason that
//! no change outside the snapshot can fix.

use std::{convert::Infallible, time::Duration};

use serde_json::json;
use tokio::time::sleep;

use super::{
    engine::Engine,
    reconcile::{Next, ObjectGone, Reconciler, deleting},
    shared::Shared,
    spec::{PushTarget, Spec},
    status::{self, ConditionStatus, PUSHED, SQUASHED},
};
use crate::{
    backoff::Backoff,
    cluster::{
        ClusterError,
        overlay_snapshot::{OverlaySnapshot, OverlaySnapshotStatus, Phase},
    },
    format,
    layers::SnapshotRecord,
    snapshots::Progress,
    volumes::PodEventType,
};

/// The longest pause between two updates of a push's progress, the same as for pulls.
const PROGRESS_INTERVAL_MAX: Duration = Duration::from_secs(30);

impl<E: Engine> Reconciler<'_, E> {
    /// Squashes the snapshot. Returns false where it must be deleted instead. A squash that fails leaves the snapshot
    /// unchanged.
    pub(super) async fn squash(
        &mut self,
        spec: &Spec,
        target: Option<&PushTarget>,
        record: SnapshotRecord,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<bool, ObjectGone> {
        let shared = self.shared;
        let progress = Progress::default();
        let namespace = &spec.source.namespace;
        let squash = shared.pushes.in_turn(namespace, &progress, async {
            let push = match target {
                // An error of the credentials is reported by the push later.
                Some(target) => {
                    let keyring = shared.keyring(target).await.ok();
                    keyring.map(|keyring| spec.push_request(target, keyring))
                }
                None => None,
            };
            shared.engine.squash(&record.id, push.as_ref()).await
        });
        let squashed = tokio::select! {
            squashed = squash => squashed,
            () = deleting(self.watched) => return Ok(false),
        };
        let before = status.clone();
        let record = match squashed {
            Ok(()) => self.shared.engine.record(&record.id).unwrap_or(record),
            Err(failure) => {
                let failure = spec.named(failure);
                tracing::warn!(
                    snapshot = self.name,
                    why = failure.message,
                    "cannot squash the snapshot"
                );
                status::set_condition(
                    status,
                    SQUASHED,
                    ConditionStatus::No,
                    failure.reason(),
                    failure.message,
                );
                self.report(&before, status).await?;
                return Ok(true);
            }
        };
        status::describe(status, &record);
        let count = before.own_layers.unwrap_or_default();
        let message = format!("{count} snapshot layers were squashed into one");
        status::set_condition(status, SQUASHED, ConditionStatus::Yes, "Squashed", message);
        self.report(&before, status).await?;
        Ok(true)
    }

    /// Pushes the snapshot and updates its status meanwhile.
    pub(super) async fn push(
        &mut self,
        spec: &Spec,
        target: &PushTarget,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, ObjectGone> {
        let (shared, progress) = (self.shared, Progress::default());
        let namespace = &spec.source.namespace;
        let push = shared.pushes.in_turn(namespace, &progress, async {
            let keyring = shared.keyring(target).await?;
            shared.engine.push(&spec.push_request(target, keyring), &progress).await
        });
        let mut before = status.clone();
        let pushed = tokio::select! {
            pushed = push => pushed,
            never = report_progress(shared, self.name, &progress, &mut before.message) => match never {},
            () = deleting(self.watched) => return Ok(Next::Retry),
        };
        let failure = match pushed.map_err(|failure| spec.named(failure)) {
            Ok(pushed) => {
                let message = format!("sent {}", format::bytes(pushed.sent));
                status::set_condition(status, PUSHED, ConditionStatus::Yes, "Pushed", message);
                status.image = Some(pushed.image);
                status.pushed_bytes = i64::try_from(pushed.own_bytes).ok();
                status::ready(status, &self.shared.node);
                self.report(&before, status).await?;
                return Ok(Next::Done);
            }
            // It was pushed before, so pods may have started from it.
            Err(failure) if failure.permanent && status.image.is_some() => {
                return self.not_in_registry(&failure.message, status).await;
            }
            Err(failure) if failure.permanent => {
                self.report_failure(spec, &failure);
                return self.failed(status, PUSHED, &failure).await;
            }
            Err(failure) => failure,
        };
        tracing::info!(snapshot = self.name, why = failure.message, "cannot be pushed yet");
        status::set_waiting(status, PUSHED, &failure);
        self.report(&before, status).await?;
        if failure.push_may_succeed_later() {
            return Ok(Next::Retry);
        }
        // A user must fix the cause, so one Event is emitted. The condition shows an agent that was restarted that the
        // Event was emitted before.
        let was_reported =
            status::reason(&before, PUSHED).is_some_and(|reason| failure.has_reason(reason));
        if !std::mem::replace(&mut self.reported, true) && !was_reported {
            let (name, volume, why) = (&spec.name, &spec.volume, &failure.message);
            let message = format!("snapshot {name} of volume {volume} cannot be pushed yet: {why}");
            self.record_event(spec, PodEventType::Warning, "SnapshotNotPushed", message);
        }
        Ok(Next::RetryLater)
    }
}

/// Writes the progress of a push to the status until it is dropped. `shown` is the message that the status has.
async fn report_progress<E>(
    shared: &Shared<E>,
    name: &str,
    progress: &Progress,
    shown: &mut Option<String>,
) -> Infallible {
    let mut backoff = Backoff::new(shared.timing.progress_interval, PROGRESS_INTERVAL_MAX);
    loop {
        // All clients that watch the object receive every update, so the updates become rarer.
        sleep(backoff.next_pause()).await;
        let now = progress.sentence();
        if now.is_none() || now == *shown {
            continue;
        }
        shown.clone_from(&now);
        if let Err(error) = patch_message(shared, name, now).await {
            tracing::debug!(snapshot = name, %error, "cannot update the progress of the push");
        }
    }
}

/// Changes the message of a snapshot that is being pushed, and nothing else. The patch has the resource version that
/// was read, so it fails if another client changed the object since.
async fn patch_message<E>(
    shared: &Shared<E>,
    name: &str,
    message: Option<String>,
) -> Result<(), ClusterError> {
    let found = shared.client.get::<OverlaySnapshot>(None, name).await?;
    let Some(OverlaySnapshot { metadata, spec, status }) = found else { return Ok(()) };
    if spec.deleted || status.and_then(|status| status.phase) != Some(Phase::Pushing) {
        return Ok(());
    }
    let changes = json!({
        "metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version},
        "status": {"message": message},
    });
    shared.client.patch_status::<OverlaySnapshot>(None, name, &changes).await.map(drop)
}
