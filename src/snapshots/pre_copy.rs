//! Copies an upper in rounds, the last of them while the pod is frozen (as pre-copy in live migration).

use std::{
    io, thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{CaptureError, CaptureRequest, Consistency, Inner};
use crate::{
    layers::{Reservation, ReserveError},
    sys::{
        clone::{CloneError, Round, TreeClone},
        freezer::Group,
    },
    volumes::VolumeGuard,
};

/// The most pre-copy rounds before the pod is frozen. The first round takes the longest. Each further one is shorter,
/// unless the pod writes faster than the rounds copy.
const MAX_ROUNDS: usize = 5;

/// The freeze follows a round that took less than this fraction (1/10) of the longest allowed freeze.
const SHORT_ROUND_DIVISOR: u32 = 10;

/// How long the cgroup of an ended pod may exist without processes. The kubelet removes it within seconds.
const EMPTY_CGROUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a capture waits for another one of the same pod. It has memory meanwhile, for which the other may wait, so
/// it must not wait for ever.
const POD_TIMEOUT: Duration = Duration::from_secs(600);

/// The pause between two reads of the cgroup.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The moment that a copy shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The volume while its pod was frozen, for this time.
    Frozen(Duration),
    /// The volume as its pod left it. No process of the pod runs any more.
    Ended,
    /// Each file at a moment of its own.
    Live,
}

impl Moment {
    /// How long the pod was frozen, in microseconds. `None` if it was not.
    pub(super) fn micros(self) -> Option<u64> {
        match self {
            Self::Frozen(time) => Some(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            Self::Ended | Self::Live => None,
        }
    }
}

/// The result of the last round.
enum LastRound {
    /// The copy shows the upper at one moment.
    Consistent(Moment),
    /// The pod could not be frozen, or not for long enough.
    NotFrozen(CaptureError),
}

/// One copy of an upper, in progress.
pub(super) struct PreCopy<'a> {
    pub(super) inner: &'a Inner,
    pub(super) request: &'a CaptureRequest,
    pub(super) guard: &'a VolumeGuard,
    pub(super) stop: &'a CancellationToken,
    pub(super) clone: TreeClone,
    pub(super) reservation: &'a Reservation,
}

