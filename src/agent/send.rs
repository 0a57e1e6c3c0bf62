//! A snapshot that is cut, on its way to its registry.
//!
//! A cut cannot be made again: the pod went on. So whatever a registry or a Secret lacks is waited for, and the snapshot can be
//! restored on its node meanwhile. Only what no change outside can mend fails.

use std::{convert::Infallible, time::Duration};

use serde_json::json;
use tokio::time::sleep;

use super::{
    engine::Engine,
    order::{Order, Target},
    run::Shared,
    status::{self, Holds, PUSHED, SQUASHED},
    worker::{Gone, Next, Worker, leaves},
};
use crate::{
    cluster::{
        ClusterError,
        overlay_snapshot::{OverlaySnapshot, OverlaySnapshotStatus, Phase},
    },
    layers::SnapshotRecord,
    snapshots::Progress,
    volumes::NoticeKind,
};

/// The longest pause between two words on how far a push is: as often as pulls speak.
const NEWS_MAX: Duration = Duration::from_secs(30);

impl<E: Engine> Worker<'_, E> {
    /// Squashes it; false where it is to be removed instead. What goes wrong leaves it as it was.
    pub(super) async fn squash(
        &mut self,
        order: &Order,
        target: Option<&Target>,
        record: SnapshotRecord,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<bool, Gone> {
        let shared = self.shared;
        let progress = Progress::default();
        let namespace = &order.source.namespace;
        let squash = shared.pushes.in_turn(namespace, &progress, async {
            let push = match target {
                // What is wrong with the credentials the push finds out, too.
                Some(target) => shared.keyring(target).await.ok().map(|k| order.pushed(target, k)),
                None => None,
            };
            shared.engine.squash(&record.id, push.as_ref()).await
        });
        let squashed = tokio::select! {
            squashed = squash => squashed,
            () = leaves(self.seen) => return Ok(false),
        };
        let before = status.clone();
        let record = match squashed {
            Ok(()) => self.shared.engine.record(&record.id).unwrap_or(record),
            Err(failure) => {
                tracing::warn!(snapshot = self.name, why = failure.message, "not squashed");
                status::say(status, SQUASHED, Holds::No, failure.reason(), failure.message);
                self.report(&before, status).await?;
                return Ok(true);
            }
        };
        status::describe(status, &record);
        let was = before.own_layers.unwrap_or_default();
        let told = format!("{was} layers of its own became one");
        status::say(status, SQUASHED, Holds::Yes, "Squashed", told);
        self.report(&before, status).await?;
        Ok(true)
    }

    /// Pushes it.
    pub(super) async fn push(
        &mut self,
        order: &Order,
        target: &Target,
        status: &mut OverlaySnapshotStatus,
    ) -> Result<Next, Gone> {
        let (shared, progress) = (self.shared, Progress::default());
        let namespace = &order.source.namespace;
        let push = shared.pushes.in_turn(namespace, &progress, async {
            let keyring = shared.keyring(target).await?;
            shared.engine.push(&order.pushed(target, keyring), &progress).await
        });
        let mut before = status.clone();
        let pushed = tokio::select! {
            pushed = push => pushed,
            never = tell(shared, self.name, &progress, &mut before.message) => match never {},
            () = leaves(self.seen) => return Ok(Next::Again),
        };
        let failure = match pushed {
            Ok(pushed) => {
                let told = format!("{} bytes had to be sent", pushed.sent);
                status::say(status, PUSHED, Holds::Yes, "Pushed", told);
                status.image = Some(pushed.image);
                status.pushed_bytes = i64::try_from(pushed.own_bytes).ok();
                status::ready(status, &self.shared.node);
                self.report(&before, status).await?;
                return Ok(Next::Done);
            }
            Err(failure) if failure.lasts => {
                self.tell_failed(order, &failure);
                return self.failed(status, PUSHED, &failure).await;
            }
            Err(failure) => failure,
        };
        tracing::info!(snapshot = self.name, why = failure.message, "cannot be pushed yet");
        status::has_to_wait(status, PUSHED, &failure);
        self.report(&before, status).await?;
        if failure.heals_for_registry() {
            return Ok(Next::Again);
        }
        // Somebody has to mend it; an agent that was started anew does not say it again.
        let was_told = status::reason(&before, PUSHED) == Some(failure.reason());
        if !std::mem::replace(&mut self.told, true) && !was_told {
            let (name, volume, why) = (&order.name, &order.volume, &failure.message);
            let message = format!("snapshot {name} of volume {volume} cannot be pushed yet: {why}");
            self.tell(order, NoticeKind::Warning, "SnapshotNotPushed", message);
        }
        Ok(Next::Later)
    }
}

/// Says in the status how far a push is, as long as it lasts; `said` is what the message there is then.
async fn tell<E>(
    shared: &Shared<E>,
    name: &str,
    progress: &Progress,
    said: &mut Option<String>,
) -> Infallible {
    let mut pause = shared.pace.news;
    loop {
        sleep(pause).await;
        // Every word is read by all who watch.
        pause = (pause * 2).min(NEWS_MAX);
        let now = progress.sentence();
        if now.is_none() || now == *said {
            continue;
        }
        said.clone_from(&now);
        if let Err(error) = say(shared, name, now).await {
            tracing::debug!(snapshot = name, %error, "how far its push is is not told");
        }
    }
}

/// Changes the message alone, and only of a snapshot that nobody has said something else of since it was looked at.
async fn say<E>(
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
