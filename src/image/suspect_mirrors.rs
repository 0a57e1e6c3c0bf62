//! Servers that started to send a blob and did not deliver it correctly: they are tried last for that blob.
//!
//! ```text
//! first byte ──> suspect ── complete, with the right digest ──> trusted again
//! ```
//!
//! A server stays suspect after wrong bytes, after a connection that broke or was too slow, and after a reader that
//! stopped early: a damaged blob often fails as an invalid tar or gzip before its digest can be checked. The next pull
//! of that blob tries the other servers first. No server is excluded for good: the registry's own server may be down,
//! and the mirror may work again. Deliberately absent: a record on disk. After a restart the mirrors are tried first
//! again.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use reqwest::Url;

use crate::digest::BlobDigest;

/// Far more than the blobs in flight at a time. An entry that is evicted costs one more failed try.
const ENTRIES_MAX: usize = 1024;

/// The suspect servers of each blob, the latest last.
#[derive(Debug, Clone, Default)]
pub(super) struct SuspectMirrors(Arc<Mutex<VecDeque<(Url, BlobDigest)>>>);

/// The entry of one response that has started.
#[derive(Debug)]
pub(super) struct Suspicion {
    suspects: SuspectMirrors,
    key: (Url, BlobDigest),
}

impl SuspectMirrors {
    /// Records that `server` has started to send `blob`. A server that is suspect already moves to the end.
    pub(super) fn add(&self, server: &Url, blob: BlobDigest) -> Suspicion {
        let key = (server.clone(), blob);
        let mut entries = self.0.lock();
        entries.retain(|other| *other != key);
        if entries.len() == ENTRIES_MAX {
            entries.pop_front();
        }
        entries.push_back(key.clone());
        Suspicion { suspects: self.clone(), key }
    }

    /// The sort key of a server for `blob`: `None` sorts first and means not suspect. Then come the servers that have
    /// been suspect for longest, so that several bad servers take turns.
    pub(super) fn rank(&self, server: &Url, blob: BlobDigest) -> Option<usize> {
        self.0.lock().iter().position(|(url, digest)| url == server && *digest == blob)
    }
}

impl Suspicion {
    /// Removes the entry: the blob is complete and its digest is right.
    pub(super) fn clear(self) {
        self.suspects.0.lock().retain(|other| *other != self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_suspect_server_ranks_last_and_a_cleared_one_has_no_rank() {
        let suspects = SuspectMirrors::default();
        let [a, b] = ["http://a/x", "http://a/y"].map(|url| Url::parse(url).unwrap());
        let (blob, other) = (BlobDigest::of(b"blob"), BlobDigest::of(b"other"));
        let first = suspects.add(&a, blob);
        let _kept = suspects.add(&b, blob);
        assert_eq!((suspects.rank(&a, blob), suspects.rank(&b, blob)), (Some(0), Some(1)));
        assert_eq!(suspects.rank(&a, other), None, "an entry is about one blob");
        let again = suspects.add(&a, blob);
        assert_eq!((suspects.rank(&a, blob), suspects.rank(&b, blob)), (Some(1), Some(0)));
        again.clear();
        assert_eq!((suspects.rank(&a, blob), suspects.rank(&b, blob)), (None, Some(0)));
        drop(first);
    }

    #[test]
    fn the_oldest_entries_are_evicted() {
        let suspects = SuspectMirrors::default();
        let url = Url::parse("http://a").unwrap();
        let blob = |i: usize| BlobDigest::of(&i.to_le_bytes());
        for i in 0..=ENTRIES_MAX {
            let _kept = suspects.add(&url, blob(i));
        }
        assert_eq!((suspects.rank(&url, blob(0)), suspects.rank(&url, blob(1))), (None, Some(0)));
        assert_eq!(suspects.0.lock().len(), ENTRIES_MAX);
    }
}
