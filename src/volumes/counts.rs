//! The counts of the files of volumes, made in the background.
//!
//! One volume at a time on the node is walked: a few thousand entries, and then a pause four times as long as they took.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::sleep};

use super::VolumeId;
use crate::sys::{blocking::blocking, du::Walk, quota};

/// The age of a count at which a call starts the next one.
const RECOUNT_AFTER: Duration = Duration::from_secs(300);

/// How many entries are counted between two pauses.
const ENTRIES_PER_STEP: usize = 5_000;

/// How many times as long as the work a pause is.
const PAUSE_FACTOR: u32 = 4;

/// A difference between the count and the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// The files of the volume take more than its limit.
    Passed,
    /// The quota is nearly used up, but not by the files of the volume.
    Charged,
}

/// The last counts of all volumes. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    known: Arc<Mutex<HashMap<VolumeId, Count>>>,
    /// One permit: one volume is walked at a time.
    walks: Arc<Semaphore>,
}

#[derive(Debug)]
struct Count {
    found: Option<quota::ProjectUsage>,
    /// When the last walk ended, or when the current one began.
    at: Instant,
    walking: bool,
    /// The last finding that was reported to its pod.
    reported: Option<Finding>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { known: Arc::default(), walks: Arc::new(Semaphore::new(1)) }
    }
}

impl Counts {
    /// The last count of a volume. Starts another count if the last one is older than [`RECOUNT_AFTER`].
    pub(super) fn last_of(
        &self,
        id: &VolumeId,
        upper: impl FnOnce() -> PathBuf,
    ) -> Option<quota::ProjectUsage> {
        self.all(|known| {
            let new = !known.contains_key(id);
            let count = known.entry(id.clone()).or_insert_with(|| Count {
                found: None,
                at: Instant::now(),
                walking: false,
                reported: None,
            });
            if !count.walking && (new || count.at.elapsed() >= RECOUNT_AFTER) {
                (count.walking, count.at) = (true, Instant::now());
                tokio::spawn(self.clone().count(id.clone(), upper()));
            }
            count.found
        })
    }

    /// Records the finding of a volume. Returns whether it must be reported: it differs from the last one.
    pub(super) fn is_news(&self, id: &VolumeId, finding: Option<Finding>) -> bool {
        self.all(|known| {
            let Some(count) = known.get_mut(id) else { return false };
            std::mem::replace(&mut count.reported, finding) != finding && finding.is_some()
        })
    }

    /// Removes the count of a removed volume. Its walk ends.
    pub(super) fn forget(&self, id: &VolumeId) {
        self.all(|known| known.remove(id));
    }

    async fn count(self, id: VolumeId, upper: PathBuf) {
        let _permit = self.walks.acquire().await;
        let found = self.walk(&id, upper).await.unwrap_or_else(|error| {
            tracing::warn!(volume = %id, %error, "cannot count the files of the volume");
            None
        });
        self.all(|known| {
            if let Some(count) = known.get_mut(&id) {
                count.found = found.or(count.found);
                (count.walking, count.at) = (false, Instant::now());
            }
        });
    }

    async fn walk(
        &self,
        id: &VolumeId,
        upper: PathBuf,
    ) -> std::io::Result<Option<quota::ProjectUsage>> {
        let mut walk = blocking(move || Walk::new(&upper)).await?;
        while self.all(|known| known.contains_key(id)) {
            let begun = Instant::now();
            let (found, unfinished) = blocking(move || (walk.step(ENTRIES_PER_STEP), walk)).await;
            if let Some(found) = found? {
                return Ok(Some(found));
            }
            walk = unfinished;
            sleep(begun.elapsed() * PAUSE_FACTOR).await;
        }
        Ok(None)
    }

    fn all<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Count>) -> T) -> T {
        f(&mut self.known.lock())
    }
}
