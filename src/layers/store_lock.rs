//! The lock of a store: a node has the store alone, commands share it.
//!
//! ```text
//! ovl node    an exclusive lock of <root>/lock     refused while any other process has a lock
//! a command   a shared lock of <root>/lock         refused while a node has it
//! ```
//!
//! No process waits for this lock: a node would wait for a command that runs for hours, and a command for a node that
//! runs for months. The error names the processes that have it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    access::{Access, ProcessDir},
    error::OpenError,
    lock_holders::LockHolders,
    spare,
};
use crate::{
    digest::Digest,
    sys::{
        attributes,
        durable::{self, at},
        flock::{self, Kind, Lock},
        mounts::TEXT_LIMIT,
    },
};

/// The directory in which kernels that need it have the layers of a process attached.
pub(super) const LOWERS: &str = "lowers";

/// The lock of a store. It is taken before the store's files are read or written, and released when dropped.
#[derive(Debug)]
pub struct StoreLock {
    pub(super) root: PathBuf,
    /// `None` if this process has the store alone: then the whole staging directory is its own.
    pub(super) own: Option<ProcessDir>,
    pub(super) lock: Lock,
}

impl StoreLock {
    /// Locks the store at `root` for this process alone, and creates its directory if it does not exist. Does not wait.
    ///
    /// # Errors
    /// Another process uses the store, the path is too long, or a file system operation failed.
    pub fn exclusive(root: &Path) -> Result<Self, OpenError> {
        let path = prepare(root)?;
        match Lock::try_take(flock::open_file(&path)?, Kind::Exclusive)? {
            Some(lock) => Ok(Self { root: root.to_owned(), own: None, lock }),
            None => Err(OpenError::InUse { path: root.to_owned(), by: LockHolders::of(&path) }),
        }
    }

    /// Locks the store at `root` together with other processes that share it, and creates its directory if it does not
    /// exist. Does not wait.
    ///
    /// # Errors
    /// A node uses the store, the path is too long, or a file system operation failed.
    pub fn shared(root: &Path) -> Result<Self, OpenError> {
        let path = prepare(root)?;
        let Some(lock) = Lock::try_take(flock::open_file(&path)?, Kind::Shared)? else {
            return Err(OpenError::OfNode { path: root.to_owned(), by: LockHolders::of(&path) });
        };
        spare::keep_or_release(root);
        let staging = root.join("staging");
        private_dir(&staging)?;
        let own = ProcessDir::create(&staging)?;
        Ok(Self { root: root.to_owned(), own: Some(own), lock })
    }

    /// As [`Store::frozen`](super::Store::frozen), before the store is opened. The directory may not exist yet.
    pub fn frozen(&self) -> PathBuf {
        self.root.join("frozen")
    }

    /// The staging directory of this process, for probes before the store is opened. It may not exist yet.
    pub fn staging(&self) -> PathBuf {
        match &self.own {
            Some(own) => own.path().to_owned(),
            None => self.root.join("staging"),
        }
    }

    /// The directory in which kernels before 6.15 have the layers of this process attached. It may not exist yet.
    pub fn lowers(&self) -> PathBuf {
        match &self.own {
            Some(own) => own.path().join(LOWERS),
            None => self.root.join(LOWERS),
        }
    }

    pub(super) fn access(&self) -> Access {
        match &self.own {
            Some(own) => Access::Shared { own: own.path().to_owned() },
            None => Access::Alone,
        }
    }
}

/// Creates the directory of a store. Returns the path of its lock.
fn prepare(root: &Path) -> Result<PathBuf, OpenError> {
    let longest = root.join("layers").join(Digest::of(b"").hex()).join("layer.erofs");
    if longest.as_os_str().len() > TEXT_LIMIT {
        return Err(OpenError::TooLong { path: root.to_owned() });
    }
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).map_err(at("create", parent))?;
    }
    private_dir(root)?;
    Ok(root.join("lock"))
}

/// Creates a directory that only root can read. Also sets the mode of an existing one: Kubernetes creates the root of a
/// hostPath with mode 0755.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    // Each command has a dozen of them. To set the mode again would be a write to the disk.
    let found = fs::symlink_metadata(path);
    if found.is_ok_and(|found| found.is_dir() && found.mode() & 0o7777 == 0o700) {
        return Ok(());
    }
    durable::create_dir(path, 0o700)?;
    attributes::set_mode(path, 0o700).map_err(at("set the mode of", path))
}
