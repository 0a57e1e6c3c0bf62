//! Notices told as Events: queued, and written one after the other by a task of their own.
//!
//! ```text
//!  tell ──> queue ──> task: written ────────────────────> next
//!    │ full                 │ no answer ──> pause, again
//!    └──> counted           └ refused, or too old ──> logged
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::sleep,
};

use crate::{
    cluster::{About, Client, Event, Recorder, Severity},
    fault::Class,
    volumes::{Notice, NoticeKind, Notices, Pod},
};

/// How patient the task is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Notices that wait at most.
    pub(super) queue: usize,
    /// The pause after the first try; doubled after each further one, up to [`PAUSE_MAX`].
    pub(super) pause: Duration,
    /// How old a notice may be for another try.
    pub(super) worth: Duration,
}

/// Room for a word to every pod of a full node; what nobody could be told for five minutes is no news.
const PACE: Pace =
    Pace { queue: 256, pause: Duration::from_secs(2), worth: Duration::from_secs(5 * 60) };
/// The longest pause: so long may the API server be back before it is asked.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Takes notices, and never keeps whoever tells them waiting. What finds no room is left out and counted in the log.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Sender<(Instant, Event)>,
    left_out: Arc<AtomicU64>,
}

impl Events {
    /// Starts the task, on the runtime of whoever calls this; it ends when the last clone is gone and the queue is empty.
    pub fn start(client: Client, node: &str, driver: &str) -> Self {
        Self::at_pace(client, node, driver, PACE)
    }

    pub(super) fn at_pace(client: Client, node: &str, driver: &str, pace: Pace) -> Self {
        let (queue, waiting) = mpsc::channel(pace.queue);
        let left_out = Arc::new(AtomicU64::new(0));
        let recorder = Recorder::new(client, node, driver);
        tokio::spawn(write_all(recorder, waiting, left_out.clone(), pace));
        Self { queue, left_out }
    }

    /// How many found no room and are not in the log yet.
    #[cfg(test)]
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl Notices for Events {
    fn tell(&self, pod: &Pod, notice: Notice) {
        let event = Event {
            about: About::pod(&pod.namespace, &pod.name, &pod.uid.to_string()),
            severity: match notice.kind {
                NoticeKind::Normal => Severity::Normal,
                NoticeKind::Warning => Severity::Warning,
            },
            reason: notice.reason,
            message: notice.message,
        };
        if self.queue.try_send((Instant::now(), event)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn write_all(
    mut recorder: Recorder,
    mut waiting: Receiver<(Instant, Event)>,
    left_out: Arc<AtomicU64>,
    pace: Pace,
) {
    while let Some((since, event)) = waiting.recv().await {
        write(&mut recorder, &event, since, pace).await;
        let count = left_out.swap(0, Ordering::Relaxed);
        if count > 0 {
            tracing::warn!(count, "Events left out: more to tell than the API server took");
        }
    }
}

async fn write(recorder: &mut Recorder, event: &Event, since: Instant, pace: Pace) {
    let mut pause = pace.pause;
    loop {
        let Err(error) = recorder.tell(event).await else { return };
        // Another Event of the same nanosecond has the name (Conflict): the next try has another.
        let again = matches!(error.class(), Class::Unavailable | Class::Conflict);
        if !again || since.elapsed() + pause > pace.worth {
            let Event { about, reason, message, .. } = event;
            tracing::warn!(%error, about.namespace, about.name, reason, message, "no Event tells this");
            return;
        }
        tracing::debug!(%error, ?pause, "an Event has to wait");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
