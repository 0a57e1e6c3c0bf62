//! What every command of the harness has in hand: the cache, the progress, the lock.
//!
//! Deliberately absent: anything about clusters, which `cluster` adds on top.

use anyhow::{Result, ensure};
use nix::unistd::geteuid;

use crate::cache::{Cache, Lock};
use crate::clean;
use crate::progress::Progress;

/// One run of the harness, which is the only one on the machine while this lives.
pub struct Harness {
    /// Where slow things are kept.
    pub cache: Cache,
    /// Where steps are told.
    pub progress: Progress,
    _lock: Lock,
}

impl Harness {
    /// Opens the cache, takes the machine's lock and throws away half-made products.
    ///
    /// # Errors
    /// Not root (mounts, the engine and package installation need it), or no usable cache.
    pub fn start() -> Result<Self> {
        ensure!(geteuid().is_root(), "the harness mounts and runs containers: run it as root");
        let cache = Cache::open()?;
        let progress = Progress::new(cache.logs())?;
        let lock = Lock::take(|holder| progress.say(holder))?;
        // A run that was killed may have left mounts there, into which nothing must be removed.
        clean::unmount_below(&[&cache.root().join("tmp")])?;
        cache.sweep()?;
        Ok(Self { cache, progress, _lock: lock })
    }
}
