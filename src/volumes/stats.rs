//! The usage of volumes, from sources that cost little: the call never walks a tree.
//!
//! A tmpfs and a project quota report the usage. For any other upper the result is the last count of a walk, which the
//! call starts in the background. One volume at a time on the node is walked: a few thousand entries, and then a pause
//! four times as long as they took. A volume with a project is counted too, because the owner of a file may give it
//! another project (`limit.rs`).

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, time::sleep};

use super::{
    Inner, Medium, RecordError, Target, VolumeId, Volumes, blocking, limit::Finding, record::Record,
};
use crate::{
    error::Class,
    sys::{
        du::Walk,
        quota,
        statfs::{self, Space},
    },
};

/// The age of a count at which a call starts the next one.
const AGAIN: Duration = Duration::from_secs(300);

/// How many entries are counted between two pauses.
const AT_ONCE: usize = 5_000;

/// How many times as long as the work a pause is.
const PAUSE: u32 = 4;

/// The usage and the capacity of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The usage in bytes.
    pub bytes: Usage,
    /// The usage in files and directories.
    pub inodes: Usage,
}

/// The usage of a volume in one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The use by the volume's upper. Zero until the first count has ended.
    pub used: u64,
    /// The limit of the volume, or without a limit the size of the file system.
    pub total: u64,
    /// What the pod can still write.
    pub available: u64,
}

/// The usage of a volume cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// The volume is not published at the target.
    #[error("volume {id} is not published at {target}")]
    NotThere {
        /// The volume.
        id: VolumeId,
        /// The requested target.
        target: Target,
    },
    /// The record of the volume cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file system returned an error.
    #[error("volume {id}: cannot determine its usage: {source}")]
    Disk {
        /// The volume.
        id: VolumeId,
        /// The system's error.
        source: std::io::Error,
    },
}

impl StatsError {
    /// The class of the error.
    pub fn class(&self) -> Class {
        match self {
            Self::NotThere { .. } => Class::NotFound,
            Self::Record(e) => e.class(),
            Self::Disk { .. } => Class::Internal,
        }
    }
}

impl Volumes {
    /// The usage of the volume at `target`.
    ///
    /// # Errors
    /// [`StatsError`].
    pub async fn stats(&self, id: &VolumeId, target: &Target) -> Result<Stats, StatsError> {
        let (inner, id, target) = (self.0.clone(), id.clone(), target.clone());
        blocking(move || {
            let record = inner.records.read(&id)?.filter(|record| record.targets.contains(&target));
            match record {
                Some(record) => inner
                    .stats_of(&record)
                    .map_err(|source| StatsError::Disk { id: id.clone(), source }),
                None => Err(StatsError::NotThere { id, target }),
            }
        })
        .await
    }
}

impl Inner {
    fn stats_of(&self, record: &Record) -> std::io::Result<Stats> {
        let Record { id, spec, .. } = record;
        if spec.medium == Medium::Memory && !spec.read_only {
            let space = statfs::of(&self.records.memory(id))?;
            return Ok(Stats::new(in_use(&space), space));
        }
        let space = statfs::of(&self.records.dir(id))?;
        let used = match record.project {
            _ if spec.read_only => quota::Usage::default(),
            Some(project) => {
                let charged = self.projects.usage(project)?;
                let counted = self.count(record).unwrap_or_default();
                quota::Usage {
                    bytes: charged.bytes.max(counted.bytes),
                    inodes: charged.inodes.max(counted.inodes),
                }
            }
            None => self.count(record).unwrap_or_default(),
        };
        let mut stats = Stats::new(used, space);
        if record.project.is_some() {
            stats.bytes.limit(spec.limits.size);
            stats.inodes.limit(spec.limits.inodes);
        }
        Ok(stats)
    }

    /// The last count of the upper of a volume on disk. `None` until the first count has ended. Starts another count
    /// if the last one is older than [`AGAIN`]. Needs a tokio runtime.
    pub(super) fn count(&self, record: &Record) -> Option<quota::Usage> {
        let Record { id, spec, .. } = record;
        self.counts.last_of(id, || self.records.pair(id, spec.medium).upper().to_owned())
    }
}

impl Stats {
    fn new(used: quota::Usage, space: Space) -> Self {
        let Space { total, available, inodes, inodes_free, .. } = space;
        Self {
            bytes: Usage { used: used.bytes, total, available },
            inodes: Usage { used: used.inodes, total: inodes, available: inodes_free },
        }
    }
}

impl Usage {
    fn limit(&mut self, limit: Option<u64>) {
        if let Some(limit) = limit {
            self.total = limit;
            self.available = self.available.min(limit.saturating_sub(self.used));
        }
    }
}

/// The space in use of a file system that holds only one volume.
fn in_use(space: &Space) -> quota::Usage {
    quota::Usage {
        bytes: space.total.saturating_sub(space.available),
        inodes: space.inodes.saturating_sub(space.inodes_free),
    }
}

/// The last counts of all volumes. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    known: Arc<Mutex<HashMap<VolumeId, Count>>>,
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Count {
    found: Option<quota::Usage>,
    /// When the last walk ended, or when the current one began.
    at: Instant,
    walking: bool,
    /// The last finding that was reported to its pod.
    reported: Option<Finding>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { known: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Counts {
    /// The last count of a volume. Starts another count if the last one is older than [`AGAIN`].
    fn last_of(&self, id: &VolumeId, upper: impl FnOnce() -> PathBuf) -> Option<quota::Usage> {
        self.all(|known| {
            let new = !known.contains_key(id);
            let count = known.entry(id.clone()).or_insert_with(|| Count {
                found: None,
                at: Instant::now(),
                walking: false,
                reported: None,
            });
            if !count.walking && (new || count.at.elapsed() >= AGAIN) {
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
        let _turn = self.turn.acquire().await;
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

    async fn walk(&self, id: &VolumeId, upper: PathBuf) -> std::io::Result<Option<quota::Usage>> {
        let mut walk = blocking(move || Walk::new(&upper)).await?;
        while self.all(|known| known.contains_key(id)) {
            let begun = Instant::now();
            let (found, unfinished) = blocking(move || (walk.go_on(AT_ONCE), walk)).await;
            if let Some(found) = found? {
                return Ok(Some(found));
            }
            walk = unfinished;
            sleep(begun.elapsed() * PAUSE).await;
        }
        Ok(None)
    }

    fn all<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Count>) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
