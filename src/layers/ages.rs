//! For how long layers have been here, by a clock that nobody sets.
//!
//! ```text
//! this process has brought it      since then, by the monotonic clock
//! an earlier one has               by the wall clock, and no less than this process has had the store open
//! ```
//!
//! By the wall clock alone, a layer that came before that clock was set back would be new until the clock is there again, and
//! nothing would remove it. Deliberately absent: a mark in the layer's description. It would say no more than that the layer is older
//! than this process.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::digest::Digest;

/// When layers came.
#[derive(Debug)]
pub(super) struct Ages {
    /// Every layer that is not in `came` was there by then.
    opened: Instant,
    /// Those that this process has brought.
    came: Mutex<HashMap<Digest, Instant>>,
}

impl Default for Ages {
    fn default() -> Self {
        Self { opened: Instant::now(), came: Mutex::default() }
    }
}

impl Ages {
    /// The layer is about to be here.
    pub(super) fn comes(&self, key: &Digest) {
        self.came().entry(*key).or_insert_with(Instant::now);
    }

    /// The layer is gone.
    pub(super) fn gone(&self, key: &Digest) {
        self.came().remove(key);
    }

    /// The age of a layer that came at `added` by the wall clock of that moment.
    pub(super) fn of(&self, key: &Digest, added: Timestamp) -> Duration {
        if let Some(came) = self.came().get(key) {
            return came.elapsed();
        }
        // Negative where the clock was set back meanwhile.
        let by_the_clock = Duration::try_from(Timestamp::now().duration_since(added));
        by_the_clock.unwrap_or_default().max(self.opened.elapsed())
    }

    fn came(&self) -> MutexGuard<'_, HashMap<Digest, Instant>> {
        // Changed by whole entries only, so it is whole after any panic.
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
