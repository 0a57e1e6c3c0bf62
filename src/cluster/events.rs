//! Queues Events and writes them from one background task, with retries.
//!
//! ```text
//!  record ──> queue ──> task: written ──> next
//!    │ full                   │ no response ──> retried later, with all others that had none
//!    └──> counted             └ refused, or too old ──> logged
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
use crate::{backoff::Backoff, error::Class};

/// Queue size and retry timing of the task.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventLimits {
    /// The most new Events in the queue, and separately the most Events that wait for a retry.
    pub(super) queue: usize,
    /// The pause before the first retry. It doubles each time that all of them were retried, up to [`PAUSE_MAX`].
    pub(super) pause: Duration,
    /// The age at which an Event is not retried any more.
    pub(super) max_age: Duration,
}

/// The queue takes one Event for every pod of a full node, and for each of thousands of snapshots that are requested at
/// once. An Event that is five minutes old is no longer news.
const LIMITS: EventLimits = EventLimits {
    queue: 4096,
    pause: Duration::from_secs(2),
    max_age: Duration::from_secs(5 * 60),
};
/// The longest pause: the most time that passes between the return of the API server and the next try.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The queue of Events. It never blocks the caller: when it is full, an Event is dropped and counted in the log.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Sender<Queued>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Queued {
    /// An Event to write, and the time at which it was recorded.
    Event(Instant, Event),
    /// A caller waits until everything before this is written or given up.
    Flush(oneshot::Sender<()>),
}

impl Events {
    /// Spawns the task on the caller's runtime. The task ends when the last clone is dropped and the queue is empty.
    /// Events name this driver and this host (a node, or the controller's pod) as their source.
    pub fn start(client: Client, host: &str, driver: &str) -> Self {
        Self::with_limits(client, host, driver, LIMITS)
    }

    pub(super) fn with_limits(
        client: Client,
        host: &str,
        driver: &str,
        limits: EventLimits,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(limits.queue);
        let dropped = Arc::new(AtomicU64::new(0));
        let recorder = Recorder::new(client, host, driver);
        let writer = Writer {
            recorder,
            dropped: dropped.clone(),
            limits,
            retries: VecDeque::new(),
            due: Instant::now(),
            round: 0,
            backoff: Backoff::new(limits.pause, PAUSE_MAX),
            flushes: Vec::new(),
        };
        tokio::spawn(writer.run(waiting));
        Self { queue, dropped }
    }

    /// Queues an Event. Never blocks and never fails: a full queue drops it.
    pub fn record(&self, event: Event) {
        if self.queue.try_send(Queued::Event(Instant::now(), event)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns once all Events recorded before are written or given up. That takes minutes while the API server is
    /// unreachable.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Queued::Flush(done)).await.is_ok() {
            // An error means that the task has ended, so there is nothing to wait for.
            let _ = wait.await;
        }
    }

    /// The number of dropped Events that are not in the log yet.
    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The state of the task.
struct Writer {
    recorder: Recorder,
    dropped: Arc<AtomicU64>,
    limits: EventLimits,
    /// The Events to retry, with the time at which each was recorded.
    retries: VecDeque<(Instant, Event)>,
    /// When the next retry is due.
    due: Instant,
    /// How many Events are still to be retried in this round.
    round: usize,
    /// The pauses after the rounds.
    backoff: Backoff,
    /// The callers of `flush` that wait until `retries` is empty.
    flushes: Vec<oneshot::Sender<()>>,
}

impl Writer {
    async fn run(mut self, mut waiting: Receiver<Queued>) {
        let mut open = true;
        while open || !self.retries.is_empty() {
            tokio::select! {
                next = waiting.recv(), if open => match next {
                    Some(Queued::Event(since, event)) => self.first(since, event).await,
                    Some(Queued::Flush(done)) => self.flushes.push(done),
                    None => open = false,
                },
                () = sleep_until(self.due.into()), if !self.retries.is_empty() => self.retry().await,
            }
            if self.retries.is_empty() {
                for done in self.flushes.drain(..) {
                    // An error means that the caller of `flush` has given up waiting.
                    let _ = done.send(());
                }
            }
            let count = self.dropped.swap(0, Ordering::Relaxed);
            if count > 0 {
                tracing::warn!(
                    count,
                    "Events dropped: the queue is full, the API server is too slow"
                );
            }
        }
    }

    /// Writes a new Event. One without a response waits among the retries and does not hold up later Events, because
    /// its namespace may be one that takes no Events at the moment.
    async fn first(&mut self, since: Instant, event: Event) {
        // An older Event that this one replaces must not be written after it.
        self.retries.retain(|(_, old)| !old.is_one_with(&event));
        let Some(event) = self.write(since, event).await else { return };
        if self.retries.is_empty() {
            self.backoff.reset();
            self.round = 0;
            self.due = Instant::now() + self.backoff.next_pause();
        }
        if self.retries.len() == self.limits.queue {
            self.retries.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.retries.push_back((since, event));
    }

    /// Retries the next Event. After all of them there is a pause.
    async fn retry(&mut self) {
        if self.round == 0 {
            self.round = self.retries.len();
        }
        if let Some((since, event)) = self.retries.pop_front()
            && let Some(event) = self.write(since, event).await
        {
            self.retries.push_back((since, event));
        }
        self.round -= 1;
        if self.round == 0 {
            self.due = Instant::now() + self.backoff.next_pause();
        }
    }

    /// Writes an Event. Returns it if a retry may succeed.
    async fn write(&mut self, since: Instant, event: Event) -> Option<Event> {
        let error = self.recorder.record(&event).await.err()?;
        // Conflict: another Event of the same nanosecond has the name. The retry generates a new one.
        let retry = matches!(error.class(), Class::Unavailable | Class::Conflict);
        if retry && since.elapsed() + self.limits.pause <= self.limits.max_age {
            tracing::debug!(%error, "cannot write an Event now: retrying later");
            return Some(event);
        }
        let Event { regarding: about, reason, message, .. } = &event;
        tracing::warn!(%error, about.namespace, about.name, reason, message, "cannot write an Event: giving up");
        None
    }
}
