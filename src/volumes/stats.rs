//! How much a volume holds, from sources that cost nothing: the call never walks.
//!
//! A tmpfs and a project know. For any other upper the answer is the last count of a walk that the question starts, in the
//! background: one volume at a time on the node, a few thousand entries and then a pause four times as long as they took. What a
//! project says is counted too, because whoever owns a file may give it another project (`limit.rs`).

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

/// How old a count has to be before the next one begins.
const AGAIN: Duration = Duration::from_secs(300);

/// How many entries are looked at between two pauses.
const AT_ONCE: usize = 5_000;

/// How much longer than the work a pause is.
const PAUSE: u32 = 4;

/// What a volume holds and what it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// In bytes.
    pub bytes: Usage,
    /// In files and directories.
    pub inodes: Usage,
}

/// One measure of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What was written to the volume; zero where nobody has counted yet.
    pub used: u64,
    /// What it could hold: its limit, or where it has none the file system's size.
    pub total: u64,
    /// What can still be written.
    pub available: u64,
}

/// It cannot be told how much a volume holds.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// There is no such volume there.
    #[error("volume {id} is not at {target}")]
    NotThere {
        /// The volume.
        id: VolumeId,
        /// Where it was asked for.
        target: Target,
    },
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The disk said no.
    #[error("volume {id}: cannot tell how much it holds: {source}")]
    Disk {
        /// The volume.
        id: VolumeId,
        /// The system's words.
        source: std::io::Error,
    },
}

impl StatsError {
    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        match self {
            Self::NotThere { .. } => Class::NotFound,
            Self::Record(e) => e.class(),
            Self::Disk { .. } => Class::Internal,
        }
    }
}

impl Volumes {
    /// How much the volume at `target` holds.
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
            return Ok(Stats::new(taken(&space), space));
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

    /// What the upper of a volume on disk held when it was last counted; `None` until it has been once. Has it counted again where
    /// that is long ago. Within a runtime.
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

/// What is taken of a file system that nobody else uses.
fn taken(space: &Space) -> quota::Usage {
    quota::Usage {
        bytes: space.total.saturating_sub(space.available),
        inodes: space.inodes.saturating_sub(space.inodes_free),
    }
}

/// What was counted last, by volume. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    known: Arc<Mutex<HashMap<VolumeId, Count>>>,
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Count {
    found: Option<quota::Usage>,
    /// When the last walk ended, or the one under way began.
    at: Instant,
    walking: bool,
    /// What its pod was told of it last.
    reported: Option<Finding>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { known: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Counts {
    /// The last count of a volume; has it counted again where that is long ago.
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

    /// Notes what was found of a volume; whether that is something new to tell.
    pub(super) fn is_news(&self, id: &VolumeId, finding: Option<Finding>) -> bool {
        self.all(|known| {
            let Some(count) = known.get_mut(id) else { return false };
            std::mem::replace(&mut count.reported, finding) != finding && finding.is_some()
        })
    }

    /// Forgets a volume that is gone; its walk ends.
    pub(super) fn forget(&self, id: &VolumeId) {
        self.all(|known| known.remove(id));
    }

    async fn count(self, id: VolumeId, upper: PathBuf) {
        let _turn = self.turn.acquire().await;
        let found = self.walk(&id, upper).await.unwrap_or_else(|error| {
            tracing::warn!(volume = %id, %error, "what the volume holds cannot be counted");
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
            let (found, under_way) = blocking(move || (walk.go_on(AT_ONCE), walk)).await;
            if let Some(found) = found? {
                return Ok(Some(found));
            }
            walk = under_way;
            sleep(begun.elapsed() * PAUSE).await;
        }
        Ok(None)
    }

    fn all<T>(&self, f: impl FnOnce(&mut HashMap<VolumeId, Count>) -> T) -> T {
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
