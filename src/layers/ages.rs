//! The age of layers, which a change of the wall clock cannot make too small.
//!
//! ```text
//! added by this process          since then, by the monotonic clock
//! added by an earlier process    by the wall clock, and at least as long as this process has had the store open
//! ```
//!
//! By the wall clock alone, a layer that was added before that clock was set back would count as new until the clock
//! reaches that time again, and nothing would remove it. In a shared store it is the wall clock alone: another process
//! may have added a layer after this one opened the store, and processes are short.
//!
//! Deliberately absent: a mark in the layer's metadata. It would only say that the layer is older than this process.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};

use super::{access::Access, key::LayerKey};

/// The times at which layers were added.
#[derive(Debug)]
pub(super) struct Ages {
    /// When this process opened the store: each layer that is not in `added` existed at that time. `None` in a shared
    /// store.
    opened: Option<Instant>,
    /// The layers that this process added. Empty in a shared store.
    added: Mutex<HashMap<LayerKey, Instant>>,
}

impl Ages {
    /// The ages of the layers of a store that is opened now.
    pub(super) fn new(access: &Access) -> Self {
        Self { opened: (!access.is_shared()).then(Instant::now), added: Mutex::default() }
    }

    /// Records that a layer is being added now.
    pub(super) fn arrived(&self, key: &LayerKey) {
        if self.opened.is_some() {
            self.added().entry(*key).or_insert_with(Instant::now);
        }
    }

    /// Records that a layer was removed.
    pub(super) fn removed(&self, key: &LayerKey) {
        self.added().remove(key);
    }

    /// The age of a layer whose metadata says that it was added at `wall_clock`.
    pub(super) fn of(&self, key: &LayerKey, wall_clock: Timestamp) -> Duration {
        if let Some(added) = self.added().get(key) {
            return added.elapsed();
        }
        // Negative if the clock was set back meanwhile.
        let elapsed = Duration::try_from(Timestamp::now().duration_since(wall_clock));
        let opened = self.opened.map(|opened| opened.elapsed());
        elapsed.unwrap_or_default().max(opened.unwrap_or_default())
    }

    fn added(&self) -> MutexGuard<'_, HashMap<LayerKey, Instant>> {
        self.added.lock()
    }
}
