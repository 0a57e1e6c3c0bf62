//! Serializes garbage collection rounds. A caller that needs space waits for a running round only until the space is
//! free.
//!
//! ```text
//! needs space ─► enough is free ────────────────────────────────────────► returns
//!             ├► a round that began later found that it cannot be freed ─► returns; the reservation then fails
//!             ├► no round is running ─► begins one
//!             └► checks again after a short time
//! ```
//!
//! So if many callers find no space at once, one runs a round and the others use its result. Otherwise each caller
//! would wait for the rounds of all callers before it.
//!
//! In a shared store a round also has the lock of a directory. A process does not learn what a round of another one has
//! found, so it then runs its own.

use std::{io, path::PathBuf, time::Duration};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::sys::flock::{self, Kind, Lock};

/// The interval at which a waiting caller checks whether the space is free.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The rounds of a store.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    ended: Condvar,
    /// Locked by the process that runs a round. `None` in a store that is not shared.
    dir: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    /// The number of rounds that have begun.
    begun: u64,
    /// The last round that removed all that it could and did not free enough.
    insufficient: Option<Insufficient>,
}

/// The result of a round that could not free enough.
#[derive(Debug, Clone, Copy)]
struct Insufficient {
    /// The number of the round.
    number: u64,
    /// The most bytes that can be free, according to the round.
    most: u64,
}

/// The right to run a round, until it is dropped.
#[derive(Debug)]
pub(super) struct GcTurn<'r> {
    rounds: &'r Rounds,
    number: u64,
    _other_processes: OtherProcesses,
}

/// Keeps other processes from running a round.
#[derive(Debug)]
struct OtherProcesses {
    _lock: Option<Lock>,
}

impl Rounds {
    /// No round yet. `dir` for a shared store: the directory whose lock a round has.
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, ..Self::default() }
    }

    /// Waits until no round is running, also in another process, then begins one.
    ///
    /// # Errors
    /// The directory of a shared store cannot be locked.
    pub(super) fn turn(&self) -> io::Result<GcTurn<'_>> {
        let mut state = self.state();
        loop {
            if !state.is_running
                && let Some(others) = self.exclude_others()?
            {
                return Ok(self.begin(state, others));
            }
            self.ended.wait_for(&mut state, POLL_INTERVAL);
        }
    }

    /// Begins a round as [`Rounds::turn`] does, for a caller that needs `need` free bytes. Returns `None` if no round
    /// is needed, because `is_free` returns true, or if a round that began after this call found that so much cannot be
    /// freed.
    ///
    /// # Errors
    /// As [`Rounds::turn`].
    pub(super) fn turn_for(
        &self,
        need: u64,
        is_free: impl Fn() -> bool,
    ) -> io::Result<Option<GcTurn<'_>>> {
        let mut state = self.state();
        let begun_before = state.begun;
        loop {
            let is_insufficient = |insufficient: &Insufficient| {
                insufficient.number > begun_before && insufficient.most < need
            };
            if state.insufficient.as_ref().is_some_and(is_insufficient) || is_free() {
                return Ok(None);
            }
            if !state.is_running
                && let Some(others) = self.exclude_others()?
            {
                return Ok(Some(self.begin(state, others)));
            }
            self.ended.wait_for(&mut state, POLL_INTERVAL);
        }
    }

    fn begin(
        &self,
        mut state: MutexGuard<'_, State>,
        _other_processes: OtherProcesses,
    ) -> GcTurn<'_> {
        state.is_running = true;
        state.begun += 1;
        GcTurn { rounds: self, number: state.begun, _other_processes }
    }

    /// `None` while another process runs a round.
    fn exclude_others(&self) -> io::Result<Option<OtherProcesses>> {
        let Some(dir) = &self.dir else { return Ok(Some(OtherProcesses { _lock: None })) };
        let lock = Lock::try_take(flock::open_dir(dir)?, Kind::Exclusive)?;
        Ok(lock.map(|lock| OtherProcesses { _lock: Some(lock) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl GcTurn<'_> {
    /// Records that this round found that no more than `most` bytes can be free.
    pub(super) fn record_insufficient(&self, most: u64) {
        self.rounds.state().insufficient = Some(Insufficient { number: self.number, most });
    }
}

impl Drop for GcTurn<'_> {
    fn drop(&mut self) {
        self.rounds.state().is_running = false;
        self.rounds.ended.notify_all();
    }
}
