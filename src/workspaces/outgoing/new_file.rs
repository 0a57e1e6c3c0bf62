//! A new file, which gets its name when it is whole.
//!
//! ```text
//! .NAME.ovl-part   locked by the command that writes it, and removed when that fails
//! NAME             on the disk
//! ```
//!
//! A killed command leaves the first. The next one that writes NAME takes it over.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::error::OutgoingError;
use crate::sys::{
    durable,
    flock::{self, Kind, Lock},
};

/// The end of the names of files that are not whole.
pub(super) const PART: &str = ".ovl-part";

/// A file that is being written.
#[derive(Debug)]
pub(super) struct NewFile {
    path: PathBuf,
    part: PathBuf,
    lock: Lock,
    is_done: bool,
}

impl NewFile {
    /// Begins the file at `path`, which must not exist.
    pub(super) fn create(path: &Path) -> Result<Self, OutgoingError> {
        let mut part = OsString::from(".");
        part.push(path.file_name().unwrap_or_default());
        part.push(PART);
        let part = path.with_file_name(part);
        loop {
            if fs::symlink_metadata(path).is_ok() {
                return Err(OutgoingError::Exists(path.to_owned()));
            }
            let failed = || OutgoingError::writing(path);
            let file = flock::open_file_with(&part, 0o666).map_err(failed())?;
            let lock = Lock::try_take(file, Kind::Exclusive).map_err(failed())?;
            let lock = lock.ok_or_else(|| OutgoingError::Busy(path.to_owned()))?;
            // Otherwise the command that had it has just ended.
            if lock.is_at(&part).map_err(failed())? {
                let new = Self { path: path.to_owned(), part, lock, is_done: false };
                new.lock.file().set_len(0).map_err(failed())?;
                return Ok(new);
            }
        }
    }

    /// The file, for writing.
    pub(super) fn open(&self) -> io::Result<File> {
        self.lock.file().try_clone()
    }

    /// Waits until it is on the disk, and gives it its name.
    pub(super) fn finish(mut self) -> Result<(), OutgoingError> {
        let failed = || OutgoingError::writing(&self.path);
        durable::sync_file(self.lock.file()).map_err(failed())?;
        match durable::rename(&self.part, &self.path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OutgoingError::Exists(self.path.clone()));
            }
            // Not each file system has a rename that never replaces.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput && !self.path.exists() => {
                fs::rename(&self.part, &self.path).map_err(failed())?;
            }
            renamed => renamed.map_err(failed())?,
        }
        self.is_done = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_done {
            // It is ours, and not whole.
            drop(fs::remove_file(&self.part));
        }
    }
}
