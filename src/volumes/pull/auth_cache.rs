//! The cache of credentials that a registry accepted lately. With it a pod can start while the registry is down.
//!
//! Deliberately absent: the credentials. An [`Access`] can only be compared with others of this process. Nothing of the
//! cache is on disk.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::{image::Access, reference::Reference};

/// The most entries that are kept; the oldest is removed first. An entry is two short names and a hash. Every author of
/// pods can cause new entries.
const MAX_ENTRIES: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// The accepted credentials, each with the time of the registry's last response.
#[derive(Debug)]
pub(super) struct AuthCache {
    /// How long an entry is valid. Zero keeps no entries.
    trust_for: Duration,
    known: Mutex<LruCache<CacheEntry, Instant>>,
}

/// A credential that could read a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheEntry {
    registry: String,
    repository: String,
    access: Access,
}

impl CacheEntry {
    fn new(registry: &str, repository: &str, access: &Access) -> Self {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        Self { registry, repository, access: access.clone() }
    }
}

impl AuthCache {
    pub(super) fn new(trust_for: Duration) -> Self {
        Self { trust_for, known: Mutex::new(LruCache::new(MAX_ENTRIES)) }
    }

    /// Records that the registry gave the image to `access`. Anonymous access is not recorded here: the origins of each
    /// layer record it.
    pub(super) fn remember(&self, reference: &Reference, access: &Access, now: Instant) {
        if self.trust_for.is_zero() || *access == Access::Anonymous {
            return;
        }
        let entry = CacheEntry::new(reference.registry(), reference.repository(), access);
        self.known.lock().put(entry, now);
    }

    /// Removes the entries of `accesses`, because the registry refused the image to each of them.
    pub(super) fn forget(&self, reference: &Reference, accesses: &[Access]) {
        for access in accesses {
            let entry = CacheEntry::new(reference.registry(), reference.repository(), access);
            self.known.lock().pop(&entry);
        }
    }

    /// Whether the repository accepted one of `accesses`, and that entry is still valid.
    pub(super) fn accepted(
        &self,
        (registry, repository): (&str, &str),
        accesses: &[Access],
        now: Instant,
    ) -> bool {
        let known = self.known.lock();
        let at = |access| known.peek(&CacheEntry::new(registry, repository, access));
        accesses.iter().filter_map(at).any(|at| now.duration_since(*at) < self.trust_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const ANNS: Access = Access::Credential([1; 32]);
    const BOBS: Access = Access::Credential([2; 32]);

    fn reference() -> Reference {
        "registry.example/team/tool:1".parse().unwrap()
    }

    const REPOSITORY: (&str, &str) = ("registry.example", "team/tool");

    #[test]
    fn an_accepted_credential_is_trusted_for_its_repository_and_an_hour() {
        let (cache, start) = (AuthCache::new(HOUR), Instant::now());
        cache.remember(&reference(), &ANNS, start);
        let soon = start + HOUR / 2;
        assert!(cache.accepted(REPOSITORY, &[BOBS, ANNS], soon));
        assert!(!cache.accepted(REPOSITORY, &[BOBS], soon));
        assert!(!cache.accepted(REPOSITORY, &[], soon));
        assert!(!cache.accepted(("registry.example", "team/other"), &[ANNS], soon));
        assert!(!cache.accepted(("evil.example", "team/tool"), &[ANNS], soon));
        assert!(!cache.accepted(REPOSITORY, &[ANNS], start + HOUR));
        cache.remember(&reference(), &ANNS, start + HOUR);
        assert!(cache.accepted(REPOSITORY, &[ANNS], start + HOUR + HOUR / 2));
    }

    #[test]
    fn a_refused_credential_is_not_trusted_any_more() {
        let (cache, now) = (AuthCache::new(HOUR), Instant::now());
        cache.remember(&reference(), &ANNS, now);
        cache.remember(&reference(), &BOBS, now);
        cache.forget(&reference(), &[ANNS]);
        assert!(!cache.accepted(REPOSITORY, &[ANNS], now));
        assert!(cache.accepted(REPOSITORY, &[BOBS], now));
    }

    #[test]
    fn a_trust_of_zero_keeps_no_entries() {
        let (cache, now) = (AuthCache::new(Duration::ZERO), Instant::now());
        cache.remember(&reference(), &ANNS, now);
        assert!(!cache.accepted(REPOSITORY, &[ANNS], now));
    }

    #[test]
    fn the_cache_is_bounded_and_the_oldest_entry_is_removed_first() {
        let (cache, start) = (AuthCache::new(HOUR), Instant::now());
        let access = |n: usize| {
            let mut hmac = [0; 32];
            hmac[..8].copy_from_slice(&n.to_le_bytes());
            Access::Credential(hmac)
        };
        let at = |n: usize| start + Duration::from_millis(n as u64);
        let last = MAX_ENTRIES.get();
        (0..=last).for_each(|n| cache.remember(&reference(), &access(n), at(n)));
        assert_eq!(cache.known.lock().len(), last);
        assert!(!cache.accepted(REPOSITORY, &[access(0)], at(last)));
        assert!(cache.accepted(REPOSITORY, &[access(last)], at(last)));
    }
}
