//! Servers that began to give a blob and were not seen to give it right.
//!
//! ```text
//! first byte ──> in doubt ── all of it, and its digest right ──> trusted again
//! ```
//!
//! Whatever stays in doubt is asked after the others the next time: bytes that are wrong, a connection that
//! broke or crept, and also a reader that left early, because a damaged blob often shows as a tar or gzip that is
//! none before its digest can. Nobody is left out for good: the origin may be down and the mirror have mended.
//! Deliberately absent: anything on disk. A restart asks the mirrors first again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use reqwest::Url;

use crate::digest::Digest;

/// Far more than the blobs under way at a time. A doubt that is forgotten costs one more failed try.
const HELD_MAX: usize = 1024;

/// Which servers are in doubt about which blobs.
#[derive(Debug, Clone, Default)]
pub(super) struct Doubts(Arc<Mutex<VecDeque<(Url, Digest)>>>);

/// One answer that has begun.
#[derive(Debug)]
pub(super) struct Doubt {
    doubts: Doubts,
    key: (Url, Digest),
}

impl Doubts {
    /// `server` has begun to give `blob`. A server already in doubt about it is so as if for the first time.
    pub(super) fn raise(&self, server: &Url, blob: Digest) -> Doubt {
        let key = (server.clone(), blob);
        let mut held = self.held();
        held.retain(|other| *other != key);
        if held.len() == HELD_MAX {
            held.pop_front();
        }
        held.push_back(key.clone());
        Doubt { doubts: self.clone(), key }
    }

    /// In which order to ask: first those not in doubt, then those that have been for longest, so that several
    /// bad servers take turns.
    pub(super) fn rank(&self, server: &Url, blob: Digest) -> Option<usize> {
        self.held().iter().position(|(url, digest)| url == server && *digest == blob)
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<(Url, Digest)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doubt {
    /// All of the blob has come and is right.
    pub(super) fn settle(self) {
        self.doubts.held().retain(|other| *other != self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_doubt_is_the_last_to_be_asked_and_a_settled_one_is_none() {
        let doubts = Doubts::default();
        let [a, b] = ["http://a/x", "http://a/y"].map(|url| Url::parse(url).unwrap());
        let (blob, other) = (Digest::of(b"blob"), Digest::of(b"other"));
        let first = doubts.raise(&a, blob);
        let _left = doubts.raise(&b, blob);
        assert_eq!((doubts.rank(&a, blob), doubts.rank(&b, blob)), (Some(0), Some(1)));
        assert_eq!(doubts.rank(&a, other), None, "another blob is another matter");
        let again = doubts.raise(&a, blob);
        assert_eq!((doubts.rank(&a, blob), doubts.rank(&b, blob)), (Some(1), Some(0)));
        again.settle();
        assert_eq!((doubts.rank(&a, blob), doubts.rank(&b, blob)), (None, Some(0)));
        drop(first);
    }

    #[test]
    fn the_oldest_doubts_are_forgotten() {
        let doubts = Doubts::default();
        let url = Url::parse("http://a").unwrap();
        let blob = |i: usize| Digest::of(&i.to_le_bytes());
        for i in 0..=HELD_MAX {
            let _left = doubts.raise(&url, blob(i));
        }
        assert_eq!((doubts.rank(&url, blob(0)), doubts.rank(&url, blob(1))), (None, Some(0)));
        assert_eq!(doubts.held().len(), HELD_MAX);
    }
}
