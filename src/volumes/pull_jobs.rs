//! The pull jobs: background tasks that pull the layers of a volume, which publish calls join.
//!
//! ```text
//!             join                       ended                     consume
//!   (nothing) ────► running, with or ──────────► result kept for ────────► (nothing)
//!                   without a waiter             the next call
//!                        │ unpublished, or requested differently: cancelled ──► (nothing)
//!                        │ no call for a long time: forgotten ─────────────────► (nothing)
//! ```
//!
//! A pull may take an hour, but a call two minutes. So a pull is a task of its own, and calls join it. The volume's
//! lock is not held during the pull, so the pod can be deleted at any time. A call that then takes the lock to publish
//! the volume must check that the pull was not cancelled. Otherwise it would mount for a deleted pod.

use std::{
    collections::HashMap,
    future::{Future, pending},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    EventRecorder, Pod, PodEvent, PodEventType, Progress, PublishRequest, VolumeId, VolumeSpec,
    lock::VolumeLock, restore_error::LayersError, volume_layers::VolumeLayers,
};
use crate::format;

/// The times of a pull and of the calls that wait for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PullTimeouts {
    /// How long before its deadline a call returns that the pull goes on.
    pub(super) margin: Duration,
    /// How long a pull goes on, or its result is kept, without a call.
    pub(super) patience: Duration,
    /// After what time the first Event of the pod says that a pull goes on.
    pub(super) first_event: Duration,
    /// The time between further Events.
    pub(super) next_event: Duration,
}

impl Default for PullTimeouts {
    fn default() -> Self {
        Self {
            margin: Duration::from_secs(5),
            // The kubelet's longest pause between two tries is two minutes.
            patience: Duration::from_secs(600),
            first_event: Duration::from_secs(10),
            next_event: Duration::from_secs(30),
        }
    }
}

impl PullTimeouts {
    /// How long a call waits whose deadline is in `left`.
    fn wait_of(&self, left: Duration) -> Duration {
        left - self.margin.min(left / 2)
    }
}

/// The result of a pull, shared by all calls that wait for it.
type Ended = Result<Arc<VolumeLayers>, Arc<LayersError>>;

/// All pulls that are running, or have ended and whose result was not consumed.
#[derive(Debug, Clone)]
pub(super) struct PullJobs {
    pulls: Arc<Mutex<HashMap<VolumeId, Arc<Pull>>>>,
    events: Arc<dyn EventRecorder>,
    timeouts: PullTimeouts,
}

#[derive(Debug)]
struct Pull {
    id: VolumeId,
    /// The volume's name for the pod's user.
    name: String,
    pod: Pod,
    spec: VolumeSpec,
    progress: Progress,
    ended: watch::Sender<Option<Ended>>,
    last_request: Mutex<Instant>,
    /// The calls that wait must give up.
    cancelled: CancellationToken,
    /// The task must end. A child of `cancelled`.
    stop: CancellationToken,
}

/// The handle with which a call waits for a pull.
#[derive(Debug)]
pub(super) struct PullHandle {
    pull: Arc<Pull>,
    ended: watch::Receiver<Option<Ended>>,
}

/// The outcome of a wait for a pull.
#[derive(Debug)]
pub(super) enum PullOutcome {
    /// The pull ended.
    Ended(Ended),
    /// The pull was cancelled: the volume was unpublished or requested differently.
    Cancelled,
    /// The pull goes on. Its progress is a part of a sentence.
    Slow(String),
}

impl PullJobs {
    pub(super) fn new(events: Arc<dyn EventRecorder>, timeouts: PullTimeouts) -> Self {
        Self { pulls: Arc::default(), events, timeouts }
    }

    /// Joins the volume's pull, or starts one. A pull for another spec or pod is called off.
    pub(super) fn join<F>(
        &self,
        _: &VolumeLock,
        request: &PublishRequest,
        begin: impl FnOnce(Progress) -> F,
    ) -> PullHandle
    where
        F: Future<Output = Result<VolumeLayers, LayersError>> + Send + 'static,
    {
        self.all(|all| {
            if let Some(pull) = all.get(&request.id) {
                if pull.spec == request.spec && pull.pod == request.pod {
                    return PullHandle::on(pull);
                }
                pull.cancelled.cancel();
            }
            let cancelled = CancellationToken::new();
            let pull = Arc::new(Pull {
                id: request.id.clone(),
                name: request.name().to_owned(),
                pod: request.pod.clone(),
                spec: request.spec.clone(),
                progress: Progress::default(),
                ended: watch::Sender::new(None),
                last_request: Mutex::new(Instant::now()),
                stop: cancelled.child_token(),
                cancelled,
            });
            let waiting = PullHandle::on(&pull);
            all.insert(request.id.clone(), pull.clone());
            let work = begin(pull.progress.clone());
            // The pull has a trace of its own, because it outlives the call that started it.
            let pod = format!("{}/{}", pull.pod.namespace, pull.pod.name);
            let span = tracing::error_span!(parent: None, "pull", volume = %pull.id, %pod);
            span.follows_from(tracing::Span::current());
            tokio::spawn(self.clone().run(pull, work).instrument(span));
            waiting
        })
    }

    /// Whether the volume has a pull, running or ended. The result is valid while the lock is held.
    pub(super) fn has(&self, lock: &VolumeLock) -> bool {
        self.all(|all| all.contains_key(lock.id()))
    }

