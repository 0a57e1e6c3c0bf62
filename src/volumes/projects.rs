//! Which project of the store's file system is which volume's, where sizes are limited by project quotas.
//!
//! A volume's record has its project, so the records are the truth of what is taken. Deliberately absent: how a quota is set.

use std::{
    collections::BTreeSet,
    io,
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::sys::quota::{self, Quota, Usage};

/// Ours to give out: away from the small numbers that people choose, and more than a node has volumes.
const RANGE: RangeInclusive<u32> = 0x4f56_0000..=0x4f56_ffff;

/// The projects of one store.
#[derive(Debug)]
pub(super) struct Projects {
    /// The reason where there are none.
    quotas: Result<quota::Projects, String>,
    taken: Mutex<BTreeSet<u32>>,
}

impl Projects {
    /// Those of the file system that holds `folder`; `taken` has those that the records name.
    pub(super) fn open(folder: &Path, taken: impl FnOnce() -> BTreeSet<u32>) -> Self {
        let quotas = quota::Projects::probe(folder);
        let taken = if quotas.is_ok() { taken() } else { BTreeSet::new() };
        Self { quotas, taken: Mutex::new(taken) }
    }

    /// Why nothing can be limited here; `None` where it can.
    pub(super) fn lacking(&self) -> Option<&str> {
        self.quotas.as_ref().err().map(String::as_str)
    }

    /// A project that nobody has and that holds nothing.
    pub(super) fn take(&self) -> io::Result<u32> {
        let quotas = self.quotas()?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // What holds something is another driver's, or of a record that nobody can read.
        let id = free(&taken, |id| Ok(quotas.usage(id)? == Usage::default()))?;
        taken.insert(id);
        Ok(id)
    }

    /// Limits the empty `folder`.
    pub(super) fn limit(&self, folder: &Path, id: u32, quota: Quota) -> io::Result<()> {
        let quotas = self.quotas()?;
        quotas.assign(folder, id)?;
        quotas.limit(id, quota)
    }

    /// What a project holds.
    pub(super) fn usage(&self, id: u32) -> io::Result<Usage> {
        self.quotas()?.usage(id)
    }

    /// Gives a project back whose folders are gone.
    pub(super) fn give_back(&self, id: u32) {
        if let Err(error) = self.quotas().and_then(|quotas| quotas.forget(id)) {
            // Limits of a project without a folder limit nobody, and the next who takes it sets its own.
            tracing::warn!(project = id, %error, "the limits of a removed volume are left");
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn quotas(&self) -> io::Result<&quota::Projects> {
        self.quotas.as_ref().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.clone()))
    }
}

/// The first of the range that is not taken and not used.
fn free(taken: &BTreeSet<u32>, unused: impl Fn(u32) -> io::Result<bool>) -> io::Result<u32> {
    for id in RANGE.filter(|id| !taken.contains(id)) {
        if unused(id)? {
            return Ok(id);
        }
    }
    let why =
        "every project quota that this driver may use is taken; delete pods with a size limit";
    Err(io::Error::new(io::ErrorKind::QuotaExceeded, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_or_used_is_not_given_out() {
        let first = *RANGE.start();
        let taken = BTreeSet::from([first, first + 2]);
        let given = free(&taken, |id| Ok(id != first + 1)).unwrap();
        assert_eq!(given, first + 3);
        let full = free(&RANGE.collect(), |_| Ok(true)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::QuotaExceeded);
    }
}
