//! The upper and the work directory of an overlay on disk.
//!
//! ```text
//! <upper>/                         what was written, with overlay's whiteouts and xattrs
//! <work>/work/                     the kernel's; it makes and empties it at each mount
//! <work>/work/incompat/volatile    the kernel's marker of a volatile overlay; it refuses every mount
//! <work>/index/                    the kernel's, with index=on
//! ```
//!
//! Deliberately absent: making or removing either directory. The holder of their lock does that.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{OverlayError, PlanError};
use crate::sys::du::Walk;
use crate::sys::durable::{self, Amount};

/// Seconds after which a change is taken to be on disk. The kernel writes dirty pages after 30 seconds
/// (`vm.dirty_expire_centisecs`); the rest is a reserve for a busy disk.
const WRITTEN_AFTER: i64 = 60;

/// The upper, which takes the writes, and the work directory in which the kernel prepares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpperAndWork {
    upper: PathBuf,
    work: PathBuf,
}

impl UpperAndWork {
    /// Both are absolute paths without symlinks. Both directories must exist at the time of the mount.
    pub fn new(upper: PathBuf, work: PathBuf) -> Self {
        Self { upper, work }
    }

    /// The directory that takes the writes.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// The work directory, whose entries the kernel makes.
    pub fn work(&self) -> &Path {
        &self.work
    }

    pub(super) fn check_paths(&self) -> Result<(), PlanError> {
        for path in [&self.upper, &self.work] {
            if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
                return Err(PlanError::Path { path: path.clone() });
            }
        }
        if self.upper.starts_with(&self.work) || self.work.starts_with(&self.upper) {
            let (upper, work) = (self.upper.clone(), self.work.clone());
            return Err(PlanError::Nested { upper, work });
        }
        Ok(())
    }

    /// Checks the rules that need a look at the disk.
    pub(super) fn check(&self) -> Result<(), OverlayError> {
        if device(&self.upper)? != device(&self.work)? {
            let (upper, work) = (self.upper.clone(), self.work.clone());
            return Err(OverlayError::OtherFileSystem { upper, work });
        }
        for entry in fs::read_dir(&self.work).map_err(inspect(&self.work))? {
            let name = entry.map_err(inspect(&self.work))?.file_name();
            if name != "work" && name != "index" {
                let entry = name.to_string_lossy().into_owned();
                return Err(OverlayError::WorkNotEmpty { work: self.work.clone(), entry });
            }
        }
        let marker = self.marker();
        match fs::symlink_metadata(&marker) {
            Ok(_) => Err(OverlayError::VolatileMarker { upper: self.upper.clone() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(inspect(&marker)(e)),
        }
    }

    fn marker(&self) -> PathBuf {
        self.work.join("work/incompat")
    }
}

/// Writes the files of a volatile upper to disk, and then removes the kernel's marker of a volatile overlay.
///
/// Returns whether every write reached the disk. If not, writes are lost and the marker stays. Dirty data of other
/// volumes on that disk are not written, unless the upper has so many files that syncing the whole file system costs
/// less.
///
/// The caller must know that nothing uses the upper, and that the machine has not crashed since the upper was written.
///
/// # Errors
/// The files cannot be listed, or the marker cannot be removed. Then it is not known whether all writes reached the
/// disk.
pub fn clear_volatile_marker(upper: &UpperAndWork) -> io::Result<bool> {
    // The sync reports write errors. The journal needs no commit: after a crash the upper is not used again.
    if durable::sync_tree(&upper.upper, unwritten(&upper.upper)?).is_err() {
        return Ok(false);
    }
    durable::remove_tree(&upper.marker())?;
    Ok(true)
}

/// Estimates what a sync of a tree must write: every file must be synced, and those that changed within
/// [`WRITTEN_AFTER`] may have bytes that are not on disk.
fn unwritten(tree: &Path) -> io::Result<Amount> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_sub(WRITTEN_AFTER);
    let count = |mut walk: Walk| loop {
        if let Some(found) = walk.step(10_000)? {
            return Ok::<_, io::Error>(found);
        }
    };
    let all = count(Walk::new(tree)?)?;
    let recent = count(Walk::new(tree)?.changed_since(since))?;
    Ok(Amount { files: all.inodes, bytes: recent.bytes })
}

fn device(path: &Path) -> Result<u64, OverlayError> {
    Ok(fs::symlink_metadata(path).map_err(inspect(path))?.dev())
}

fn inspect(path: &Path) -> impl FnOnce(io::Error) -> OverlayError {
    move |source| OverlayError::Inspect { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::test_dir::{Disk, TestDir};

    /// Mounting a volatile volume again does not wait for the writes of other volumes.
    #[test]
    #[ignore = "needs root: mounts file systems on loop devices"]
    fn privileged_mounting_a_volatile_volume_again_does_not_sync_a_neighbours_data() {
        for fs_type in ["xfs", "ext4"] {
            let scratch = TestDir::new();
            let at = scratch.dir("disk");
            let disk = Disk::new(&scratch, fs_type, &at);
            let pair = UpperAndWork::new(at.join("upper"), at.join("work"));
            fs::create_dir_all(pair.marker().join("volatile")).unwrap();
            fs::create_dir(pair.upper()).unwrap();
            fs::write(at.join("neighbour"), vec![7; 64 << 20]).unwrap();
            for n in 0..50 {
                fs::write(pair.upper().join(n.to_string()), vec![n as u8; 10_000]).unwrap();
            }
            assert!(clear_volatile_marker(&pair).unwrap());
            assert!(!pair.marker().exists());
            disk.cut_power();
            disk.boot();
            let neighbour = fs::read(at.join("neighbour")).unwrap_or_default();
            assert!(neighbour != vec![7; 64 << 20], "{fs_type}: the neighbour's data were synced");
        }
    }
}
