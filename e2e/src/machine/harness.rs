//! What every command of the harness gets: the cache, the progress, the lock.
//!
//! Deliberately absent: anything about clusters.

use anyhow::{Result, ensure};
use nix::unistd::geteuid;

use super::cache::Cache;
use super::lock::Lock;
use super::mounts;
use super::progress::Progress;

/// One run of the harness. It is the only one on the machine.
pub struct Harness {
    /// The cache.
    pub cache: Cache,
    /// The progress output.
    pub progress: Progress,
    _lock: Lock,
}

impl Harness {
    /// Opens the cache, takes the machine's lock, and removes incomplete products.
    ///
    /// # Errors
    /// The user is not root (mounts, the engine and package installation need root), or there is no
    /// usable cache.
    pub fn start() -> Result<Self> {
        ensure!(geteuid().is_root(), "the harness mounts and runs containers: run it as root");
        let cache = Cache::open()?;
        let progress = Progress::new(cache.logs())?;
        let lock = Lock::take(|holder| progress.say(holder))?;
        // A killed run may have left mounts there. Their content must not be removed.
        mounts::unmount_below(&[&cache.root().join("tmp")])?;
        cache.sweep()?;
        Ok(Self { cache, progress, _lock: lock })
    }
}
