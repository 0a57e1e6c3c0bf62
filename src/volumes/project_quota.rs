//! Which project of the store's file system is which volume's, where sizes are limited by project quotas.
//!
//! A volume's record has its project, so the records alone say what is taken. What a project holds says nothing: whoever owns a file
//! may give it any project, and with one file in each of a row of them could leave none for new volumes. For the same reason
//! projects are drawn at random. Deliberately absent: how a quota is set.

use std::{
    collections::BTreeSet,
    io,
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::sys::quota::{self, Quota, Usage};

/// Ours to give out: away from what people choose and from the kubelet's own (1,048,577 and on), and so many that nobody holds files
/// in each of them.
const RANGE: RangeInclusive<u32> = 0x1000_0000..=0x7fff_ffff;

/// The projects of one store.
#[derive(Debug)]
pub(super) struct Projects {
    /// The reason where there are none.
    quotas: Result<quota::Projects, String>,
    taken: Mutex<BTreeSet<u32>>,
}

impl Projects {
    /// Those of the file system that holds `dir`; `taken` has those that the records name.
    pub(super) fn open(dir: &Path, taken: impl FnOnce() -> BTreeSet<u32>) -> Self {
        let quotas = quota::Projects::probe(dir);
        let taken = if quotas.is_ok() { taken() } else { BTreeSet::new() };
        Self { quotas, taken: Mutex::new(taken) }
    }

    /// Why nothing can be limited here; `None` where it can.
    pub(super) fn lacking(&self) -> Option<&str> {
        self.quotas.as_ref().err().map(String::as_str)
    }

    /// A project that nobody has.
    pub(super) fn take(&self) -> io::Result<u32> {
        self.quotas()?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let id = free(&taken, quota::draw)?;
        taken.insert(id);
        Ok(id)
    }

    /// Limits the empty `dir`.
    pub(super) fn limit(&self, dir: &Path, id: u32, quota: Quota) -> io::Result<()> {
        let quotas = self.quotas()?;
        quotas.assign(dir, id)?;
        quotas.limit(id, quota)
    }

    /// What a project holds.
    pub(super) fn usage(&self, id: u32) -> io::Result<Usage> {
        self.quotas()?.usage(id)
    }

    /// Gives a project back whose directories are gone.
    pub(super) fn give_back(&self, id: u32) {
        if let Err(error) = self.quotas().and_then(|quotas| quotas.forget(id)) {
            // Limits of a project without a directory limit nobody, and the next who takes it sets its own.
            tracing::warn!(project = id, %error, "the limits of a removed volume are left");
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn quotas(&self) -> io::Result<&quota::Projects> {
        self.quotas.as_ref().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.clone()))
    }
}

/// The first of what is drawn that is ours and not taken. There are far more of them than a node has volumes.
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
    fn what_is_taken_or_not_ours_is_not_given_out() {
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
    fn nobody_can_foresee_which_project_comes_next() {
        let mut taken = BTreeSet::new();
        for _ in 0..100 {
            taken.insert(free(&taken, quota::draw).unwrap());
        }
        let (first, last) = (taken.first().unwrap(), taken.last().unwrap());
        assert!(taken.len() == 100 && last - first > RANGE.end() / 4, "{taken:?}");
    }
}
