//! What has to be looked at, and when.
//!
//! ```text
//!           add                take             done(Nothing)
//!  (absent) ───> waiting, now ───> busy ─────────────────────> (absent)
//!                  ^               │ │ done(Again) or an error, or an add meanwhile
//!                  └───────────────┘ └──> waiting, after a pause that grows ──> …
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The first pause; doubled after each try that did not end it.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A VolumeSnapshot, by namespace and name.
    Request(String, String),
    /// A VolumeSnapshotContent.
    Content(String),
    /// An OverlaySnapshot.
    Snapshot(String),
}

/// No key twice, and none with two workers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Key, Instant>,
    busy: BTreeSet<Key>,
    /// How often it did not end.
    tries: BTreeMap<Key, u32>,
}

impl Queue {
    /// Something changed about it.
    pub(super) fn add(&mut self, key: Key, now: Instant) {
        self.waiting.insert(key, now);
    }

    /// Whether it is to be looked at, now or after a pause.
    pub(super) fn waits(&self, key: &Key) -> bool {
        self.waiting.contains_key(key)
    }

    /// The key that has waited longest, of those that are due.
    pub(super) fn take(&mut self, now: Instant) -> Option<Key> {
        let idle =
            self.waiting.iter().filter(|(key, due)| **due <= now && !self.busy.contains(*key));
        let key = idle.min_by_key(|(_, due)| **due)?.0.clone();
        self.waiting.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// Somebody has looked at it; `again` says whether that did not end it.
    pub(super) fn done(&mut self, key: Key, again: bool, now: Instant) {
        self.busy.remove(&key);
        if !again {
            self.tries.remove(&key);
            return;
        }
        let tries = self.tries.entry(key.clone()).or_default();
        let pause = PAUSE.saturating_mul(1 << (*tries).min(10)).min(PAUSE_MAX);
        *tries += 1;
        // What changed meanwhile is looked at at once.
        self.waiting.entry(key).or_insert(now + pause);
    }

    /// When the next key is due that nobody works on.
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
    fn a_key_is_worked_on_once_at_a_time_and_again_after_a_change() {
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
    fn pauses_grow_until_it_ends() {
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
