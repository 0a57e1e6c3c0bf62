//! Copies an upper in rounds, the last of them while its pod stands still.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{CaptureError, CaptureRequest, Consistency, Inner, capture::Moment};
use crate::{
    layers::{Reservation, ReserveError},
    sys::{
        clone::{CloneError, Round, TreeClone},
        freezer::Group,
    },
    volumes::VolumeGuard,
};

/// The most rounds before the pod is stopped. Each is shorter than the one before unless the pod writes faster than they copy; the
/// first takes its time.
const ROUNDS: usize = 5;

/// A round that took less than this part of what the pod may stand still is short enough to be the last but one.
const PART: u32 = 10;

/// For how long the cgroup of a pod that has ended may still be there: the kubelet removes it within seconds.
const EMPTY: Duration = Duration::from_secs(5);

/// Between two looks at it.
const AGAIN: Duration = Duration::from_millis(20);

/// What came of the last round.
enum LastRound {
    /// The copy is the upper at one moment.
    One(Moment),
    /// The pod was stopped and could not be, or not for long enough.
    Missed(CaptureError),
}

/// One copy under way.
pub(super) struct Copy<'a> {
    pub(super) inner: &'a Inner,
    pub(super) request: &'a CaptureRequest,
    pub(super) guard: &'a VolumeGuard,
    pub(super) stop: &'a CancellationToken,
    pub(super) clone: TreeClone,
    pub(super) reservation: &'a Reservation,
}

impl Copy<'_> {
    /// Copies everything; returns what it is a copy of.
    pub(super) fn all(&mut self) -> Result<Moment, CaptureError> {
        let Consistency::Frozen { within, or_live } = self.request.consistency else {
            self.round(Round::Early)?;
            return self.live(Moment::Many);
        };
        for _ in 0..ROUNDS {
            if self.round(Round::Early)? < within / PART {
                break;
            }
        }
        match self.last_round(within)? {
            LastRound::One(moment) => Ok(moment),
            LastRound::Missed(why) if or_live => {
                tracing::warn!(snapshot = %self.request.id, %why, "cut live instead");
                self.live(Moment::Many)
            }
            LastRound::Missed(why) => Err(why),
        }
    }

    /// The last round of a copy for which nobody stands still.
    fn live(&mut self, moment: Moment) -> Result<Moment, CaptureError> {
        self.round(Round::Live)?;
        self.inner.ensure_whole(self.guard, self.request)?;
        Ok(moment)
    }

    /// One round while the pod runs; returns how long it took.
    fn round(&mut self, what: Round) -> Result<Duration, CaptureError> {
        let begun = Instant::now();
        self.clone.sync().map_err(|source| self.failed(source))?;
        self.catch_up(what)?;
        let took = begun.elapsed();
        // Where files do not share their bytes each round may replace all that the one before took.
        self.clone.tidy().map_err(|source| self.failed(source))?;
        self.reservation.settle(self.clone.contents().bytes);
        Ok(took)
    }

    fn catch_up(&mut self, what: Round) -> Result<(), CaptureError> {
        let (held, stop) = (self.guard, self.stop);
        let go_on = || !held.is_wanted() && !stop.is_cancelled();
        self.clone.catch_up(what, &go_on).map_err(|source| self.failed(source))
    }

    fn last_round(&mut self, within: Duration) -> Result<LastRound, CaptureError> {
        let (id, pod) = (&self.request.id, self.guard.pod());
        let pod_name = format!("{}/{}", pod.namespace, pod.name);
        let freeze =
            |source| CaptureError::Freeze { id: id.clone(), pod: pod_name.clone(), source };
        let late = || CaptureError::Late { id: id.clone(), pod: pod_name.clone(), within };
        let groups = match self.groups()? {
            Ok(groups) => groups,
            Err(error) => return Ok(LastRound::Missed(freeze(error))),
        };
        if groups.is_empty() {
            return self.live(Moment::Ended).map(LastRound::One);
        }
        let inner = self.inner;
        // Another volume of the pod may be cut: two that stop it would thaw it under each other.
        let Some(turn) = inner.standstills.turn(pod.uid.as_str()) else {
            return Err(CaptureError::Stopping(id.clone()));
        };
        self.clean()?;
        let still = match turn.stop(&inner.store.frozen(), id, groups, within) {
            Ok(Some(still)) => still,
            Ok(None) => return Err(CaptureError::Stopping(id.clone())),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(LastRound::Missed(late())),
            Err(error) => return Ok(LastRound::Missed(freeze(error))),
        };
        let (held, stop) = (self.guard, self.stop);
        let given_up = || held.is_wanted() || stop.is_cancelled();
        let done = self.clone.catch_up(Round::Still, &|| !still.is_late() && !given_up());
        // The pod may have changed a file's first name since the copy began.
        let whole = inner.ensure_whole(self.guard, self.request);
        let stood = still.end().map_err(freeze)?;
        whole?;
        match (done, stood) {
            (Ok(()), stood) if stood.to_the_end => Ok(LastRound::One(Moment::Still(stood.time))),
            (Ok(()), stood) if stood.let_go => {
                let why = "somebody else, who had frozen it, let it go on meanwhile";
                Ok(LastRound::Missed(freeze(io::Error::other(why))))
            }
            (Err(CloneError::Stopped), _) if given_up() => Err(self.failed(CloneError::Stopped)),
            (Ok(()) | Err(CloneError::Stopped), _) => Ok(LastRound::Missed(late())),
            (Err(source), _) => Err(self.failed(source)),
        }
    }

    /// Writes out what is dirty, which would be written while the pod stands still: by a flush, or where others have written much,
    /// by one more round.
    fn clean(&mut self) -> Result<(), CaptureError> {
        match self.clone.sync() {
            Ok(true) => Ok(()),
            Ok(false) => self.catch_up(Round::Early),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The cgroups of the pod, with processes in one of them at least; none where the pod has ended. One that stays without any
    /// while the volume is mounted is an error: who writes runs elsewhere, as in a virtual machine, and would not stand still.
    fn groups(&self) -> Result<io::Result<Vec<Group>>, CaptureError> {
        let begun = Instant::now();
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
            if begun.elapsed() >= EMPTY {
                let why = format!(
                    "its cgroup {} holds no process while the volume is mounted, so what writes to it runs elsewhere, \
                     for example in a virtual machine",
                    empty.path().display()
                );
                return Ok(Err(io::Error::other(why)));
            }
            if self.guard.is_wanted() || self.stop.is_cancelled() {
                return Err(self.failed(CloneError::Stopped));
            }
            thread::sleep(AGAIN);
        }
    }

    fn failed(&self, source: CloneError) -> CaptureError {
        let CaptureRequest { id, volume, .. } = self.request;
        if matches!(source, CloneError::Stopped) {
            return match self.guard.is_wanted() {
                true => CaptureError::GoneOn { id: id.clone(), volume: volume.clone() },
                false => CaptureError::Unwanted(id.clone()),
            };
        }
        let error = match without_space(source) {
            // Whoever found no room before he wrote has made some.
            Ok(source) => return CaptureError::NoSpace { id: id.clone(), source },
            Err(source) => CaptureError::Copy { id: id.clone(), volume: volume.clone(), source },
        };
        self.inner.full(self.request, self.clone.copied(), error)
    }
}

/// That there is no room for a copy, if that is why it failed: which file it had come to does not matter.
fn without_space(error: CloneError) -> Result<ReserveError, CloneError> {
    match error {
        CloneError::Entry { path, source } => {
            source.downcast().map_err(|source| CloneError::Entry { path, source })
        }
        error => Err(error),
    }
}
