//! The writable pair of an overlay on disk.
//!
//! ```text
//! <upper>/                         what was written, with overlay's own marks
//! <work>/work/                     the kernel's, made and emptied by it at each mount
//! <work>/work/incompat/volatile    the kernel's: a volatile overlay was here; blocks every mount
//! <work>/index/                    the kernel's, with index=on
//! ```
//!
//! Deliberately absent: making or removing either folder, which is for whoever holds their lock.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{OverlayError, PlanError};
use crate::sys::durable::{self, Amount};
use crate::sys::walk::Walk;

/// In seconds: what changed before is on its disk, because the kernel writes it there after 30 (`vm.dirty_expire_centisecs`), and
/// takes its time on a busy disk.
const WRITTEN_AFTER: i64 = 60;

/// Where writes go, and the folder beside it in which the kernel prepares them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    upper: PathBuf,
    work: PathBuf,
}

impl Upper {
    /// Both are absolute paths without symlinks; both folders exist by the time of the mount.
    pub fn new(upper: PathBuf, work: PathBuf) -> Self {
        Self { upper, work }
    }

    /// Where writes go.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// The kernel's folder.
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

    /// The rules that only the disk can answer.
    pub(super) fn check(&self) -> Result<(), OverlayError> {
        if device(&self.upper)? != device(&self.work)? {
            let (upper, work) = (self.upper.clone(), self.work.clone());
            return Err(OverlayError::OtherFileSystem { upper, work });
        }
        for entry in fs::read_dir(&self.work).map_err(look(&self.work))? {
            let name = entry.map_err(look(&self.work))?.file_name();
            if name != "work" && name != "index" {
                let entry = name.to_string_lossy().into_owned();
                return Err(OverlayError::WorkNotEmpty { work: self.work.clone(), entry });
            }
        }
        let marker = self.marker();
        match fs::symlink_metadata(&marker) {
            Ok(_) => Err(OverlayError::VolatileMarker { upper: self.upper.clone() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(look(&marker)(e)),
        }
    }

    fn marker(&self) -> PathBuf {
        self.work.join("work/incompat")
    }
}

/// Takes back the kernel's mark of a volatile overlay, after its upper's own files were written out. Returns whether
/// everything written reached the disk; if not, writes are lost and the mark stays. What others have written to that disk stays
/// where it is, unless the upper has so many files that to write out everything costs less.
///
/// Only whoever knows that nothing holds the upper, and that the machine has not gone down since it
/// was written, may say so. An error means that neither is known.
pub fn forget_volatile(upper: &Upper) -> io::Result<bool> {
    // Errors of what was written are told; the journal needs no commit, because after a crash the upper is worth nothing.
    if durable::settle(&upper.upper, unwritten(&upper.upper)?).is_err() {
        return Ok(false);
    }
    durable::remove_tree(&upper.marker())?;
    Ok(true)
}

/// What may have to be written out of a tree: each file is to be asked, and has bytes that are on no disk if it changed of late.
fn unwritten(tree: &Path) -> io::Result<Amount> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let lately = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_sub(WRITTEN_AFTER);
    let count = |mut walk: Walk| loop {
        if let Some(found) = walk.go_on(10_000)? {
            return Ok::<_, io::Error>(found);
        }
    };
    let all = count(Walk::new(tree)?)?;
    let young = count(Walk::new(tree)?.changed_since(lately))?;
    Ok(Amount { files: all.inodes, bytes: young.bytes })
}

fn device(path: &Path) -> Result<u64, OverlayError> {
    Ok(fs::symlink_metadata(path).map_err(look(path))?.dev())
}

fn look(path: &Path) -> impl FnOnce(io::Error) -> OverlayError {
    move |source| OverlayError::Look { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::{Disk, Scratch};

    /// A volatile volume that is mounted again keeps nobody waiting for what others have written.
    #[test]
    #[ignore = "needs root: mounts file systems on loop devices"]
    fn privileged_a_volume_that_is_mounted_again_forces_no_neighbours_bytes_out() {
        for fs_type in ["xfs", "ext4"] {
            let scratch = Scratch::new();
            let at = scratch.folder("disk");
            let disk = Disk::new(&scratch, fs_type, &at);
            let pair = Upper::new(at.join("upper"), at.join("work"));
            fs::create_dir_all(pair.marker().join("volatile")).unwrap();
            fs::create_dir(pair.upper()).unwrap();
            fs::write(at.join("neighbour"), vec![7; 64 << 20]).unwrap();
            for n in 0..50 {
                fs::write(pair.upper().join(n.to_string()), vec![n as u8; 10_000]).unwrap();
            }
            assert!(forget_volatile(&pair).unwrap());
            assert!(!pair.marker().exists());
            disk.cut_power();
            disk.boot();
            let neighbour = fs::read(at.join("neighbour")).unwrap_or_default();
            assert!(neighbour != vec![7; 64 << 20], "{fs_type}: its bytes were forced out");
        }
    }
}
