//! Which credentials a registry accepted a while ago, so that it need not be there each time a pod starts.
//!
//! Deliberately absent: the credentials. An [`Access`] tells equal ones apart and nothing else, and only in this process;
//! nothing of this is on disk.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::image::{Access, Reference};

/// How many are kept. One is two short names and a hash, and they are made by whoever has pods start.
const KEPT: usize = 10_000;

/// What was accepted, and when.
#[derive(Debug)]
pub(super) struct AuthCache {
    /// For how long it counts.
    trust_for: Duration,
    known: Mutex<HashMap<CacheEntry, Instant>>,
}

/// Somebody who could read a repository.
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
        Self { trust_for, known: Mutex::default() }
    }

    /// The registry gave the image to `access`. That it gave it to anybody is a layer's to remember.
    pub(super) fn remember(&self, reference: &Reference, access: &Access, now: Instant) {
        if self.trust_for.is_zero() || *access == Access::Anonymous {
            return;
        }
        self.known(|known| {
            if known.len() >= KEPT {
                known.retain(|_, at| now.duration_since(*at) < self.trust_for);
            }
            if known.len() >= KEPT {
                let oldest =
                    known.iter().min_by_key(|(_, at)| **at).map(|(grant, _)| grant.clone());
                oldest.map(|grant| known.remove(&grant));
            }
            known
                .insert(CacheEntry::new(reference.registry(), reference.repository(), access), now);
        });
    }

    /// The registry refused the image to each of `accesses`.
    pub(super) fn forget(&self, reference: &Reference, accesses: &[Access]) {
        self.known(|known| {
            for access in accesses {
                known.remove(&CacheEntry::new(
                    reference.registry(),
                    reference.repository(),
                    access,
                ));
            }
        });
    }

    /// Whether one of `accesses` was accepted at the repository, not too long ago.
    pub(super) fn accepted(
        &self,
        (registry, repository): (&str, &str),
        accesses: &[Access],
        now: Instant,
    ) -> bool {
        self.known(|known| {
            let at = |access| known.get(&CacheEntry::new(registry, repository, access));
            accesses.iter().filter_map(at).any(|at| now.duration_since(*at) < self.trust_for)
        })
    }

    fn known<T>(&self, f: impl FnOnce(&mut HashMap<CacheEntry, Instant>) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const HERS: Access = Access::Credential([1; 32]);
    const HIS: Access = Access::Credential([2; 32]);

    fn reference() -> Reference {
        "registry.example/team/tool:1".parse().unwrap()
    }

    const PLACE: (&str, &str) = ("registry.example", "team/tool");

    #[test]
    fn who_was_accepted_is_trusted_there_and_for_an_hour() {
        let (grants, start) = (AuthCache::new(HOUR), Instant::now());
        grants.remember(&reference(), &HERS, start);
        let soon = start + HOUR / 2;
        assert!(grants.accepted(PLACE, &[HIS, HERS], soon));
        assert!(!grants.accepted(PLACE, &[HIS], soon));
        assert!(!grants.accepted(PLACE, &[], soon));
        assert!(!grants.accepted(("registry.example", "team/other"), &[HERS], soon));
        assert!(!grants.accepted(("evil.example", "team/tool"), &[HERS], soon));
        assert!(!grants.accepted(PLACE, &[HERS], start + HOUR));
        grants.remember(&reference(), &HERS, start + HOUR);
        assert!(grants.accepted(PLACE, &[HERS], start + HOUR + HOUR / 2));
    }

    #[test]
    fn a_refusal_ends_the_trust() {
        let (grants, now) = (AuthCache::new(HOUR), Instant::now());
        grants.remember(&reference(), &HERS, now);
        grants.remember(&reference(), &HIS, now);
        grants.forget(&reference(), &[HERS]);
        assert!(!grants.accepted(PLACE, &[HERS], now));
        assert!(grants.accepted(PLACE, &[HIS], now));
    }

    #[test]
    fn no_trust_is_no_memory() {
        let (grants, now) = (AuthCache::new(Duration::ZERO), Instant::now());
        grants.remember(&reference(), &HERS, now);
        assert!(!grants.accepted(PLACE, &[HERS], now));
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes_first() {
        let (grants, start) = (AuthCache::new(HOUR), Instant::now());
        let access = |n: usize| {
            let mut hmac = [0; 32];
            hmac[..8].copy_from_slice(&n.to_le_bytes());
            Access::Credential(hmac)
        };
        let when = |n: usize| start + Duration::from_millis(n as u64);
        (0..=KEPT).for_each(|n| grants.remember(&reference(), &access(n), when(n)));
        assert_eq!(grants.known(|known| known.len()), KEPT);
        assert!(!grants.accepted(PLACE, &[access(0)], when(KEPT)));
        assert!(grants.accepted(PLACE, &[access(KEPT)], when(KEPT)));
    }
}
