//! Lease files: the leases of processes that share a store, as garbage collection in every process sees them.
//!
//! ```text
//! leases/<key, hex>     empty. Each process with a lease of this layer has a shared lock of it
//! leases/               locked by the process that runs a round
//!
//! begin of a round      files that no process has locked are removed
//! in the round          a layer whose file exists is kept: it has a lease, or had one since the round began
//! a layer is removed    its file is made and locked exclusively ─► the layer is renamed away ─► the file is removed
//! a lease is taken      the file is made if necessary and locked; then its holder looks for the layer
//! ```
//!
//! A lease that ends leaves its file, which is what a round needs to know: the record that names the layer may have been
//! written after the round read the records. Only rounds remove files, so there are at most as many as layers had a
//! lease since the last round. After a kill the file is there without a lock, which is the same as an ended lease.
//!
//! A process needs one descriptor for each layer of which it has leases.
//!
//! A lease and the removal of its layer exclude each other by the lock of one file: a process that takes the lease
//! meanwhile waits for the rename. Then it has locked a file that was removed, takes the lock of a new one, and does not
//! find the layer.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{key::LayerKey, store_lock::private_dir};
use crate::sys::{
    durable::at,
    flock::{self, Kind, Lock},
};

/// The directory of the lease files.
#[derive(Debug)]
pub(super) struct LeaseFiles {
    dir: PathBuf,
}

/// The right to remove one layer, which no process has a lease of. No process can take one until this is dropped.
#[derive(Debug)]
pub(super) struct ClaimedFile {
    path: PathBuf,
    /// Released after the file is removed.
    _lock: Lock,
}

impl LeaseFiles {
    /// Opens the directory `dir`, and makes it if it does not exist.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        private_dir(&dir)?;
        Ok(Self { dir })
    }

    fn of(&self, key: &LayerKey) -> PathBuf {
        self.dir.join(key.dir_name())
    }

    /// Takes a lease, which ends when the result is dropped. Blocks while the layer is renamed away.
    pub(super) fn take(&self, key: &LayerKey) -> io::Result<Lock> {
        let path = self.of(key);
        loop {
            let lock = Lock::wait(flock::open_file(&path)?, Kind::Shared)?;
            if lock.is_at(&path)? {
                return Ok(lock);
            }
        }
    }

    /// Removes the files of leases that have ended. The caller has the lock of rounds.
    pub(super) fn remove_ended(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir).map_err(at("list", &self.dir))? {
            let path = entry.map_err(at("list", &self.dir))?.path();
            let file = File::open(&path).map_err(at("open the lease", &path))?;
            if let Some(_lock) = Lock::try_take(file, Kind::Exclusive)? {
                fs::remove_file(&path).map_err(at("remove the lease", &path))?;
            }
        }
        Ok(())
    }

    /// Whether the layer has a lease, or had one since [`LeaseFiles::remove_ended`]. In doubt it has.
    pub(super) fn has(&self, key: &LayerKey) -> bool {
        let found = fs::symlink_metadata(self.of(key));
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// The right to remove a layer; `None` if it has a lease, or had one since [`LeaseFiles::remove_ended`]. The caller
    /// has the lock of rounds.
    pub(super) fn claim(&self, key: &LayerKey) -> io::Result<Option<ClaimedFile>> {
        let path = self.of(key);
        let mut options = OpenOptions::new();
        let file = match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            file => file.map_err(at("make the lease", &path))?,
        };
        // Another process may take a lease between the two steps.
        let lock = Lock::try_take(file, Kind::Exclusive)?;
        Ok(lock.map(|lock| ClaimedFile { path, _lock: lock }))
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for ClaimedFile {
    fn drop(&mut self) {
        // If it stays, the layer's next lease or round finds it. Until then it only keeps the layer.
        let _ = fs::remove_file(&self.path);
    }
}
