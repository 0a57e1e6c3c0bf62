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

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::{OverlayError, PlanError};
use crate::sys::durable;

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

/// Takes back the kernel's mark of a volatile overlay, after syncing the file system it wrote to. Answers whether
/// everything written reached the disk; if not, writes are lost and the mark stays.
///
/// Only whoever knows that nothing holds the upper, and that the machine has not gone down since it
/// was written, may say so. An error means that neither is known.
pub fn forget_volatile(upper: &Upper) -> io::Result<bool> {
    let folder = File::open(&upper.upper)?;
    if durable::sync_filesystem(&folder).is_err() {
        return Ok(false);
    }
    durable::remove_tree(&upper.marker())?;
    Ok(true)
}

fn device(path: &Path) -> Result<u64, OverlayError> {
    Ok(fs::symlink_metadata(path).map_err(look(path))?.dev())
}

fn look(path: &Path) -> impl FnOnce(io::Error) -> OverlayError {
    move |source| OverlayError::Look { path: path.to_owned(), source }
}
