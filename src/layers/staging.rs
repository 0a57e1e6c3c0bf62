//! The staging directory: what is being added to the store or removed from it.
//!
//! ```text
//! staging/<n>                  of the process that has the store alone, or abandoned by an earlier one
//! staging/process-<pid>/       of one process that shares the store. Locked by it
//! staging/process-<pid>/<n>
//! …/left-<n>                   abandoned by its own process, which could not remove it
//! ```
//!
//! Everything that the store adds is written here first, by a process that has locked the store. A directory that no
//! process has locked is abandoned, and any process may remove it. The numbers of the process that has the store alone
//! are the exception: it knows them.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    access::ProcessDir,
    store_lock::{LOWERS, StoreLock},
};
use crate::{
    spill::{Scratch, unnamed_file},
    sys::{
        durable::{self, at},
        flock::{self, Kind, Lock},
        mounts::detach_below,
    },
};

/// The prefix of the names of what this process could not remove.
const ABANDONED_PREFIX: &str = "left-";

/// The staging directory of a store, as one process uses it.
#[derive(Debug)]
pub struct Staging {
    /// Where this process stages: `all`, or a directory in it.
    dir: PathBuf,
    /// The staging directory of all processes.
    all: PathBuf,
    /// The first number that this process uses.
    first: u64,
    next: AtomicU64,
    /// Removed before the lock of the store is released.
    _own: Option<ProcessDir>,
    /// Held as long as something may be staged.
    _lock: Lock,
}

/// A directory in staging. It is removed when this is dropped, unless it was renamed into place.
#[derive(Debug)]
pub(super) struct StagedDir {
    path: PathBuf,
    _staging: Arc<Staging>,
}

impl Staging {
    /// Opens the staging directory of the locked store. The directory exists.
    pub(super) fn open(lock: StoreLock) -> io::Result<Self> {
        let (dir, all) = (lock.staging(), lock.root.join("staging"));
        let first = first_free(&dir)?;
        let next = AtomicU64::new(first);
        Ok(Self { dir, all, first, next, _own: lock.own, _lock: lock.lock })
    }

    /// A new path for a directory, which the caller creates and removes. What remains is removed after the process has
    /// ended.
    pub fn new_path(&self) -> PathBuf {
        self.path()
    }

    /// Checks that the store's disk can be written now: creates and removes a file.
    pub(super) fn check_writable(&self) -> io::Result<()> {
        let probe = self.path();
        fs::write(&probe, b"").map_err(at("write", &probe))?;
        fs::remove_file(&probe).map_err(at("remove", &probe))
    }

    /// Creates an empty file. It has no name, so the kernel frees it when it is closed, also after a kill.
    pub fn unnamed_file(&self) -> io::Result<File> {
        let path = self.path();
        unnamed_file(&path).map_err(at("create", &path))
    }

    /// The directory for files of collections that outgrow memory. They have no limit.
    pub(super) fn scratch(&self) -> Scratch {
        Scratch::new(self.dir.clone())
    }

    /// Removes abandoned entries: what a process that has ended was adding or removing, and what this process could not
    /// remove. Returns the number of entries that could not be removed, for example because something is mounted in
    /// them; the next call tries them again. Blocks. An entry can be of any size, so no request should wait for this.
    pub fn remove_abandoned(&self) -> io::Result<usize> {
        let mut remaining = 0;
        let own = (self.dir != self.all).then_some(&self.dir);
        for dir in own.into_iter().chain([&self.all]) {
            for entry in fs::read_dir(dir).map_err(at("read", dir))? {
                let path = entry.map_err(at("read", dir))?.path();
                if self.is_own(&path) {
                    continue;
                }
                if let Err(error) = remove(&path) {
                    remaining += 1;
                    tracing::warn!(path = %path.display(), %error, "cannot remove an abandoned entry of the staging directory: tried again in a minute");
                }
            }
        }
        Ok(remaining)
    }

    /// Whether this process uses an entry, or will remove it itself.
    fn is_own(&self, path: &Path) -> bool {
        let shares = self.dir != self.all;
        let is_left = |name: &OsStr| name.as_bytes().starts_with(ABANDONED_PREFIX.as_bytes());
        match (path.parent(), number(path)) {
            _ if path == self.dir => true,
            (parent, _) if parent != Some(&*self.dir) => false,
            (_, Some(number)) => number >= self.first,
            // In a directory of its own, this process also made all other entries.
            (_, None) => shares && !path.file_name().is_some_and(is_left),
        }
    }

    /// Moves a directory of this store to the staging directory, without waiting for the disk. Returns the new path:
    /// the caller removes it, or else the next process does while it serves. Returns `None` if the directory does not
    /// exist. After a crash the directory may be at its old path.
    pub fn move_here(&self, dir: &Path) -> io::Result<Option<PathBuf>> {
        let staged = self.path();
        match durable::rename_unsynced(dir, &staged) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            renamed => renamed.map(|()| Some(staged)),
        }
    }

    /// Waits until the names in the staging directory are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        durable::sync_dir(&self.dir)?;
        if self.dir == self.all { Ok(()) } else { durable::sync_dir(&self.all) }
    }

    /// A new path for a directory, which the caller creates.
    pub(super) fn new_dir(self: &Arc<Self>) -> StagedDir {
        StagedDir { path: self.path(), _staging: self.clone() }
    }

    /// A new path. Only this process writes here, so a counter is unique.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl StagedDir {
    /// The path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        if let Err(error) = discard(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a staged layer: tried again in a minute");
        }
    }
}

/// Removes an entry that this process put into the staging directory. If that fails, renames it, so that
/// [`Staging::remove_abandoned`] finds it.
pub(super) fn discard(staged: &Path) -> io::Result<()> {
    durable::remove_tree_unsynced(staged).inspect_err(|_| {
        if let Some(name) = staged.file_name() {
            let mut abandoned = OsString::from(ABANDONED_PREFIX);
            abandoned.push(name);
            // If that fails too, the next process removes it.
            let _ = fs::rename(staged, staged.with_file_name(abandoned));
        }
    })
}

/// The first number above all that are in use in the staging directory.
fn first_free(staging: &Path) -> io::Result<u64> {
    let mut free = 0;
    for entry in fs::read_dir(staging).map_err(at("read", staging))? {
        let path = entry.map_err(at("read", staging))?.path();
        let number =
            number(&path).or_else(|| path.to_str()?.rsplit_once(ABANDONED_PREFIX)?.1.parse().ok());
        free = free.max(number.map_or(0, |number| number + 1));
    }
    Ok(free)
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Removes an entry unless another process has locked it.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(entry) if !entry.is_dir() => return durable::remove_file(path),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("look at", path)(e)),
        _ => {}
    }
    let dir = match flock::open_dir(path) {
        // Its process, or another one that removes abandoned entries, was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    match Lock::try_take(dir, Kind::Exclusive)? {
        // Otherwise a new process has the name of the one that ended.
        Some(lock) if lock.is_at(path)? => {
            // On kernels that need attached layers, a killed process has left them there.
            let lowers = path.join(LOWERS);
            if lowers.is_dir() {
                detach_below(&lowers).map_err(io::Error::other)?;
            }
            durable::remove_tree(path)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_unnamed_file_leaves_nothing_behind() {
        let dir = tempfile::TempDir::new().unwrap();
        fs::create_dir(dir.path().join("staging")).unwrap();
        let lock = StoreLock::exclusive(dir.path()).unwrap();
        let staging = Staging::open(lock).unwrap();
        let mut file = staging.unnamed_file().unwrap();
        file.write_all(b"work").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4);
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }
}
