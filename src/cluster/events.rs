//! Events on their way: queued, and written one after the other by a task of their own.
//!
//! ```text
//!  tell ──> queue ──> task: written ──> next
//!    │ full                 │ no answer ──> later, with all others that had none
//!    └──> counted           └ refused, or too old ──> logged
//! ```

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{
        mpsc::{self, Receiver, Sender},
        oneshot,
    },
    time::sleep_until,
};

use super::{
    Client,
    recorder::{Event, Recorder},
};
use crate::fault::Class;

/// How patient the task is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Events that wait at most, new ones and those without an answer each.
    pub(super) queue: usize,
    /// The pause after the first try; doubled after each further one, up to [`PAUSE_MAX`].
    pub(super) pause: Duration,
    /// How old an Event may be for another try.
    pub(super) worth: Duration,
}

/// Room for a word to every pod of a full node; what nobody could be told for five minutes is no news.
const PACE: Pace =
    Pace { queue: 256, pause: Duration::from_secs(2), worth: Duration::from_secs(5 * 60) };
/// The longest pause: so long may the API server be back before it is asked.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Takes Events, and never keeps whoever tells them waiting. What finds no room is left out and counted in the log.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Sender<Queued>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Queued {
    /// To be written, since then.
    Event(Instant, Event),
    /// Somebody waits for all before it.
    Flush(oneshot::Sender<()>),
}

impl Events {
    /// Starts the task, on the runtime of whoever calls this; it ends when the last clone is gone and the queue is empty. For the
    /// driver of this name on this host (a node, or the controller's pod), which is what Events give as their source.
    pub fn start(client: Client, host: &str, driver: &str) -> Self {
        Self::at_pace(client, host, driver, PACE)
    }

    pub(super) fn at_pace(client: Client, host: &str, driver: &str, pace: Pace) -> Self {
        let (queue, waiting) = mpsc::channel(pace.queue);
        let left_out = Arc::new(AtomicU64::new(0));
        let recorder = Recorder::new(client, host, driver);
        let writer = Writer {
            recorder,
            left_out: left_out.clone(),
            pace,
            later: VecDeque::new(),
            due: Instant::now(),
            round: 0,
            pause: pace.pause,
            flushes: Vec::new(),
        };
        tokio::spawn(writer.run(waiting));
        Self { queue, left_out }
    }

    /// Has it written in its turn.
    pub fn tell(&self, event: Event) {
        if self.queue.try_send(Queued::Event(Instant::now(), event)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns once all that was told before is written or given up, which takes minutes while the API server is away.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Queued::Flush(done)).await.is_ok() {
            // A task that is gone has nothing left to write.
            let _ = wait.await;
        }
    }

    /// How many found no room and are not in the log yet.
    #[cfg(test)]
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

/// The task.
struct Writer {
    recorder: Recorder,
    left_out: Arc<AtomicU64>,
    pace: Pace,
    /// What was not answered, since when, and what goes again.
    later: VecDeque<(Instant, Event)>,
    /// When that goes again, and how many of it are still to go then.
    due: Instant,
    round: usize,
    pause: Duration,
    /// Who waits until nothing is left.
    flushes: Vec<oneshot::Sender<()>>,
}

impl Writer {
    async fn run(mut self, mut waiting: Receiver<Queued>) {
        let mut open = true;
        while open || !self.later.is_empty() {
            tokio::select! {
                next = waiting.recv(), if open => match next {
                    Some(Queued::Event(since, event)) => self.first(since, event).await,
                    Some(Queued::Flush(done)) => self.flushes.push(done),
                    None => open = false,
                },
                () = sleep_until(self.due.into()), if !self.later.is_empty() => self.again().await,
            }
            if self.later.is_empty() {
                for done in self.flushes.drain(..) {
                    // Whoever waited may have gone.
                    let _ = done.send(());
                }
            }
            let count = self.left_out.swap(0, Ordering::Relaxed);
            if count > 0 {
                tracing::warn!(count, "Events left out: more to tell than the API server took");
            }
        }
    }

    /// Writes a new one. One that is not answered is in nobody's way: its namespace may be one that takes no Events for the moment.
    async fn first(&mut self, since: Instant, event: Event) {
        // What it says anew is not said after it.
        self.later.retain(|(_, old)| !old.is_one_with(&event));
        let Some(event) = self.write(since, event).await else { return };
        if self.later.is_empty() {
            (self.pause, self.round) = (self.pace.pause, 0);
            self.due = Instant::now() + self.pause;
        }
        if self.later.len() == self.pace.queue {
            self.later.pop_front();
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        self.later.push_back((since, event));
    }

    /// Tries the next once more that was not answered; after all of them there is a pause.
    async fn again(&mut self) {
        if self.round == 0 {
            self.round = self.later.len();
        }
        if let Some((since, event)) = self.later.pop_front()
            && let Some(event) = self.write(since, event).await
        {
            self.later.push_back((since, event));
        }
        self.round -= 1;
        if self.round == 0 {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            self.due = Instant::now() + self.pause;
        }
    }

    /// Writes one; answers it where that may succeed later.
    async fn write(&mut self, since: Instant, event: Event) -> Option<Event> {
        let error = self.recorder.tell(&event).await.err()?;
        // Another Event of the same nanosecond has the name (Conflict): the next try has another.
        let again = matches!(error.class(), Class::Unavailable | Class::Conflict);
        if again && since.elapsed() + self.pace.pause <= self.pace.worth {
            tracing::debug!(%error, "an Event has to wait");
            return Some(event);
        }
        let Event { about, reason, message, .. } = &event;
        tracing::warn!(%error, about.namespace, about.name, reason, message, "no Event tells this");
        None
    }
}
