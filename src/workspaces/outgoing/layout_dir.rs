//! An OCI layout as a directory, to which an image is added.
//!
//! ```text
//! oci-layout               written first, so that what a kill leaves is a layout
//! blobs/sha256/.ovl-part   the blob that is being written
//! blobs/sha256/<hex>       a blob that is whole; harmless if no index names it
//! index.json               replaced by a rename at the end
//! ```
//!
//! The directory is locked, so that two commands do not lose an image of each other.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{
    error::OutgoingError,
    layout::{self, BLOBS, INDEX, MARKER, MARKER_CONTENT},
    new_file::PART,
};
use crate::{
    digest::Digest,
    sys::{
        durable,
        flock::{self, Kind, Lock},
    },
};

/// A layout, locked.
#[derive(Debug)]
pub(super) struct LayoutDir {
    dir: PathBuf,
    /// The directory did not exist.
    is_new: bool,
    /// What was made, for an end without success: in the order of removal from the end.
    made: Vec<PathBuf>,
    _lock: Lock,
}

impl LayoutDir {
    /// Opens or makes the layout in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, OutgoingError> {
        let failed = || OutgoingError::writing(dir);
        let is_new = match fs::create_dir(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(failed()(e)),
        };
        let lock = flock::open_dir(dir).and_then(|dir| Lock::wait(dir, Kind::Exclusive));
        let lock = lock.map_err(failed())?;
        let mut layout = Self { dir: dir.to_owned(), is_new, made: Vec::new(), _lock: lock };
        layout.check()?;
        for part in ["blobs", BLOBS] {
            let path = dir.join(part);
            match fs::create_dir(&path) {
                Ok(()) => layout.made.push(path),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(OutgoingError::writing(path)(e)),
            }
        }
        Ok(layout)
    }

    /// Refuses a directory with something else.
    fn check(&mut self) -> Result<(), OutgoingError> {
        let refused = |why: String| OutgoingError::NotALayout { dir: self.dir.clone(), why };
        let marker = self.dir.join(MARKER);
        match fs::read(&marker) {
            Ok(content) => layout::check_marker(&content).map_err(refused),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let failed = || OutgoingError::writing(&self.dir);
                let mut entries = fs::read_dir(&self.dir).map_err(failed())?;
                if entries.next().is_some() {
                    return Err(refused(format!("it has files, and no file {MARKER}")));
                }
                self.made.push(marker.clone());
                fs::write(&marker, MARKER_CONTENT).map_err(OutgoingError::writing(marker))
            }
            Err(e) => Err(refused(e.to_string())),
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Begins a blob.
    pub(super) fn begin(&mut self) -> Result<File, OutgoingError> {
        let part = self.part();
        // A killed command may have left it.
        if !self.made.contains(&part) {
            self.made.push(part.clone());
        }
        File::create(&part).map_err(OutgoingError::writing(part))
    }

    /// Gives the blob that was begun its name.
    pub(super) fn end(&mut self, blob: &File, digest: &Digest) -> Result<(), OutgoingError> {
        let path = self.dir.join(layout::blob(digest));
        let failed = || OutgoingError::writing(&path);
        let size = blob.metadata().map_err(failed())?.len();
        match fs::metadata(&path) {
            Ok(other) if other.len() == size => return Ok(()),
            Ok(_) => {}
            Err(_) => self.made.push(path.clone()),
        }
        durable::sync_file(blob).map_err(failed())?;
        fs::rename(self.part(), &path).map_err(failed())
    }

    /// Adds a small blob.
    pub(super) fn add(&mut self, content: &[u8]) -> Result<(), OutgoingError> {
        let mut file = self.begin()?;
        file.write_all(content).map_err(OutgoingError::writing(&self.dir))?;
        self.end(&file, &Digest::of(content))
    }

    /// Adds the image with this manifest to the index.
    pub(super) fn finish(
        mut self,
        manifest: &[u8],
        name: Option<&str>,
    ) -> Result<(), OutgoingError> {
        let failed = || OutgoingError::writing(&self.dir);
        drop(fs::remove_file(self.part()));
        let path = self.dir.join(INDEX);
        let before = match fs::read(&path) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed()(e)),
        };
        let refused = |why| OutgoingError::NotALayout { dir: self.dir.clone(), why };
        let index = layout::index(before.as_deref(), manifest, name).map_err(refused)?;
        durable::sync_dir(&self.dir.join(BLOBS)).map_err(failed())?;
        let part = self.dir.join(format!(".{INDEX}{PART}"));
        let mut file = File::create(&part).map_err(failed())?;
        let written = file
            .write_all(&index)
            .and_then(|()| durable::sync_file(&file))
            .and_then(|()| fs::rename(&part, &path));
        if let Err(error) = written {
            drop(fs::remove_file(&part));
            return Err(failed()(error));
        }
        // It is in the index now.
        self.made.clear();
        self.is_new = false;
        durable::sync_dir(&self.dir).map_err(OutgoingError::writing(&self.dir))
    }

    fn part(&self) -> PathBuf {
        self.dir.join(BLOBS).join(PART)
    }
}

impl Drop for LayoutDir {
    /// Removes what was made, unless it is in the index.
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            drop(fs::remove_file(path));
            // A directory that others have filled meanwhile stays.
            drop(fs::remove_dir(path));
        }
        if self.is_new {
            drop(fs::remove_dir(&self.dir));
        }
    }
}
