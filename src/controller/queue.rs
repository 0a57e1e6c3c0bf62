//! The work queue: which objects to reconcile, and when.
//!
//! ```text
//!           add                take             done(Nothing)
//!  (absent) ───> waiting, now ───> busy ─────────────────────> (absent)
//!                  ^               │ │ done(Again) or an error
//!                  └───────────────┘ └──> waiting, after a growing pause ──> …
//!                   add meanwhile
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The pause before the first retry. It doubles with each retry.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// An object to reconcile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A VolumeSnapshot, by namespace and name.
    Request(String, String),
    /// A VolumeSnapshotContent.
    Content(String),
    /// An OverlaySnapshot.
    Snapshot(String),
}

/// The keys to reconcile. A key is in the queue once, and is reconciled by one task at a time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Key, Instant>,
    busy: BTreeSet<Key>,
    /// How often a key was requeued in a row.
    tries: BTreeMap<Key, u32>,
}

impl Queue {
    /// Queues a key at once, because its object has changed.
    pub(super) fn add(&mut self, key: Key, now: Instant) {
        self.waiting.insert(key, now);
    }

    /// Whether a key is queued, now or after a pause.
    pub(super) fn waits(&self, key: &Key) -> bool {
        self.waiting.contains_key(key)
    }

    /// Takes the due key that has waited longest, unless it is busy.
    pub(super) fn take(&mut self, now: Instant) -> Option<Key> {
        let idle =
            self.waiting.iter().filter(|(key, due)| **due <= now && !self.busy.contains(*key));
        let key = idle.min_by_key(|(_, due)| **due)?.0.clone();
        self.waiting.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// Ends the work on a key. `again` requeues it after a pause.
    pub(super) fn done(&mut self, key: Key, again: bool, now: Instant) {
        self.busy.remove(&key);
        if !again {
            self.tries.remove(&key);
            return;
        }
        let tries = self.tries.entry(key.clone()).or_default();
        let pause = PAUSE.saturating_mul(1 << (*tries).min(10)).min(PAUSE_MAX);
        *tries += 1;
        // A key that was added meanwhile stays due at once.
        self.waiting.entry(key).or_insert(now + pause);
    }

    /// When the next key that is not busy is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.iter().filter(|(key, _)| !self.busy.contains(*key)).map(|(_, due)| *due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::Snapshot(name.into())
    }

    #[test]
    fn a_key_has_one_task_at_a_time_and_is_requeued_after_a_change() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.add(key("a"), now);
        assert_eq!((queue.take(now), queue.next()), (None, None));
        queue.done(key("a"), false, now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.done(key("a"), false, now);
        assert_eq!((queue.take(now), queue.next()), (None, None));
    }

    #[test]
    fn pauses_grow_until_the_work_ends() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(queue.take(now), Some(key("a")));
            queue.done(key("a"), true, now);
            let due = now + Duration::from_secs(seconds);
            assert_eq!(queue.next(), Some(due));
            assert_eq!(queue.take(due - Duration::from_millis(1)), None);
            now = due;
        }
        queue.take(now);
        queue.done(key("a"), false, now);
        queue.add(key("a"), now);
        queue.take(now);
        queue.done(key("a"), true, now);
        assert_eq!(queue.next(), Some(now + PAUSE));
    }
}
