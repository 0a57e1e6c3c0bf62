//! Pulls that volumes wait for.
//!
//! ```text
//!             join                       ended                     taken
//!   (nothing) ────► going on, with or ─────────► kept for whoever ───────► (nothing)
//!                   without a waiter             asks next
//!                        │ unpublished, or asked for otherwise: called off ──► (nothing)
//!                        │ nobody asked for long: forgotten ─────────────────► (nothing)
//! ```
//!
//! A pull may take an hour and a call two minutes, so a pull is a task of its own that calls join. Nobody holds the volume's
//! lock meanwhile, so that its pod can go at any time; what then takes the lock to make the volume has to know that it is not
//! wanted any more, or it would mount for a pod that is gone.

use std::{
    collections::HashMap,
    future::{Future, pending},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    EventRecorder, Pod, PodEvent, PodEventType, Progress, PublishRequest, PullError, VolumeId,
    VolumeSpec, lock::VolumeLock, puller::PulledLayers,
};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct PullTimeouts {
    /// How much of a call's time is left when it is answered that the pull goes on.
    pub(super) margin: Duration,
    /// How long a pull goes on, or its result is kept, while nobody asks for it.
    pub(super) patience: Duration,
    /// When the pod is first told that a pull goes on.
    pub(super) first_word: Duration,
    /// When it is told again.
    pub(super) next_word: Duration,
}

impl Default for PullTimeouts {
    fn default() -> Self {
        Self {
            margin: Duration::from_secs(5),
            // The kubelet's longest pause between two tries is two minutes.
            patience: Duration::from_secs(600),
            first_word: Duration::from_secs(10),
            next_word: Duration::from_secs(30),
        }
    }
}

impl PullTimeouts {
    /// How long a call waits whose caller gives up after `left`.
    fn wait_of(&self, left: Duration) -> Duration {
        left - self.margin.min(left / 2)
    }
}

/// How a pull ended: told to everybody who waits for it.
type Ended = Result<Arc<PulledLayers>, Arc<PullError>>;

/// All pulls that go on, or ended and have not been taken.
#[derive(Debug, Clone)]
pub(super) struct PullJobs {
    pulls: Arc<Mutex<HashMap<VolumeId, Arc<Pull>>>>,
    notices: Arc<dyn EventRecorder>,
    pace: PullTimeouts,
}

#[derive(Debug)]
struct Pull {
    id: VolumeId,
    pod: Pod,
    spec: VolumeSpec,
    progress: Progress,
    ended: watch::Sender<Option<Ended>>,
    last_request: Mutex<Instant>,
    /// Whoever waits is to give up.
    called_off: CancellationToken,
    /// The task is to end: so too when it is called off.
    over: CancellationToken,
}

/// One who waits for a pull.
#[derive(Debug)]
pub(super) struct PullHandle {
    pull: Arc<Pull>,
    ended: watch::Receiver<Option<Ended>>,
}

/// What came of waiting.
#[derive(Debug)]
pub(super) enum PullOutcome {
    /// The pull ended.
    Ended(Ended),
    /// The volume is not wanted any more.
    CalledOff,
    /// The pull goes on, and is this far.
    Slow(String),
}

impl PullJobs {
    pub(super) fn new(notices: Arc<dyn EventRecorder>, pace: PullTimeouts) -> Self {
        Self { pulls: Arc::default(), notices, pace }
    }

    /// Joins the volume's pull, or begins one. One for another spec or pod is called off.
    pub(super) fn join<F>(
        &self,
        _: &VolumeLock,
        request: &PublishRequest,
        begin: impl FnOnce(Progress) -> F,
    ) -> PullHandle
    where
        F: Future<Output = Result<PulledLayers, PullError>> + Send + 'static,
    {
        self.all(|all| {
            if let Some(pull) = all.get(&request.id) {
                if pull.spec == request.spec && pull.pod == request.pod {
                    return PullHandle::on(pull);
                }
                pull.called_off.cancel();
            }
            let called_off = CancellationToken::new();
            let pull = Arc::new(Pull {
                id: request.id.clone(),
                pod: request.pod.clone(),
                spec: request.spec.clone(),
                progress: Progress::default(),
                ended: watch::Sender::new(None),
                last_request: Mutex::new(Instant::now()),
                over: called_off.child_token(),
                called_off,
            });
            let waiting = PullHandle::on(&pull);
            all.insert(request.id.clone(), pull.clone());
            let work = begin(pull.progress.clone());
            // A trace of its own: it outlives the call that began it.
            let pod = format!("{}/{}", pull.pod.namespace, pull.pod.name);
            let span = tracing::error_span!(parent: None, "pull", volume = %pull.id, %pod);
            span.follows_from(tracing::Span::current());
            tokio::spawn(self.clone().run(pull, work).instrument(span));
            waiting
        })
    }

