//! A memory budget for work whose size a tenant, an image or a registry decides.
//!
//! The node has two. The large one ([`Budget::of_limit`]) is for unpacking layers, registry documents while they are
//! parsed, captures and packing. The second one is small and of fixed size, for the documents that a pull keeps until
//! its end (`volumes/pull/puller.rs`). It is never waited for, so it may be held during other waits.
//!
//! A [`Share`] is the memory of one operation. Three numbers of bytes limit the shares:
//!
//! ```text
//! small      each share may hold this without waiting: the buffers of one layer, a common document
//! together   all shares except the oldest may hold this in total, counted above `small` of each
//! alone      no share may hold more than this, not even the oldest
//! ```
//!
//! For example `small` is 2, `together` 64 and `alone` 160 (MiB). The oldest share may grow to 160. All others may hold
//! 64 in total, not counting the first 2 of each. A request beyond that waits. A request of one share for more than 160
//! fails.
//!
//! The oldest share never waits, so it ends and returns its memory. Then the next share is the oldest. So no share
//! waits for ever. All shares together hold at most `shares × small + together + alone` at any time, so the code that
//! takes shares must bound their number (see [`crate::turns`]). Take a share of a budget that is waited for after
//! everything else that the work may wait for: a holder of memory that waits for a permit could wait for a holder of
//! that permit, which itself waits for memory.
//!
//! Deliberately absent: an estimate beforehand. How much memory a layer takes is known only when it has been read.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Condvar, Mutex};

use crate::{error::Class, format};

/// The memory limit in bytes that is assumed for a process without one: the chart's default, 512 MiB.
const UNLIMITED: u64 = 512 << 20;
/// The highest limit in bytes that is used. More memory brings nothing.
const MOST: u64 = 4 << 30;
/// Bytes by which the part of a collection grows and shrinks ([`Share::follow`]).
const STEP: u64 = 256 << 10;

/// The memory that all work may hold together.
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
    /// Bytes of each share by its number, the oldest first.
    shares: BTreeMap<u64, u64>,
}

/// Why a share does not get more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    /// The share would hold more than any share may. A repeated request fails too.
    #[error(
        "it needs more than {} of memory, the most for one operation within the driver's memory limit; an administrator \
        must raise that limit (resources.limits.memory)",
        format::bytes(*.0)
    )]
    TooMuch(u64),
    /// Other shares hold the requested memory.
    #[error("other operations hold the memory that it needs; it is retried")]
    Busy,
}

impl OverBudget {
    /// The error class, from which the gRPC code and retries follow.
    pub fn class(&self) -> Class {
        match self {
            Self::TooMuch(_) => Class::Precondition,
            Self::Busy => Class::Unavailable,
        }
    }
}

impl Budget {
    /// The budget of a process with a memory limit of `limit` bytes ([`crate::sys::memory::limit`]). With the chart's
    /// limit (512 MiB), half of it stays for what is in no share: code, records, threads, sockets, the kernel.
    pub fn of_limit(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(UNLIMITED).min(MOST);
        Self::new(limit / 256, limit / 8, limit / 16 * 5)
    }

    /// A budget of these parts in bytes; the module's doc explains them.
    pub fn new(small: u64, together: u64, alone: u64) -> Self {
        Self { small, together, alone, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Bytes that all shares hold at this moment.
    pub fn used(&self) -> u64 {
        self.state.lock().shares.values().sum()
    }

    /// Makes the next share, which holds nothing yet.
    pub fn share(self: &Arc<Self>) -> Share {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.shares.insert(id, 0);
        Share { budget: self.clone(), id }
    }

    /// Whether share `id` may hold `bytes` now.
    fn has_free(&self, state: &State, id: u64, bytes: u64) -> bool {
        let Some((oldest, _)) = state.shares.first_key_value() else { return true };
        if *oldest == id || bytes <= self.small {
            return true;
        }
        let others = state.shares.iter().filter(|(other, _)| *other != oldest && **other != id);
        let beyond = |held: &u64| held.saturating_sub(self.small);
        others.map(|(_, held)| beyond(held)).sum::<u64>().saturating_add(beyond(&bytes))
            <= self.together
    }
}

impl Default for Budget {
    /// The budget of a process without a memory limit.
    fn default() -> Self {
        Self::of_limit(None)
    }
}

/// The memory that one operation holds. It is returned when the share is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    id: u64,
}

impl Share {
    /// Takes `bytes` more, and blocks until they are free.
    ///
    /// # Errors
    /// [`OverBudget::TooMuch`] when this share would hold more than one may.
    pub fn take(&self, bytes: u64) -> Result<(), OverBudget> {
        let mut state = self.budget.state.lock();
        let wanted = self.wanted(&state, bytes)?;
        while !self.budget.has_free(&state, self.id, wanted) {
            self.budget.returned.wait(&mut state);
        }
        state.shares.insert(self.id, wanted);
        Ok(())
    }

