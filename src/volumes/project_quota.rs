//! The allocation of project ids: each volume with a project quota has a project of the store's file system.
//!
//! A volume's record has its project, so the records alone say which ids are taken. The usage of a project says
//! nothing, because the owner of a file may give it any project. If a project with usage counted as taken, a pod with
//! one file in each project of a range could leave no id for new volumes. For the same reason ids are drawn at random.
//! Deliberately absent: how a quota is set.

use std::{collections::BTreeSet, io, ops::RangeInclusive, path::Path};

use parking_lot::Mutex;

use crate::sys::quota::{self, ProjectUsage, Quota};

/// The ids that are allocated. They are outside of what administrators choose and of the kubelet's own ids (1,048,577
/// and up), and too many for a pod to have a file in each.
const RANGE: RangeInclusive<u32> = 0x1000_0000..=0x7fff_ffff;

/// The projects of one store.
#[derive(Debug)]
pub(super) struct Projects {
    /// The quota interface of the file system, or the reason why it has no project quotas.
    quotas: Result<quota::Projects, String>,
    taken: Mutex<BTreeSet<u32>>,
}

impl Projects {
    /// The projects of the file system that holds `dir`. `taken` returns the ids in the records.
    pub(super) fn open(dir: &Path, taken: impl FnOnce() -> BTreeSet<u32>) -> Self {
        let quotas = quota::Projects::probe(dir);
        let taken = if quotas.is_ok() { taken() } else { BTreeSet::new() };
        Self { quotas, taken: Mutex::new(taken) }
    }

    /// Why quotas cannot be used here. `None` if they can.
    pub(super) fn lacking(&self) -> Option<&str> {
        self.quotas.as_ref().err().map(String::as_str)
    }

    /// Allocates a free project id.
    pub(super) fn take(&self) -> io::Result<u32> {
        self.quotas()?;
        let mut taken = self.taken.lock();
        let id = free(&taken, quota::random_id)?;
        taken.insert(id);
        Ok(id)
    }

    /// Assigns the project to the empty `dir`, and sets its quota.
    pub(super) fn limit(&self, dir: &Path, id: u32, quota: Quota) -> io::Result<()> {
        let quotas = self.quotas()?;
        quotas.assign(dir, id)?;
        quotas.limit(id, quota)
    }

    /// The usage that the file system charges to a project.
    pub(super) fn usage(&self, id: u32) -> io::Result<ProjectUsage> {
        self.quotas()?.usage(id)
    }

    /// Releases a project whose directories are removed.
    pub(super) fn give_back(&self, id: u32) {
        if let Err(error) = self.quotas().and_then(|quotas| quotas.remove_limits(id)) {
            // Harmless: no directory has this project, and its next volume sets its own limits.
            tracing::warn!(project = id, %error, "cannot reset the quota of a removed volume");
        }
        self.taken.lock().remove(&id);
    }

    fn quotas(&self) -> io::Result<&quota::Projects> {
        self.quotas.as_ref().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.clone()))
    }
}

/// Draws until the id is in [`RANGE`] and not taken. The range has far more ids than a node has volumes.
fn free(taken: &BTreeSet<u32>, draw: impl Fn() -> io::Result<u32>) -> io::Result<u32> {
    loop {
        let id = draw()? & RANGE.end();
        if RANGE.contains(&id) && !taken.contains(&id) {
            return Ok(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_id_that_is_taken_or_out_of_range_is_not_allocated() {
        let (first, drawn) = (*RANGE.start(), Cell::new(0));
        // A small number, the kubelet's, two that are taken, and one beyond 31 bits.
        let draws = [7, 1_048_577, first, first + 2, (first + 3) | 1 << 31];
        let next = || {
            drawn.set(drawn.get() + 1);
            Ok(draws[drawn.get() - 1])
        };
        assert_eq!(free(&BTreeSet::from([first, first + 2]), next).unwrap(), first + 3);
    }

    #[test]
    fn the_next_project_cannot_be_predicted() {
        let mut taken = BTreeSet::new();
        for _ in 0..100 {
            taken.insert(free(&taken, quota::random_id).unwrap());
        }
        let (first, last) = (taken.first().unwrap(), taken.last().unwrap());
        assert!(taken.len() == 100 && last - first > RANGE.end() / 4, "{taken:?}");
    }
}
