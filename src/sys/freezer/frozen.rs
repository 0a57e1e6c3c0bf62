//! Frozen processes, and the watchdog thread that thaws them at the deadline.
//!
//! ```text
//! new ─► hold: repeats the freeze request until all are frozen ─► thaw: done
//!   └──────────────────────┴─► the deadline, or given up: late
//! ```
//!
//! Deliberately absent: which processes, and what is on disk about them.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::Group;

/// The pause between two checks whether all processes are frozen.
const PAUSE: Duration = Duration::from_micros(200);

/// Frozen processes. They are thawed when this is dropped or at the deadline.
#[derive(Debug)]
pub struct Frozen {
    shared: Arc<Shared>,
    started: Instant,
    until: Instant,
}

#[derive(Debug)]
struct Shared {
    ours: Vec<Group>,
    /// Cgroups that another program has frozen. Only that program thaws them, at any time.
    theirs: Vec<Group>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Frozen,
    /// The deadline was reached, or the freeze was given up, before the caller was done.
    Late,
    /// Another program had thawed its cgroups before the caller was done.
    ThawedByOthers,
    Done,
}

/// How long processes were frozen, and how the freeze ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreezeResult {
    /// Time between the request to freeze and the thaw.
    pub duration: Duration,
    /// Whether they were frozen until the caller was done.
    pub complete: bool,
    /// Whether they were not, because another program thawed cgroups that it had frozen.
    pub thawed_by_others: bool,
}

impl Frozen {
    /// Prepares the freeze of these cgroups, which ends `within` from now at the latest. No process
    /// is frozen before [`Frozen::freeze`]. A cgroup that another program has frozen is left frozen
    /// afterwards.
    pub fn new(groups: &[Group], within: Duration) -> io::Result<Self> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for group in groups {
            let whose = if group.is_frozen_by_others()? { &mut theirs } else { &mut ours };
            whose.push(group.clone());
        }
        let (state, changed) = (Mutex::new(State::Frozen), Condvar::new());
        let shared = Arc::new(Shared { ours, theirs, state, changed });
        let started = Instant::now();
        let until = started + within;
        // Before any process is frozen: without the watchdog none may be.
        let watchdog = shared.clone();
        thread::Builder::new().name("thaw".to_owned()).spawn(move || watchdog.watch(until))?;
        Ok(Self { shared, started, until })
    }

    /// The cgroups that are thawed in the end. Others had been frozen by another program.
    pub fn ours(&self) -> &[Group] {
        &self.shared.ours
    }

    /// Freezes the processes, and waits until they are frozen.
    ///
    /// # Errors
    /// `TimedOut` if a process is not frozen in time. A process in an uninterruptible wait cannot
    /// be frozen. After any error, all are thawed when this is dropped.
    pub fn freeze(&self) -> io::Result<()> {
        loop {
            // The lock is held, so that no process is frozen after the watchdog thawed all.
            let state = self.shared.state.lock();
            if *state != State::Frozen || self.is_late() {
                let why = "not all of its processes were frozen in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            let mut all_frozen = true;
            for group in &self.shared.ours {
                all_frozen &= group.freeze()?;
            }
            drop(state);
            // A requested freeze is not complete yet, whichever program requested it.
            if all_frozen && self.shared.others_are_frozen()? {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Thaws the processes. A repeated call changes nothing.
    pub fn thaw(&self) -> io::Result<FreezeResult> {
        let mut state = self.shared.state.lock();
        if *state == State::Frozen {
            let all_frozen = self.shared.others_are_frozen();
            self.shared.thaw_all()?;
            *state = if all_frozen.is_ok_and(|all_frozen| all_frozen) {
                State::Done
            } else {
                State::ThawedByOthers
            };
            self.shared.changed.notify_all();
        }
        Ok(FreezeResult {
            duration: self.started.elapsed(),
            complete: *state == State::Done,
            thawed_by_others: *state == State::ThawedByOthers,
        })
    }

    /// Thaws the processes as at the deadline, whatever the owner of this value does next.
    pub fn abort(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        if *state == State::Frozen {
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
            tracing::error!(%error, "processes may be frozen: they are thawed at the next start");
        }
    }
}

impl Shared {
    fn others_are_frozen(&self) -> io::Result<bool> {
        for group in &self.theirs {
            // Both checks: processes whose thaw was requested may still be frozen.
            if !group.is_frozen()? || !group.is_frozen_by_others()? && group.exists() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Thaws at the deadline unless the freeze ends before.
    fn watch(&self, until: Instant) {
        let mut state = self.state.lock();
        while *state == State::Frozen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                match self.thaw_all() {
                    Ok(()) => *state = State::Late,
                    Err(error) => {
                        tracing::error!(%error, "processes are frozen and cannot be thawed");
                        return;
                    }
                }
            } else {
                self.changed.wait_for(&mut state, left);
            }
        }
    }

    fn thaw_all(&self) -> io::Result<()> {
        // All of them, even if one fails.
        let done: Vec<_> = self.ours.iter().map(Group::thaw).collect();
        done.into_iter().collect()
    }
}