    /// Cancels the volume's pull, if it has one.
    pub(super) fn cancel(&self, lock: &VolumeLock) {
        if let Some(pull) = self.all(|all| all.remove(lock.id())) {
            pull.cancelled.cancel();
        }
    }

    /// Removes the pull, because its layers were used or its error was returned. The next call starts a new one.
    pub(super) fn consume(&self, waiting: &PullHandle) {
        self.remove(&waiting.pull);
        waiting.pull.stop.cancel();
    }

    async fn run(
        self,
        pull: Arc<Pull>,
        work: impl Future<Output = Result<VolumeLayers, LayersError>>,
    ) {
        let _end = End { jobs: &self, pull: &pull };
        let kept = async {
            let ended = self.report_while(&pull, work).await;
            pull.ended.send_replace(Some(ended.map(Arc::new).map_err(Arc::new)));
            pending::<()>().await;
        };
        tokio::select! {
            () = kept => {}
            () = pull.stop.cancelled() => {}
            () = self.forgotten(&pull) => {
                tracing::info!(volume = %pull.id, "pull cancelled: no call has requested the volume for a long time");
                pull.cancelled.cancel();
            }
        }
    }

    /// Runs the work, and reports the progress of a slow pull as Events of the pod.
    async fn report_while<T>(
        &self,
        pull: &Pull,
        work: impl Future<Output = Result<T, LayersError>>,
    ) -> Result<T, LayersError> {
        let begun = Instant::now();
        let record = |reason, message| {
            self.events.record(&pull.pod, PodEvent { kind: PodEventType::Normal, reason, message });
        };
        let mut work = pin!(work);
        let mut pause = self.timeouts.first_event;
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                () = sleep(pause) => {
                    pause = self.timeouts.next_event;
                    record("Pulling", format!("volume {}: {}", pull.name, pull.progress.sentence()));
                }
            }
        };
        if ended.is_ok() && begun.elapsed() >= self.timeouts.first_event {
            let took = format::span(begun.elapsed());
            record("Pulled", format!("volume {}: its layers were pulled in {took}", pull.name));
        }
        ended
    }

    /// Waits until no call has requested the pull for [`PullTimeouts::patience`]. Removes the pull, so that no call
    /// can join.
    async fn forgotten(&self, pull: &Arc<Pull>) {
        loop {
            let waits = pull.ended.receiver_count() > 0;
            let quiet = if waits { Duration::ZERO } else { pull.quiet_for() };
            match self.timeouts.patience.checked_sub(quiet) {
                Some(left) if !left.is_zero() => sleep(left).await,
                // Checked again under the lock, where no call can join meanwhile.
                _ => {
                    let gone = self.all(|_| {
                        pull.ended.receiver_count() == 0
                            && pull.quiet_for() >= self.timeouts.patience
                    });
                    if gone {
                        self.remove(pull);
                        return;
                    }
                }
            }
        }
    }

    fn remove(&self, pull: &Arc<Pull>) {
        self.all(|all| {
            if all.get(&pull.id).is_some_and(|there| Arc::ptr_eq(there, pull)) {
                all.remove(&pull.id);
            }
        });
    }

    /// Whether there is no pull.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all(|all| all.is_empty())
    }

    fn all<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Arc<Pull>>) -> T) -> T {
        f(&mut self.pulls.lock())
    }
}

/// Removes the pull when its task ends. If that was a panic, cancels the pull, so that no call waits for it.
struct End<'a> {
    jobs: &'a PullJobs,
    pull: &'a Arc<Pull>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.jobs.remove(self.pull);
        if !self.pull.stop.is_cancelled() {
            self.pull.cancelled.cancel();
        }
    }
}

impl Pull {
    fn quiet_for(&self) -> Duration {
        self.last_request.lock().elapsed()
    }

    fn touch(&self) {
        *self.last_request.lock() = Instant::now();
    }
}

impl PullHandle {
    fn on(pull: &Arc<Pull>) -> Self {
        pull.touch();
        Self { pull: pull.clone(), ended: pull.ended.subscribe() }
    }

    /// Waits for the end of the pull, but only until [`PullTimeouts::margin`] before the caller's `deadline`.
    pub(super) async fn end(
        &mut self,
        deadline: Option<Instant>,
        timeouts: PullTimeouts,
    ) -> PullOutcome {
        let give_up = async {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(left) => sleep(timeouts.wait_of(left)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.pull.cancelled.cancelled() => PullOutcome::Cancelled,
            ended = self.ended.wait_for(Option::is_some) => match ended.ok().and_then(|e| e.clone()) {
                Some(ended) => PullOutcome::Ended(ended),
                None => PullOutcome::Cancelled,
            },
            () = give_up => PullOutcome::Slow(self.pull.progress.sentence()),
        }
    }

    /// Whether the pull was cancelled. The result is valid while the volume's lock is held.
    pub(super) fn is_cancelled(&self, _: &VolumeLock) -> bool {
        self.pull.cancelled.is_cancelled()
    }
}

impl Drop for PullHandle {
    fn drop(&mut self) {
        self.pull.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/hazards.md: after a response at once the kubelet's pauses get longer and longer. A response after the
    /// deadline is lost.
    #[test]
    fn a_call_returns_some_seconds_before_its_deadline() {
        let (timeouts, s) = (PullTimeouts::default(), Duration::from_secs);
        for (left, wait) in [(120, 115), (15, 10), (8, 4), (0, 0)] {
            assert_eq!(timeouts.wait_of(s(left)), s(wait));
        }
    }
}
