//! Waiting for a snapshot: to be ready, or to be gone.
//!
//! Asked again and again, not watched: whoever may read one object need not have the right to watch all, and one object every half
//! second is nothing to an API server.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep};

use super::{
    Failure, Here,
    known::{Snapshot, State},
    progress::Progress,
};
use crate::{cluster::snapshot_api::VolumeSnapshot, fault::Class};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long a refusal may stand before it is taken as the answer: a pod that begins, a class that is made.
const REFUSED: Duration = Duration::from_secs(15);

/// What one question found.
enum Look {
    There(Box<Snapshot>),
    Gone,
    /// The API server did not answer, which may pass.
    Unknown(String),
}

impl Here {
    /// Waits until the snapshot is ready, and answers how it is then.
    pub(super) async fn until_ready(
        &self,
        snapshot: &Snapshot,
        limit: Duration,
    ) -> Result<Snapshot, Failure> {
        let (name, mut progress, begun) = (&snapshot.name, Progress::new(), Instant::now());
        let mut refused = None;
        loop {
            let said = match self.look(snapshot).await? {
                Look::Gone => {
                    return Err(anyhow!("snapshot {name} was deleted while it was made").into());
                }
                Look::Unknown(why) => why,
                Look::There(found) => {
                    match found.state() {
                        State::Ready => return Ok(*found),
                        State::Failed(why) => {
                            return Err(anyhow!("snapshot {name} failed: {why}").into());
                        }
                        State::Waiting => refused = None,
                        State::Refused(why) => {
                            let since = *refused.get_or_insert_with(Instant::now);
                            if since.elapsed() >= REFUSED {
                                return Err(anyhow!("snapshot {name} is not made: {why}").into());
                            }
                        }
                    }
                    line(&found)
                }
            };
            progress.say(&said);
            if begun.elapsed() >= limit {
                let waited = limit.as_secs();
                return Err(Failure::Late(anyhow!(
                    "not ready after {waited} s ({said}); it goes on, and kubectl ovl describe {name} shows how far it is"
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the snapshot is gone.
    pub(super) async fn until_gone(
        &self,
        snapshot: &Snapshot,
        limit: Duration,
    ) -> Result<(), Failure> {
        let (mut progress, begun) = (Progress::new(), Instant::now());
        loop {
            let said = match self.look(snapshot).await? {
                Look::Gone => return Ok(()),
                Look::Unknown(why) => why,
                Look::There(found) => line(&found),
            };
            progress.say(&said);
            if begun.elapsed() >= limit {
                let waited = limit.as_secs();
                return Err(Failure::Late(anyhow!(
                    "not gone after {waited} s ({said}); it goes on"
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// The snapshot as it is now; another one of its name is not it.
    async fn look(&self, snapshot: &Snapshot) -> Result<Look, Failure> {
        let name = &snapshot.name;
        match self.client.get::<VolumeSnapshot>(Some(&self.namespace), name).await {
            Ok(found) => {
                let found = found.and_then(|found| Snapshot::of(&found));
                let same = found.filter(|found| found.uid == snapshot.uid);
                Ok(same.map_or(Look::Gone, |found| Look::There(Box::new(found))))
            }
            Err(why) if why.class() == Class::Unavailable => {
                Ok(Look::Unknown(format!("snapshot {name}: {why}")))
            }
            Err(why) => Err(why.into()),
        }
    }
}

/// How far a snapshot is.
fn line(snapshot: &Snapshot) -> String {
    let Snapshot { name, phase, message, .. } = snapshot;
    let amount = snapshot.amount().map(|amount| format!(", {amount}")).unwrap_or_default();
    let message = message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    format!("snapshot {name}: {phase}{amount}{message}")
}