impl PreCopy<'_> {
    /// Copies everything. Returns which moment the copy shows.
    pub(super) fn run(&mut self) -> Result<Moment, CaptureError> {
        let Consistency::Frozen { within, or_live } = self.request.consistency else {
            self.round(Round::PreCopy)?;
            return self.final_live_round(Moment::Live);
        };
        for _ in 0..MAX_ROUNDS {
            if self.round(Round::PreCopy)? < within / SHORT_ROUND_DIVISOR {
                break;
            }
        }
        match self.last_round(within)? {
            LastRound::Consistent(moment) => Ok(moment),
            LastRound::NotFrozen(error) if or_live => {
                let snapshot = &self.request.id;
                tracing::warn!(%snapshot, %error, "the pod cannot be frozen; the capture is live");
                self.final_live_round(Moment::Live)
            }
            LastRound::NotFrozen(error) => Err(error),
        }
    }

    /// The last round of a copy without a freeze.
    fn final_live_round(&mut self, moment: Moment) -> Result<Moment, CaptureError> {
        self.round(Round::Live)?;
        self.inner.ensure_complete(self.guard, self.request)?;
        Ok(moment)
    }

    /// One round while the pod runs. Returns how long it took.
    fn round(&mut self, what: Round) -> Result<Duration, CaptureError> {
        let start = Instant::now();
        self.clone.sync().map_err(|source| self.failed(source))?;
        self.catch_up(what)?;
        let took = start.elapsed();
        // On a file system without reflinks, a round may replace all bytes that the round before copied.
        self.clone.free_replaced().map_err(|source| self.failed(source))?;
        self.reservation.reduce_to(self.clone.contents().bytes);
        Ok(took)
    }

    fn catch_up(&mut self, what: Round) -> Result<(), CaptureError> {
        let (guard, stop) = (self.guard, self.stop);
        let may_continue = || !guard.is_unpublish_requested() && !stop.is_cancelled();
        self.clone.catch_up(what, &may_continue).map_err(|source| self.failed(source))
    }

    /// The round during which the pod is frozen.
    fn last_round(&mut self, within: Duration) -> Result<LastRound, CaptureError> {
        let (id, pod) = (&self.request.id, self.guard.pod());
        let pod_name = format!("{}/{}", pod.namespace, pod.name);
        let cannot_freeze =
            |source| CaptureError::Freeze { id: id.clone(), pod: pod_name.clone(), source };
        let timed_out =
            || CaptureError::FreezeTimeout { id: id.clone(), pod: pod_name.clone(), within };
        let groups = match self.groups()? {
            Ok(groups) => groups,
            Err(error) => return Ok(LastRound::NotFrozen(cannot_freeze(error))),
        };
        if groups.is_empty() {
            return self.final_live_round(Moment::Ended).map(LastRound::Consistent);
        }
        let inner = self.inner;
        // Another volume of the same pod may be captured at this time. The first of two captures that froze the pod
        // together would thaw it under the second.
        let (guard, stop, start) = (self.guard, self.stop, Instant::now());
        let is_cancelled = || guard.is_unpublish_requested() || stop.is_cancelled();
        let may_wait = || !is_cancelled() && start.elapsed() < POD_TIMEOUT;
        let Some(turn) = inner.freezes.turn(pod.uid.as_str(), &may_wait) else {
            return Err(match (is_cancelled(), may_wait()) {
                (true, _) => self.failed(CloneError::Stopped),
                (false, true) => CaptureError::Stopping(id.clone()),
                (false, false) => CaptureError::PodBusy { id: id.clone(), pod: pod_name },
            });
        };
        self.write_back()?;
        let freeze = match turn.freeze(&inner.store.frozen(), id, groups, within) {
            Ok(Some(freeze)) => freeze,
            Ok(None) => return Err(CaptureError::Stopping(id.clone())),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return Ok(LastRound::NotFrozen(timed_out()));
            }
            Err(error) => return Ok(LastRound::NotFrozen(cannot_freeze(error))),
        };
        let copied = self.clone.catch_up(Round::Frozen, &|| !freeze.is_late() && !is_cancelled());
        // The pod may have changed a file through one of its hard links since the copy began.
        let complete = inner.ensure_complete(self.guard, self.request);
        let frozen = freeze.end().map_err(cannot_freeze)?;
        complete?;
        match (copied, frozen) {
            (Ok(()), frozen) if frozen.complete => {
                Ok(LastRound::Consistent(Moment::Frozen(frozen.duration)))
            }
            (Ok(()), frozen) if frozen.thawed_by_others => {
                let why = "another process had frozen it, and thawed it during the copy";
                Ok(LastRound::NotFrozen(cannot_freeze(io::Error::other(why))))
            }
            (Err(CloneError::Stopped), _) if is_cancelled() => {
                Err(self.failed(CloneError::Stopped))
            }
            (Ok(()) | Err(CloneError::Stopped), _) => Ok(LastRound::NotFrozen(timed_out())),
            (Err(source), _) => Err(self.failed(source)),
        }
    }

    /// Writes dirty data to the disk, which would otherwise be written while the pod is frozen. It does so by a flush,
    /// or by one more round if other writers have much dirty data.
    fn write_back(&mut self) -> Result<(), CaptureError> {
        match self.clone.sync() {
            Ok(true) => Ok(()),
            Ok(false) => self.catch_up(Round::PreCopy),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The cgroups of the pod, of which at least one has a process. Empty if the pod has ended. A cgroup that stays
    /// without processes while the volume is mounted is an error: the writers run elsewhere, for example in a virtual
    /// machine, and would not be frozen.
    fn groups(&self) -> Result<io::Result<Vec<Group>>, CaptureError> {
        let start = Instant::now();
        loop {
            let groups = match self.inner.freezer.find(self.guard.pod().uid.as_str()) {
                Ok(groups) => groups,
                Err(error) => return Ok(Err(error)),
            };
            for group in &groups {
                match group.is_populated() {
                    Ok(true) => return Ok(Ok(groups)),
                    Ok(false) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
            let Some(empty) = groups.first().filter(|_| self.guard.is_mounted()) else {
                return Ok(Ok(Vec::new()));
            };
            if start.elapsed() >= EMPTY_CGROUP_TIMEOUT {
                let why = format!(
                    "its cgroup {} has no process while the volume is mounted, so its writers run elsewhere, \
                     for example in a virtual machine",
                    empty.path().display()
                );
                return Ok(Err(io::Error::other(why)));
            }
            if self.guard.is_unpublish_requested() || self.stop.is_cancelled() {
                return Err(self.failed(CloneError::Stopped));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    fn failed(&self, source: CloneError) -> CaptureError {
        let CaptureRequest { id, volume, .. } = self.request;
        if matches!(source, CloneError::Stopped) {
            return match self.guard.is_unpublish_requested() {
                true => CaptureError::Unpublishing { id: id.clone(), volume: volume.clone() },
                false => CaptureError::Cancelled(id.clone()),
            };
        }
        let error = match without_space(source) {
            // The reservation was refused before a write, and the store has freed space already.
            Ok(source) => return CaptureError::NoSpace { id: id.clone(), source },
            Err(source) => CaptureError::Copy { id: id.clone(), volume: volume.clone(), source },
        };
        self.inner.or_full(self.request, self.clone.copied(), error)
    }
}

/// The [`ReserveError`] inside `error`, if the copy failed for lack of space. Which file it had reached does not matter
/// then.
fn without_space(error: CloneError) -> Result<ReserveError, CloneError> {
    match error {
        CloneError::Entry { path, source } => {
            source.downcast().map_err(|source| CloneError::Entry { path, source })
        }
        error => Err(error),
    }
}
