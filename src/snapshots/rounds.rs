//! Copies an upper in rounds, the last of them while its pod stands still.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Consistency, CutError, CutRequest, Inner};
use crate::{
    sys::{
        clone::{CloneError, TreeClone},
        freezer::Group,
    },
    volumes::Pod,
};

/// The most rounds before the pod is stopped. Each is shorter than the one before unless the pod writes faster than they copy.
const ROUNDS: usize = 4;

/// A round that took less than this part of what the pod may stand still is short enough to be the last but one.
const PART: u32 = 10;

/// What came of the last round.
enum Last {
    /// The copy is the upper at one moment; the pod stood still for so long, if there is one.
    One(Option<Duration>),
    /// The pod was stopped and could not be, or not for long enough.
    Missed(CutError),
}

impl Inner {
    /// Copies everything. Answers for how long the pod stood still; `None` where it did not.
    pub(super) fn copy(
        &self,
        request: &CutRequest,
        pod: &Pod,
        clone: &mut TreeClone,
    ) -> Result<Option<Duration>, CutError> {
        let Consistency::Frozen { within, or_live } = request.consistency else {
            self.round(request, clone)?;
            return self.round(request, clone).map(|_| None);
        };
        for _ in 0..ROUNDS {
            if self.round(request, clone)? < within / PART {
                break;
            }
        }
        match self.last_round(request, pod, clone, within)? {
            Last::One(frozen) => Ok(frozen),
            Last::Missed(why) if or_live => {
                tracing::warn!(snapshot = %request.id, %why, "cut live instead");
                self.round(request, clone).map(|_| None)
            }
            Last::Missed(why) => Err(why),
        }
    }

    /// One round while the pod runs; answers how long it took.
    fn round(&self, request: &CutRequest, clone: &mut TreeClone) -> Result<Duration, CutError> {
        let begun = Instant::now();
        let done = clone.sync().and_then(|()| clone.catch_up(&|| true));
        done.map_err(|source| self.copy_failed(request, clone, source))?;
        let took = begun.elapsed();
        // Where files do not share their bytes each round may replace all that the one before took.
        clone.tidy().map_err(|source| self.copy_failed(request, clone, source))?;
        Ok(took)
    }

    fn last_round(
        &self,
        request: &CutRequest,
        pod: &Pod,
        clone: &mut TreeClone,
        within: Duration,
    ) -> Result<Last, CutError> {
        let (id, pod_name) = (&request.id, format!("{}/{}", pod.namespace, pod.name));
        let freeze = |source| CutError::Freeze { id: id.clone(), pod: pod_name.clone(), source };
        let late = || CutError::Late { id: id.clone(), pod: pod_name.clone(), within };
        let groups: Vec<Group> = match self.freezer.find(pod.uid.as_str()) {
            Ok(groups) => groups,
            Err(error) => return Ok(Last::Missed(freeze(error))),
        };
        if groups.is_empty() {
            // The pod has ended and nobody writes.
            return self.round(request, clone).map(|_| Last::One(None));
        }
        // Another volume of the pod may be cut: two that stop it would thaw it under each other.
        let Some(turn) = self.standstills.turn(pod.uid.as_str()) else {
            return Err(CutError::Stopping(id.clone()));
        };
        // Whatever is dirty would be written while the pod stands still.
        clone.sync().map_err(|source| self.copy_failed(request, clone, source))?;
        let still = match turn.stop(&self.store.frozen(), id, groups, within) {
            Ok(Some(still)) => still,
            Ok(None) => return Err(CutError::Stopping(id.clone())),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(Last::Missed(late())),
            Err(error) => return Ok(Last::Missed(freeze(error))),
        };
        let done = clone.catch_up(&|| !still.is_late());
        let stood = still.end().map_err(freeze)?;
        match (done, stood) {
            (Ok(()), stood) if stood.to_the_end => Ok(Last::One(Some(stood.time))),
            (Ok(()), stood) if stood.let_go => {
                let why = "somebody else, who had frozen it, let it go on meanwhile";
                Ok(Last::Missed(freeze(io::Error::other(why))))
            }
            (Ok(()) | Err(CloneError::Stopped), _) => Ok(Last::Missed(late())),
            (Err(source), _) => Err(self.copy_failed(request, clone, source)),
        }
    }

    fn copy_failed(&self, request: &CutRequest, clone: &TreeClone, source: CloneError) -> CutError {
        let error =
            CutError::Copy { id: request.id.clone(), volume: request.volume.clone(), source };
        self.full(request, clone.contents().bytes, error)
    }
}