    /// Whether the volume's layers are on their way, or came and wait to be asked for. The answer holds while the lock is held.
    pub(super) fn has(&self, lock: &VolumeLock) -> bool {
        self.all(|all| all.contains_key(lock.id()))
    }

    /// Calls off whatever the volume waits for.
    pub(super) fn call_off(&self, lock: &VolumeLock) {
        if let Some(pull) = self.all(|all| all.remove(lock.id())) {
            pull.called_off.cancel();
        }
    }

    /// Says that what the pull brought was used, or failed for good: the next who asks begins anew.
    pub(super) fn taken(&self, waiting: &PullHandle) {
        self.remove(&waiting.pull);
        waiting.pull.over.cancel();
    }

    async fn run(
        self,
        pull: Arc<Pull>,
        work: impl Future<Output = Result<PulledLayers, PullError>>,
    ) {
        let _end = End { pending: &self, pull: &pull };
        let kept = async {
            let ended = self.report_while(&pull, work).await;
            pull.ended.send_replace(Some(ended.map(Arc::new).map_err(Arc::new)));
            pending::<()>().await;
        };
        tokio::select! {
            () = kept => {}
            () = pull.over.cancelled() => {}
            () = self.forgotten(&pull) => {
                tracing::info!(volume = %pull.id, "nobody asks for the volume any more: its pull is given up");
                pull.called_off.cancel();
            }
        }
    }

    /// Tells the pod how far a slow pull is.
    async fn report_while<T>(
        &self,
        pull: &Pull,
        work: impl Future<Output = Result<T, PullError>>,
    ) -> Result<T, PullError> {
        let begun = Instant::now();
        let tell = |reason, message| {
            self.notices
                .record(&pull.pod, PodEvent { kind: PodEventType::Normal, reason, message });
        };
        let mut work = pin!(work);
        let mut pause = self.pace.first_word;
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                () = sleep(pause) => {
                    pause = self.pace.next_word;
                    tell("Pulling", format!("volume {}: {}", pull.id, pull.progress.sentence()));
                }
            }
        };
        if ended.is_ok() && begun.elapsed() >= self.pace.first_word {
            let seconds = begun.elapsed().as_secs();
            tell("Pulled", format!("volume {}: its layers are here after {seconds} s", pull.id));
        }
        ended
    }

    /// Returns when nobody has asked for long, and nobody can any more.
    async fn forgotten(&self, pull: &Arc<Pull>) {
        loop {
            let waits = pull.ended.receiver_count() > 0;
            let quiet = if waits { Duration::ZERO } else { pull.quiet_for() };
            match self.pace.patience.checked_sub(quiet) {
                Some(left) if !left.is_zero() => sleep(left).await,
                // Looked at again where nobody can join meanwhile.
                _ => {
                    let gone = self.all(|_| {
                        pull.ended.receiver_count() == 0 && pull.quiet_for() >= self.pace.patience
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

    /// Whether no volume waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all(|all| all.is_empty())
    }

    fn all<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Arc<Pull>>) -> T) -> T {
        f(&mut self.pulls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A task that ends, also by a fault of ours, leaves nobody waiting for it.
struct End<'a> {
    pending: &'a PullJobs,
    pull: &'a Arc<Pull>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.pending.remove(self.pull);
        if !self.pull.over.is_cancelled() {
            self.pull.called_off.cancel();
        }
    }
}

impl Pull {
    fn quiet_for(&self) -> Duration {
        self.last_request.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn touch(&self) {
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl PullHandle {
    fn on(pull: &Arc<Pull>) -> Self {
        pull.touch();
        Self { pull: pull.clone(), ended: pull.ended.subscribe() }
    }

    /// Waits for the end, and not beyond the time at which the caller, who gives up at `deadline`, wants an answer.
    pub(super) async fn end(
        &mut self,
        deadline: Option<Instant>,
        pace: PullTimeouts,
    ) -> PullOutcome {
        let give_up = async {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(left) => sleep(pace.wait_of(left)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.pull.called_off.cancelled() => PullOutcome::CalledOff,
            ended = self.ended.wait_for(Option::is_some) => match ended.ok().and_then(|e| e.clone()) {
                Some(ended) => PullOutcome::Ended(ended),
                None => PullOutcome::CalledOff,
            },
            () = give_up => PullOutcome::Slow(self.pull.progress.sentence()),
        }
    }

    /// Whether the volume is not wanted any more. The answer holds while the volume's lock is held.
    pub(super) fn is_called_off(&self, _: &VolumeLock) -> bool {
        self.pull.called_off.is_cancelled()
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

    /// HAZARDS: an answer at once makes the kubelet pause longer and longer; one that is too late is none.
    #[test]
    fn a_call_is_answered_some_seconds_before_its_end() {
        let (pace, s) = (PullTimeouts::default(), Duration::from_secs);
        for (left, wait) in [(120, 115), (15, 10), (8, 4), (0, 0)] {
            assert_eq!(pace.wait_of(s(left)), s(wait));
        }
    }
}
