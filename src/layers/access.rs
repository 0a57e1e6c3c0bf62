//! How a process uses the store: alone, or shared with other processes. This is the difference between the two.
//!
//! The header of `layers` has a table of it. The parts of the store keep an [`Access`] and call it wherever the
//! difference matters to them.

use std::{
    io,
    path::{Path, PathBuf},
    process,
};

use parking_lot::{Mutex, MutexGuard};

use crate::sys::{
    durable,
    flock::{self, Kind, Lock},
};

/// How this process uses the store.
#[derive(Debug, Clone)]
pub(super) enum Access {
    /// No other process uses it. So what this process has in memory is what is on the disk.
    Alone,
    /// Other processes may use it at the same time.
    Shared {
        /// The staging directory of this process.
        own: PathBuf,
    },
}

impl Access {
    /// Whether other processes may change the store.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared { .. })
    }

    /// Replaces a record as [`durable::write_atomic`] does. In a shared store its temporary file is in the staging
    /// directory of this process, because files of unknown writers beside a record are removed.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Alone => durable::write_atomic(path, bytes),
            Self::Shared { own } => durable::write_atomic_from(own, path, bytes),
        }
    }

    /// The lock of the writers of a directory of the store.
    pub(super) fn dir_lock(&self, dir: &Path) -> DirLock {
        DirLock { threads: Mutex::default(), dir: self.is_shared().then(|| dir.to_owned()) }
    }
}

/// A lock of a directory of the store: of the threads of this process, and in a shared store of all processes.
#[derive(Debug)]
pub(super) struct DirLock {
    threads: Mutex<()>,
    /// `None` in a store that is not shared: then the lock costs no system call.
    dir: Option<PathBuf>,
}

/// A taken [`DirLock`].
#[derive(Debug)]
#[must_use]
pub(super) struct DirGuard<'l> {
    /// Released before the mutex, so that the next thread does not find it taken.
    _processes: Option<Lock>,
    _threads: MutexGuard<'l, ()>,
}

impl DirLock {
    /// Takes the lock. Blocks until no other thread or process has it.
    ///
    /// # Errors
    /// The directory of a shared store cannot be opened or locked.
    pub(super) fn lock(&self) -> io::Result<DirGuard<'_>> {
        let threads = self.threads.lock();
        let processes = match &self.dir {
            Some(dir) => Some(Lock::wait(flock::open_dir(dir)?, Kind::Exclusive)?),
            None => None,
        };
        Ok(DirGuard { _processes: processes, _threads: threads })
    }
}

/// The staging directory of one process of a shared store, which is locked as long as the process uses it. It is removed
/// when this is dropped. After a kill another process removes it.
#[derive(Debug)]
pub(super) struct ProcessDir {
    path: PathBuf,
    _lock: Lock,
}

impl ProcessDir {
    /// Makes and locks a directory in `staging`. Its name has the id of this process, for people who look there. A
    /// number follows if the name is in use: in containers, ids repeat.
    pub(super) fn create(staging: &Path) -> io::Result<Self> {
        let mut name = format!("process-{}", process::id());
        for number in 1.. {
            let path = staging.join(&name);
            match flock::create_locked_dir(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            name = format!("process-{}.{number}", process::id());
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ProcessDir {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree_unsynced(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the staging directory of this process: the next process tries again");
        }
    }
}