    /// Takes `bytes` more if they are free now.
    ///
    /// # Errors
    /// [`OverBudget::Busy`] when they are not free, and the errors of [`Share::take`].
    pub fn try_take(&self, bytes: u64) -> Result<(), OverBudget> {
        let mut state = self.budget.state.lock();
        let wanted = self.wanted(&state, bytes)?;
        if !self.budget.has_free(&state, self.id, wanted) {
            return Err(OverBudget::Busy);
        }
        state.shares.insert(self.id, wanted);
        Ok(())
    }

    /// Sets `part`, the bytes that one collection holds of this share, to `bytes` rounded up to a step of 256 KiB:
    /// takes or returns the difference. Blocks like [`Share::take`].
    ///
    /// # Errors
    /// [`OverBudget::TooMuch`] when this share would hold more than one may.
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

    /// Returns `bytes` to the budget.
    pub fn give(&self, bytes: u64) {
        if let Some(held) = self.budget.state.lock().shares.get_mut(&self.id) {
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
        self.budget.state.lock().shares.remove(&self.id);
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn the_oldest_share_continues_and_the_others_wait_for_it() {
        let budget = Arc::new(Budget::new(0, 50, 500));
        let (oldest, second, third) = (budget.share(), budget.share(), budget.share());
        oldest.take(60).unwrap();
        second.take(40).unwrap();
        oldest.take(440).unwrap();
        assert_eq!(budget.used(), 540);
        assert_eq!(third.try_take(11), Err(OverBudget::Busy));
        third.try_take(10).unwrap();
        let (sender, done) = mpsc::channel();
        let waiting = thread::spawn(move || {
            second.take(400).unwrap();
            sender.send(()).unwrap();
            second
        });
        assert!(done.recv_timeout(Duration::from_millis(50)).is_err(), "it should wait");
        drop(oldest);
        done.recv_timeout(Duration::from_secs(30)).unwrap();
        drop((waiting.join().unwrap(), third));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_small_request_never_waits_and_one_above_the_maximum_always_fails() {
        let budget = Arc::new(Budget::new(10, 50, 500));
        let (oldest, greedy, small) = (budget.share(), budget.share(), budget.share());
        oldest.take(500).unwrap();
        assert_eq!(oldest.take(1), Err(OverBudget::TooMuch(500)));
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
            assert_eq!((part, budget.used()), (held, held), "{bytes}");
        }
        share.take(STEP).unwrap();
        assert_eq!(share.follow(&mut part, STEP + 1), Err(OverBudget::TooMuch(2 * STEP)));
        assert_eq!((part, budget.used()), (0, STEP));
    }

    #[test]
    fn all_work_at_once_leaves_a_quarter_of_the_limit() {
        let Budget { small, together, alone, .. } = Budget::default();
        // Layers and documents: for each 16 at once and 16 slow ones. The other 8 are captures, packs and pushes.
        let shares = 2 * (16 + 16) + 8;
        assert!(shares * small + together + alone <= UNLIMITED / 4 * 3);
        assert!(alone > 128 << 20, "a layer's names and its window fit");
        assert!(Budget::of_limit(Some(u64::MAX)).alone < MOST);
    }
}
