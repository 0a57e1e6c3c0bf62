//! The usage of volumes, from sources that cost little: the call never walks a tree.
//!
//! A tmpfs and a project quota report the usage. For any other upper the result is the last count of a walk, which the
//! call starts in the background (`counts.rs`). A volume with a project is counted too, because the owner of a file may
//! give it another project (`limit.rs`).

use super::{Medium, RecordError, Target, VolumeId, Volumes, record::Record, state::Inner};
use crate::{
    error::Class,
    sys::{
        blocking::blocking,
        quota,
        statfs::{self, Space},
    },
};

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
            _ if spec.read_only => quota::ProjectUsage::default(),
            Some(project) => {
                let charged = self.projects.usage(project)?;
                let counted = self.count(record).unwrap_or_default();
                quota::ProjectUsage {
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
    /// if the last one is older than five minutes. Needs a tokio runtime.
    pub(super) fn count(&self, record: &Record) -> Option<quota::ProjectUsage> {
        let Record { id, spec, .. } = record;
        self.counts.last_of(id, || self.records.upper_and_work(id, spec.medium).upper().to_owned())
    }
}

impl Stats {
    fn new(used: quota::ProjectUsage, space: Space) -> Self {
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
fn in_use(space: &Space) -> quota::ProjectUsage {
    quota::ProjectUsage {
        bytes: space.total.saturating_sub(space.available),
        inodes: space.inodes.saturating_sub(space.inodes_free),
    }
}
