//! Layers that were fetched and found to be wrong: the next pods hear of it instead of fetching it again.
//!
//! Deliberately absent: what passes by itself (a registry that is down, a full disk), which is tried again each time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{PullError, Reference};
use crate::{fault::Class, layers::AddError};

/// For how long a failure is remembered: as long as thirty pods of one Deployment take to ask, and no longer than the one who
/// pushes the image anew takes to look.
pub(super) const FOR: Duration = Duration::from_secs(30);

/// How many are remembered: they are made by whoever names images. One that is forgotten costs another download.
const KEPT: usize = 1000;

/// What was found, by what was fetched.
#[derive(Debug)]
pub(super) struct Failures<K>(Mutex<HashMap<K, Failure>>);

#[derive(Debug)]
struct Failure {
    at: Instant,
    class: Class,
    why: String,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> Failures<K> {
    /// Remembers that fetching `source` ended so.
    pub(super) fn remember(&self, source: K, error: &AddError, now: Instant) {
        let failure = Failure { at: now, class: error.class(), why: error.to_string() };
        self.known(now, |known| {
            if known.len() >= KEPT {
                let oldest = known.iter().min_by_key(|(_, failure)| failure.at);
                oldest.map(|(source, _)| source.clone()).map(|source| known.remove(&source));
            }
            known.insert(source, failure);
        });
    }

    /// What was found at `source` lately, for whoever asks for `reference` now: who asked before is nobody else's business.
    pub(super) fn of(&self, source: &K, reference: &Reference, now: Instant) -> Option<PullError> {
        self.known(now, |known| {
            let Failure { at, class, why } = known.get(source)?;
            let seconds = now.duration_since(*at).as_secs();
            let reference = reference.clone();
            Some(PullError::Known { reference, why: why.clone(), seconds, class: *class })
        })
    }

    fn known<T>(&self, now: Instant, f: impl FnOnce(&mut HashMap<K, Failure>) -> T) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, failure| now.duration_since(failure.at) < FOR);
        f(&mut known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_failure_is_remembered_with_its_class_for_half_a_minute() {
        let (failures, start) = (Failures::default(), Instant::now());
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let error = AddError::DiffId { expected: one, found: other };
        let image: Reference = "a/b:1".parse().unwrap();
        failures.remember("layer", &error, start);
        let told = failures.of(&"layer", &image, start + FOR / 2).unwrap();
        assert_eq!(told.class(), error.class());
        assert!(told.to_string().starts_with(&format!("image {image}: {error}")), "{told}");
        assert!(told.to_string().contains("15 s ago"), "{told}");
        assert!(failures.of(&"other", &image, start).is_none());
        assert!(failures.of(&"layer", &image, start + FOR).is_none());
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes_first() {
        let (failures, start) = (Failures::default(), Instant::now());
        let error = AddError::DiffId { expected: Digest::of(b"1"), found: Digest::of(b"2") };
        let when = |n: usize| start + Duration::from_millis(n as u64);
        (0..=KEPT).for_each(|n| failures.remember(n, &error, when(n)));
        let image: Reference = "a/b:1".parse().unwrap();
        assert!(failures.of(&0, &image, when(KEPT)).is_none());
        assert!(failures.of(&1, &image, when(KEPT)).is_some());
        assert_eq!(failures.known(when(KEPT), |known| known.len()), KEPT);
    }
}
