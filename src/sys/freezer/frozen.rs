//! Processes that stand still, and the thread that lets them go on at the deadline.
//!
//! ```text
//! new ─► hold: told again and again until they stand still ─► thaw: done
//!   └──────────────────────┴─► the deadline, or given up: late
//! ```
//!
//! Deliberately absent: which processes, and what is on disk about them.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::Group;

/// Between two looks at whether everybody stands still.
const PAUSE: Duration = Duration::from_micros(200);

/// Processes that stand still, until this is dropped or the time is up.
#[derive(Debug)]
pub struct Frozen {
    shared: Arc<Shared>,
    begun: Instant,
    until: Instant,
}

#[derive(Debug)]
struct Shared {
    ours: Vec<Group>,
    /// What somebody else has frozen: theirs to thaw, whenever they like.
    theirs: Vec<Group>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Still,
    /// The time was up before anybody was done.
    Late,
    /// Somebody else had let theirs go on when it was done.
    LetGo,
    Done,
}

/// For how long processes stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stood {
    /// From when they were told to until they were told to go on.
    pub time: Duration,
    /// Whether they did so until the caller was done.
    pub to_the_end: bool,
    /// Whether they did not because somebody else, who had frozen some of them, let these go on.
    pub let_go: bool,
}

impl Frozen {
    /// Everybody in these cgroups, for no longer than `within` from now; nobody stands still before [`Frozen::hold`]. Who stands
    /// still already by somebody else's will is left so afterwards.
    pub fn new(groups: &[Group], within: Duration) -> io::Result<Self> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for group in groups {
            let whose = if group.is_frozen_by_others()? { &mut theirs } else { &mut ours };
            whose.push(group.clone());
        }
        let (state, changed) = (Mutex::new(State::Still), Condvar::new());
        let shared = Arc::new(Shared { ours, theirs, state, changed });
        let begun = Instant::now();
        let until = begun + within;
        // Before anybody is told: without it nobody may be.
        let watched = shared.clone();
        thread::Builder::new().name("thaw".to_owned()).spawn(move || watched.watch(until))?;
        Ok(Self { shared, begun, until })
    }

    /// Makes them stand still, and waits until they do.
    ///
    /// Errors: `TimedOut` where somebody does not in time; a process in an uninterruptible wait cannot. Whatever the error, all go
    /// on when this is dropped.
    pub fn hold(&self) -> io::Result<()> {
        loop {
            // Held, so that nobody is told to stand still after the watchdog told them to go on.
            let state = self.shared.state();
            if *state != State::Still || self.is_late() {
                let why = "not all of its processes came to stand still in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            let mut still = true;
            for group in &self.shared.ours {
                still &= group.freeze()?;
            }
            drop(state);
            // Told to is not done, whoever told them.
            if still && self.shared.theirs_are_still()? {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Whether the time is up.
    pub fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Lets everybody go on. The same again changes nothing.
    pub fn thaw(&self) -> io::Result<Stood> {
        let mut state = self.shared.state();
        if *state == State::Still {
            let still = self.shared.theirs_are_still();
            self.shared.thaw_all()?;
            *state = if still.is_ok_and(|still| still) { State::Done } else { State::LetGo };
            self.shared.changed.notify_all();
        }
        Ok(Stood {
            time: self.begun.elapsed(),
            to_the_end: *state == State::Done,
            let_go: *state == State::LetGo,
        })
    }

    /// Lets everybody go on as if the time were up, whatever its holder is about to do.
    pub fn give_up(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        if *state == State::Still {
            self.shared.thaw_all()?;
            *state = State::Late;
            self.shared.changed.notify_all();
        }
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = self.thaw() {
            tracing::error!(%error, "processes may stand still: they are told to go on at the next start");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // One word, whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn theirs_are_still(&self) -> io::Result<bool> {
        for group in &self.theirs {
            // Both: who was told to go on may not have done so yet.
            if !group.is_still()? || !group.is_frozen_by_others()? && group.is_there() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Thaws at the deadline unless that is done before.
    fn watch(&self, until: Instant) {
        let mut state = self.state();
        while *state == State::Still {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                match self.thaw_all() {
                    Ok(()) => *state = State::Late,
                    Err(error) => {
                        tracing::error!(%error, "processes stand still and cannot be thawed");
                        return;
                    }
                }
            } else {
                let waited = self.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn thaw_all(&self) -> io::Result<()> {
        // Each of them, whatever becomes of another.
        let done: Vec<_> = self.ours.iter().map(Group::thaw).collect();
        done.into_iter().collect()
    }
}
