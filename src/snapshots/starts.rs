//! How often a capture was begun and had no end, because this process was killed meanwhile.
//!
//! What kills it, as too little memory does, would be begun again at every start, with the volume's pod in it. So each start is
//! counted in a file, one byte for each, before anything else is done; the file goes at any end but a kill. Nothing is synced: a
//! power cut is nobody's fault.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::SnapshotId;
use crate::sys::durable::at;

/// After so many starts without an end there is no other.
pub(super) const MOST: u64 = 3;

/// Counts that are older are of nobody: whoever orders a capture asks again within minutes.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// One start, forgotten when dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Start(PathBuf);

impl Start {
    /// Counts a start; `None` where there were too many without an end. That said, they are counted anew.
    pub(super) fn count(dir: &Path, id: &SnapshotId) -> io::Result<Option<Self>> {
        let path = dir.join(id.as_str());
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(at("open", &path))?;
        let before = file.metadata().map_err(at("look at", &path))?.len();
        let start = Self(path);
        if before >= MOST {
            return Ok(None);
        }
        file.write_all(b"|").map_err(at("write", &start.0))?;
        Ok(Some(start))
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, "a capture that has ended counts as one that was killed");
        }
    }
}

/// Forgets all starts: this process ends in order, and its captures with it.
pub(super) fn forget_all(dir: &Path) -> io::Result<()> {
    forget(dir, Duration::ZERO)
}

/// Forgets those that nobody asks for any more.
pub(super) fn forget_old(dir: &Path) -> io::Result<()> {
    forget(dir, OLD)
}

fn forget(dir: &Path, older: Duration) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(at("list", dir))? {
        let path = entry.map_err(at("list", dir))?.path();
        let written = fs::metadata(&path).and_then(|is| is.modified());
        // One that is from the future is not old.
        let age = written.map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age >= older) {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_start_without_an_end_is_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let id = "snap-1".parse().unwrap();
        let count = || Start::count(dir.path(), &id).unwrap();
        // One that ends is not counted.
        drop(count().unwrap());
        let killed = || (0..MOST).for_each(|_| std::mem::forget(count().unwrap()));
        killed();
        forget_old(dir.path()).unwrap();
        assert!(count().is_none());
        // Whoever asks again has mended something.
        drop(count().unwrap());
        killed();
        assert!(Start::count(dir.path(), &"snap-2".parse().unwrap()).unwrap().is_some());
        forget_all(dir.path()).unwrap();
        assert!(count().is_some());
    }
}
