//! Waits until a snapshot is ready or deleted.
//!
//! It polls instead of watching, because a user with the right to read one object may have no right to watch all. To
//! read one object every half second is a small load for an API server.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep};

use super::{
    failure::Failure,
    progress::Progress,
    session::Session,
    snapshot_view::{Snapshot, State},
};
use crate::{cluster::snapshot_api::VolumeSnapshot, error::Class, format};

/// The pause between two reads.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the controller must refuse a snapshot until the command fails. A reason can pass: a class or a pod that has
/// just been created.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the controller may take to write anything to a snapshot until the command says that it waits for it.
const UNSEEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What becomes of a snapshot that is refused, or fails before it is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// It was there before this command.
    Keep,
    /// This command created it, and its user gets the reason now.
    Delete,
}

/// The result of one read.
enum Polled {
    Found(Box<Snapshot>),
    Gone,
    /// The API server did not respond, for this reason, which may pass.
    Unknown(String),
}

impl Session {
    /// Waits until the snapshot is ready, and returns it.
    ///
    /// # Errors
    /// It failed, is deleted, is refused for a while, or is not ready in time.
    pub(super) async fn until_ready(
        &self,
        snapshot: &Snapshot,
        on_failure: OnFailure,
        limit: Duration,
    ) -> Result<Snapshot, Failure> {
        let (name, mut progress, start) = (&snapshot.name, Progress::new(), Instant::now());
        let mut refused_since = None;
        loop {
            let state = match self.poll(snapshot).await? {
                Polled::Gone => {
                    return Err(anyhow!("snapshot {name} was deleted before it was ready").into());
                }
                Polled::Unknown(why) => why,
                Polled::Found(found) => {
                    match found.state() {
                        State::Ready => return Ok(*found),
                        State::Failed(why) => {
                            let why = format!("snapshot {name} failed: {why}");
                            // A captured snapshot can be used on its node.
                            let captured = found.entries.is_some();
                            let on_failure = if captured { OnFailure::Keep } else { on_failure };
                            return Err(self.given_up(&found, why, on_failure).await);
                        }
                        State::Waiting => refused_since = None,
                        State::Refused(why) => {
                            let since = *refused_since.get_or_insert_with(Instant::now);
                            if since.elapsed() >= REFUSAL_TIMEOUT {
                                let why = format!("snapshot {name} is refused: {why}");
                                return Err(self.given_up(&found, why, on_failure).await);
                            }
                        }
                    }
                    let unseen = !found.is_seen && start.elapsed() >= UNSEEN_TIMEOUT;
                    let unseen = unseen
                        .then(|| format!(": no controller of {} has seen it yet", self.driver));
                    line(&found) + &unseen.unwrap_or_default()
                }
            };
            progress.show(&state);
            if start.elapsed() >= limit {
                let waited = format::span(limit);
                return Err(Failure::TimedOut(anyhow!(
                    "not ready after {waited} ({state}); the snapshot is still being taken: `kubectl ovl describe {name}` shows the progress"
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// The failure for a snapshot that will not be ready. Deletes the snapshot, if this command created it.
    async fn given_up(&self, snapshot: &Snapshot, why: String, on_failure: OnFailure) -> Failure {
        if on_failure == OnFailure::Keep {
            return anyhow!(why).into();
        }
        let Snapshot { name, uid, .. } = snapshot;
        match self.client.delete::<VolumeSnapshot>(Some(&self.namespace), name, uid).await {
            Ok(()) => {
                let retained = snapshot.retained().map(|retained| format!(". But {retained}"));
                anyhow!("{why}; VolumeSnapshot {name} was deleted{}", retained.unwrap_or_default())
                    .into()
            }
            Err(error) => anyhow!("{why}; VolumeSnapshot {name} stays: {error}").into(),
        }
    }

    /// Waits until the snapshot is deleted.
    ///
    /// # Errors
    /// It is not deleted in time.
    pub(super) async fn until_gone(
        &self,
        snapshot: &Snapshot,
        limit: Duration,
    ) -> Result<(), Failure> {
        let (mut progress, start) = (Progress::new(), Instant::now());
        loop {
            let state = match self.poll(snapshot).await? {
                Polled::Gone => return Ok(()),
                Polled::Unknown(why) => why,
                Polled::Found(found) => line(&found),
            };
            progress.show(&state);
            if start.elapsed() >= limit {
                let waited = format::span(limit);
                return Err(Failure::TimedOut(anyhow!(
                    "not deleted after {waited} ({state}); the snapshot is still being deleted"
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads the snapshot. Another object with the same name counts as gone.
    async fn poll(&self, snapshot: &Snapshot) -> Result<Polled, Failure> {
        let name = &snapshot.name;
        match self.client.get::<VolumeSnapshot>(Some(&self.namespace), name).await {
            Ok(found) => {
                let found = found.and_then(|found| Snapshot::of(&found, &self.driver));
                let same = found.filter(|found| found.uid == snapshot.uid);
                Ok(same.map_or(Polled::Gone, |found| Polled::Found(Box::new(found))))
            }
            Err(why) if why.class() == Class::Unavailable => {
                Ok(Polled::Unknown(format!("snapshot {name}: {why}")))
            }
            Err(why) => Err(why.into()),
        }
    }
}

/// The state of a snapshot on one line.
fn line(snapshot: &Snapshot) -> String {
    let Snapshot { name, phase, message, .. } = snapshot;
    let amount = snapshot.amount().map(|amount| format!(", {amount}")).unwrap_or_default();
    let message = message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    format!("snapshot {name}: {phase}{amount}{message}")
}
