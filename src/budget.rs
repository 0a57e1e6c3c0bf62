//! One budget of memory for all work that strangers can make large: layers that are unpacked, registries' documents, captures,
//! packs.
//!
//! ```text
//! small      what a share holds whatever the others do: the buffers of one layer, a common document
//! together   what all shares but the eldest hold beyond that; who would pass it waits
//! alone      the most that one share holds
//! ```
//!
//! The eldest share never waits. So it ends at some time, what it held comes back, and another is the eldest: nobody waits for
//! ever. All shares hold at most `shares × small + together + alone` at any time, so whoever takes shares bounds their number
//! (see [`crate::turns`]). A share is made after everything else that its work may wait for: one that waits for a permit while
//! it holds memory could wait for a permit's holder who waits for memory.
//!
//! Deliberately absent: an estimate beforehand. What a layer will hold is known when it has been read.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::fault::Class;

/// The limit that is assumed where there is none: the chart's.
const UNLIMITED: u64 = 512 << 20;
/// More than this is no use to anybody.
const MOST: u64 = 4 << 30;
/// Bytes by which the part of a collection grows and shrinks.
const STEP: u64 = 256 << 10;

/// How much all work may hold together.
#[derive(Debug)]
pub struct Budget {
    small: u64,
    together: u64,
    alone: u64,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Bytes of each share, the eldest first.
    shares: BTreeMap<u64, u64>,
}

/// Why a share does not get more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    /// It would hold more than any may: asking again is of no use.
    #[error(
        "it takes more than {0} bytes of memory, the most for one piece of work within this process's limit of memory; \
         raise that limit"
    )]
    TooMuch(u64),
    /// Others hold what it wants.
    #[error("the memory for it is taken by other work; it is tried again")]
    Busy,
}

impl OverBudget {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::TooMuch(_) => Class::Precondition,
            Self::Busy => Class::Unavailable,
        }
    }
}

impl Budget {
    /// The budget of a process that may have `limit` bytes of memory ([`crate::sys::limits::memory`]). Half of a limit of the
    /// chart's size (512 MiB) stays for what is in no share: code, records, threads, sockets, the kernel.
    pub fn of_limit(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(UNLIMITED).min(MOST);
        Self::new(limit / 256, limit / 8, limit / 16 * 5)
    }

