//! Counts the starts of each capture that did not end, because this process was killed.
//!
//! A capture that causes the kill (for example for lack of memory) would otherwise start again with every start of the
//! driver, and freeze the pod each time. So each start is counted in a file, one byte per start, before anything else
//! is done. The file is removed at any end except a kill. Nothing is synced: a power cut is not caused by a capture.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::SnapshotId;
use crate::sys::durable::at;

/// The most starts without an end.
pub(super) const MAX_STARTS: u64 = 3;

/// Older counts are stale: the caller of a capture repeats its request within minutes.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// One counted start. Its count is removed when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Start(PathBuf);

impl Start {
    /// Counts a start. `None` after too many starts without an end. That ends the count: a VolumeSnapshot has failed for
    /// good then, and the user of `ovl node-snapshot take` may try again.
    pub(super) fn count(dir: &Path, id: &SnapshotId) -> io::Result<Option<Self>> {
        let path = dir.join(id.as_str());
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(at("open", &path))?;
        let before = file.metadata().map_err(at("look at", &path))?.len();
        let start = Self(path);
        if before >= MAX_STARTS {
            return Ok(None);
        }
        file.write_all(b"|").map_err(at("write", &start.0))?;
        Ok(Some(start))
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, "cannot remove the count of a capture that has ended, which now counts as killed");
        }
    }
}

/// Removes all counts, because this process and its captures end in an orderly way.
pub(super) fn forget_all(dir: &Path) -> io::Result<()> {
    forget(dir, Duration::ZERO)
}

/// Removes stale counts.
pub(super) fn forget_old(dir: &Path) -> io::Result<()> {
    forget(dir, STALE_AFTER)
}

fn forget(dir: &Path, min_age: Duration) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let path = entry.map_err(at("list", dir))?.path();
        let written = fs::metadata(&path).and_then(|is| is.modified());
        // A time in the future counts as age zero.
        let age = written.map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age >= min_age) {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_starts_at_most_three_times_without_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let id = "snap-1".parse().unwrap();
        let count = || Start::count(dir.path(), &id).unwrap();
        // A start that ends is not counted.
        drop(count().unwrap());
        let killed = || (0..MAX_STARTS).for_each(|_| std::mem::forget(count().unwrap()));
        killed();
        forget_old(dir.path()).unwrap();
        assert!(count().is_none());
        // After the refusal the next request is allowed again.
        drop(count().unwrap());
        killed();
        assert!(Start::count(dir.path(), &"snap-2".parse().unwrap()).unwrap().is_some());
        forget_all(dir.path()).unwrap();
        assert!(count().is_some());
    }
}
