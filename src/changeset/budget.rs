//! Memory that several layers share while they are unpacked at once.
//!
//! A layer takes what it holds, and waits while all together would pass the budget; the eldest layer never waits. So
//! it ends at some time, what it held comes back, and another is the eldest: nobody waits for ever, and a layer that
//! alone passes the budget is still unpacked (its own bound is [`super::Limits::held_bytes`]).
//!
//! Deliberately absent: an estimate beforehand. What a layer will hold is known when it has been read.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How much all layers in flight may hold together; see [`super::Limits::budget`].
#[derive(Debug)]
pub struct Budget {
    most: u64,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: u64,
    next: u64,
    /// The layers under way, the eldest first.
    layers: BTreeSet<u64>,
}

impl Budget {
    /// A budget of `most` bytes.
    pub fn new(most: u64) -> Self {
        Self { most, state: Mutex::default(), returned: Condvar::new() }
    }

    /// Bytes held at this moment by all layers.
    pub fn held(&self) -> u64 {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Budget {
    /// 96 MiB: the names of 200,000 entries and the buffers of a dozen layers.
    fn default() -> Self {
        Self::new(96 << 20)
    }
}

/// One layer's part of a budget, if there is one. It goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Share(Option<Place>);

#[derive(Debug)]
struct Place {
    budget: Arc<Budget>,
    layer: u64,
    taken: Mutex<u64>,
}

impl Share {
    /// The next layer's.
    pub(super) fn new(budget: Option<&Arc<Budget>>) -> Self {
        Self(budget.map(|budget| {
            let mut state = budget.lock();
            let layer = state.next;
            state.next += 1;
            state.layers.insert(layer);
            Place { budget: Arc::clone(budget), layer, taken: Mutex::new(0) }
        }))
    }

    /// Takes `bytes` more, and waits until there are so many.
    pub(super) fn take(&self, bytes: u64) {
        let Some(Place { budget, layer, taken }) = &self.0 else { return };
        let mut state = budget.lock();
        while state.held.saturating_add(bytes) > budget.most && state.layers.first() != Some(layer)
        {
            state = budget.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held += bytes;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.budget.lock();
        state.held -= taken;
        state.layers.remove(&self.layer);
        drop(state);
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_eldest_goes_on_and_others_wait_for_it() {
        let budget = Arc::new(Budget::new(100));
        let (eldest, second) = (Share::new(Some(&budget)), Share::new(Some(&budget)));
        eldest.take(60);
        second.take(40);
        eldest.take(500);
        assert_eq!(budget.held(), 600);
        let (say, said) = mpsc::channel();
        let waiting = thread::spawn(move || {
            second.take(40);
            say.send(()).unwrap();
            second
        });
        assert!(said.recv_timeout(Duration::from_millis(50)).is_err(), "it should wait");
        drop(eldest);
        said.recv_timeout(Duration::from_secs(30)).unwrap();
        drop(waiting.join().unwrap());
        assert_eq!(budget.held(), 0);
        Share::new(None).take(u64::MAX);
    }
}
