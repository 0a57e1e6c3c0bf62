//! Whose turn it is to collect: one round at a time. Who wants room waits for a round no longer than for that room.
//!
//! ```text
//! wants room ─► it is there ──────────────────────────────────────────► goes on
//!            ├► a round that began later found that it cannot be there ─► goes on, and is told so by who promises it
//!            ├► no round goes on ─► begins one
//!            └► looks again in a moment
//! ```
//!
//! So of many who find no room at once one goes round, and the others have what it found: else each would wait for the rounds of
//! all before him.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often somebody who waits looks whether the room is there.
const LOOK: Duration = Duration::from_millis(20);

/// The rounds of a store.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_on: bool,
    /// How many have begun.
    begun: u64,
    /// The last that ended for want of more to remove.
    futile: Option<Futile>,
}

/// A round that removed what it could.
#[derive(Debug, Clone, Copy)]
struct Futile {
    /// Which it was.
    number: u64,
    /// The most bytes that can be free, as it found.
    most: u64,
}

/// The right to go round, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'r> {
    rounds: &'r Rounds,
    number: u64,
}

impl Rounds {
    /// Waits for the round that goes on.
    pub(super) fn turn(&self) -> Turn<'_> {
        let mut state = self.state();
        while state.is_on {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.begin(state)
    }

    /// The same for one who wants `need` bytes free; `None` where no round is needed for that any more, or none is of use.
    pub(super) fn turn_for(&self, need: u64, is_there: impl Fn() -> bool) -> Option<Turn<'_>> {
        let mut state = self.state();
        let asked = state.begun;
        loop {
            let is_in_vain = |futile: &Futile| futile.number > asked && futile.most < need;
            if state.futile.as_ref().is_some_and(is_in_vain) || is_there() {
                return None;
            }
            if !state.is_on {
                return Some(self.begin(state));
            }
            let waited = self.ended.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn begin(&self, mut state: MutexGuard<'_, State>) -> Turn<'_> {
        state.is_on = true;
        state.begun += 1;
        Turn { rounds: self, number: state.begun }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The round has found that no more than `most` bytes can be free.
    pub(super) fn in_vain(&self, most: u64) {
        self.rounds.state().futile = Some(Futile { number: self.number, most });
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.rounds.state().is_on = false;
        self.rounds.ended.notify_all();
    }
}
