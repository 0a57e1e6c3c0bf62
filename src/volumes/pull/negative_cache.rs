//! The negative cache of layers: a layer that was fetched and is bad is not fetched again for a while. Other pods get
//! the error.
//!
//! The cache also has layers for which there was not enough disk space. Otherwise each try of the kubelet would fill
//! the disk and empty it again. Deliberately absent: errors that pass by themselves (a registry that is down). Those
//! are tried again each time.

use std::{
    hash::Hash,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;

use super::error::PullError;
use crate::{error::Class, layers::AddError, reference::Reference};

/// How long a failure is remembered: the time in which about thirty pods of one Deployment request the image, and
/// short enough for a user who pushes the image again.
pub(super) const BAD_LAYER_TTL: Duration = Duration::from_secs(30);

/// The same for a layer without enough disk space. The kubelet's longest pause between two tries is two minutes.
pub(super) const FULL_DISK_TTL: Duration = Duration::from_secs(300);

/// The most failures that are remembered. Every user who names images can cause new ones. The oldest is removed first,
/// which costs one more download.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

/// The failures, by the source of the layer.
#[derive(Debug)]
pub(super) struct NegativeCache<K: Eq + Hash>(Mutex<LruCache<K, Failure>>);

#[derive(Debug)]
struct Failure {
    at: Instant,
    until: Instant,
    class: Class,
    why: String,
}

impl<K: Eq + Hash> Default for NegativeCache<K> {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_ENTRIES)))
    }
}

impl<K: Eq + Hash> NegativeCache<K> {
    /// Remembers the error of a fetch of `source`, if another fetch would end with the same error.
    pub(super) fn remember(&self, source: K, error: &AddError, now: Instant) {
        let class = error.class();
        let is_full = matches!(error, AddError::NoSpace { .. } | AddError::Filled { .. });
        let until = match error.is_lasting() {
            _ if is_full => now + FULL_DISK_TTL,
            true => now + BAD_LAYER_TTL,
            false => return,
        };
        let failure = Failure { at: now, until, class, why: error.to_string() };
        self.0.lock().put(source, failure);
    }

    /// The remembered error of `source`, as an error of `reference`. The reference of the first request is not
    /// disclosed.
    pub(super) fn of(&self, source: &K, reference: &Reference, now: Instant) -> Option<PullError> {
        let known = self.0.lock();
        let failure = known.peek(source).filter(|failure| now < failure.until)?;
        let Failure { at, until, class, why } = failure;
        let (since, rest) = (now.duration_since(*at), until.duration_since(now));
        let reference = reference.clone();
        Some(PullError::Known { reference, why: why.clone(), since, rest, class: *class })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DiffId;

    #[test]
    fn a_failure_is_remembered_with_its_class_for_half_a_minute() {
        let (failures, start) = (NegativeCache::default(), Instant::now());
        let (one, other) = (DiffId::of(b"1"), DiffId::of(b"2"));
        let error = AddError::DiffId { expected: one, found: other };
        let image: Reference = "a/b:1".parse().unwrap();
        failures.remember("layer", &error, start);
        let known = failures.of(&"layer", &image, start + BAD_LAYER_TTL / 2).unwrap();
        assert_eq!(known.class(), error.class());
        assert!(known.to_string().starts_with(&format!("image {image}: {error}")), "{known}");
        assert!(known.to_string().ends_with("(failed 15s ago; tried again in 15s)"), "{known}");
        assert!(failures.of(&"other", &image, start).is_none());
        assert!(failures.of(&"layer", &image, start + BAD_LAYER_TTL).is_none());
    }

    #[test]
    fn a_full_disk_is_remembered_for_minutes_and_not_without_bound() {
        let (failures, start) = (NegativeCache::default(), Instant::now());
        let (diff_id, dir) = (DiffId::of(b"1"), "/store".into());
        let full = AddError::Filled { diff_id, dir, promised: 1, free: 2 };
        let image: Reference = "a/b:1".parse().unwrap();
        let later = |n: usize| start + Duration::from_millis(n as u64);
        (0..=MAX_ENTRIES.get()).for_each(|n| failures.remember(n, &full, later(n)));
        assert!(failures.of(&0, &image, start).is_none(), "the oldest is forgotten");
        assert!(failures.of(&1, &image, start + FULL_DISK_TTL).is_some());
        assert!(failures.of(&1, &image, later(1) + FULL_DISK_TTL).is_none());
    }
}