    /// A budget of these parts, in bytes; see the file's head.
    pub fn new(small: u64, together: u64, alone: u64) -> Self {
        Self { small, together, alone, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Bytes held at this moment by all shares.
    pub fn held(&self) -> u64 {
        self.lock().shares.values().sum()
    }

    /// The next share, with nothing in it.
    pub fn share(self: &Arc<Self>) -> Share {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.shares.insert(id, 0);
        Share { budget: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether share `id` may hold `bytes` now.
    fn has_room(&self, state: &State, id: u64, bytes: u64) -> bool {
        let Some((eldest, _)) = state.shares.first_key_value() else { return true };
        if *eldest == id || bytes <= self.small {
            return true;
        }
        let others = state.shares.iter().filter(|(other, _)| *other != eldest && **other != id);
        let beyond = |held: &u64| held.saturating_sub(self.small);
        others.map(|(_, held)| beyond(held)).sum::<u64>().saturating_add(beyond(&bytes))
            <= self.together
    }
}

impl Default for Budget {
    /// That of a process without a limit.
    fn default() -> Self {
        Self::of_limit(None)
    }
}

/// What one piece of work holds. It goes back when this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    id: u64,
}

impl Share {
    /// Takes `bytes` more, and blocks until there are so many.
    ///
    /// # Errors
    /// [`OverBudget::TooMuch`].
    pub fn take(&self, bytes: u64) -> Result<(), OverBudget> {
        let mut state = self.budget.lock();
        let wanted = self.wanted(&state, bytes)?;
        while !self.budget.has_room(&state, self.id, wanted) {
            state = self.budget.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.shares.insert(self.id, wanted);
        Ok(())
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// Also [`OverBudget::Busy`].
    pub fn try_take(&self, bytes: u64) -> Result<(), OverBudget> {
        let mut state = self.budget.lock();
        let wanted = self.wanted(&state, bytes)?;
        if !self.budget.has_room(&state, self.id, wanted) {
            return Err(OverBudget::Busy);
        }
        state.shares.insert(self.id, wanted);
        Ok(())
    }

    /// Has `part`, what one collection holds of this share, follow it to `bytes`, in steps: takes more, or gives some back. Blocks
    /// like [`Share::take`].
    ///
    /// # Errors
    /// [`OverBudget::TooMuch`].
    pub fn follow(&self, part: &mut u64, bytes: u64) -> Result<(), OverBudget> {
        let bytes = bytes.next_multiple_of(STEP);
        if bytes > *part {
            self.take(bytes - *part)?;
        } else if bytes < *part {
            self.give(*part - bytes);
        }
        *part = bytes;
        Ok(())
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: u64) {
        if let Some(held) = self.budget.lock().shares.get_mut(&self.id) {
            *held = held.saturating_sub(bytes);
        }
        self.budget.returned.notify_all();
    }

    fn wanted(&self, state: &State, bytes: u64) -> Result<u64, OverBudget> {
        let held = state.shares.get(&self.id).copied().unwrap_or_default();
        let wanted = held.saturating_add(bytes);
        let alone = self.budget.alone;
        if wanted > alone { Err(OverBudget::TooMuch(alone)) } else { Ok(wanted) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.lock().shares.remove(&self.id);
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn the_eldest_goes_on_and_others_wait_for_it() {
        let budget = Arc::new(Budget::new(0, 50, 500));
        let (eldest, second, third) = (budget.share(), budget.share(), budget.share());
        eldest.take(60).unwrap();
        second.take(40).unwrap();
        eldest.take(440).unwrap();
        assert_eq!(budget.held(), 540);
        assert_eq!(third.try_take(11), Err(OverBudget::Busy));
        third.try_take(10).unwrap();
        let (say, said) = mpsc::channel();
        let waiting = thread::spawn(move || {
            second.take(400).unwrap();
            say.send(()).unwrap();
            second
        });
        assert!(said.recv_timeout(Duration::from_millis(50)).is_err(), "it should wait");
        drop(eldest);
        said.recv_timeout(Duration::from_secs(30)).unwrap();
        drop((waiting.join().unwrap(), third));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn who_wants_little_never_waits_and_who_wants_too_much_never_gets_it() {
        let budget = Arc::new(Budget::new(10, 50, 500));
        let (eldest, greedy, small) = (budget.share(), budget.share(), budget.share());
        eldest.take(500).unwrap();
        assert_eq!(eldest.take(1), Err(OverBudget::TooMuch(500)));
        greedy.take(60).unwrap();
        small.take(10).unwrap();
        assert_eq!(small.try_take(1), Err(OverBudget::Busy));
        greedy.give(1);
        small.try_take(1).unwrap();
        assert_eq!(small.take(490), Err(OverBudget::TooMuch(500)));
    }

    #[test]
    fn a_part_follows_what_a_collection_holds() {
        let budget = Arc::new(Budget::new(0, 0, 2 * STEP));
        let (share, mut part) = (budget.share(), 0);
        for (bytes, held) in [(0, 0), (1, STEP), (STEP, STEP), (STEP + 1, 2 * STEP), (0, 0)] {
            share.follow(&mut part, bytes).unwrap();
            assert_eq!((part, budget.held()), (held, held), "{bytes}");
        }
        share.take(STEP).unwrap();
        assert_eq!(share.follow(&mut part, STEP + 1), Err(OverBudget::TooMuch(2 * STEP)));
        assert_eq!((part, budget.held()), (0, STEP));
    }

    #[test]
    fn all_work_at_once_leaves_a_quarter_of_the_limit() {
        let Budget { small, together, alone, .. } = Budget::default();
        // Layers and documents, each with 16 at once and 16 slow ones; captures, packs and pushes.
        let shares = 2 * (16 + 16) + 8;
        assert!(shares * small + together + alone <= UNLIMITED / 4 * 3);
        assert!(alone > 128 << 20, "a layer's names and its window fit");
        assert!(Budget::of_limit(Some(u64::MAX)).alone < MOST);
    }
}
