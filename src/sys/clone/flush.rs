//! Writes the dirty data of a tree to its disk before the data is read, and leaves out the data of
//! others where that costs less.
//!
//! Dirty data must be on the disk for two reasons. Writing out makes pages that are mapped for
//! writing read-only, so a later write through the mapping changes the times of the file. And data
//! that is still dirty when the writers are frozen would be written then.

use std::{fs::File, io, path::Path};

use super::fingerprint::{Fingerprint, now};
use crate::sys::{
    du::Walk,
    durable::{self, Amount, unwritten},
};

/// A change is on the disk after this time (in seconds) without a sync. The kernel writes it out
/// after 30 s (`vm.dirty_expire_centisecs`), and needs some time on a busy disk.
const WRITTEN_AFTER: i64 = 60;

/// Up to this many dirty bytes, everything is synced at once.
pub(super) const LITTLE: u64 = 16 << 20;

/// The state of the dirty bytes in one round.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// See [`Self::is_done`].
    is_done: bool,
    /// The cost of syncing everything, in bytes.
    all: u64,
    /// What was written out file by file.
    own: Amount,
}

impl Flush {
    /// Starts a round. `is_done`: everything was synced before it, or nothing has to be. `all`: the
    /// cost of syncing everything.
    pub(super) fn new(is_done: bool, all: u64) -> Self {
        Self { is_done, all, own: Amount::default() }
    }

    /// Writes out nothing from now on.
    pub(super) fn stop(&mut self) {
        self.is_done = true;
    }

    /// Counts a file whose bytes are about to be read. When the files have cost as much as syncing
    /// everything, it syncs everything.
    pub(super) fn count(&mut self, fingerprint: &Fingerprint, disk: &File) -> io::Result<()> {
        if self.is_done {
            return Ok(());
        }
        if fingerprint.is_since((now().0 - WRITTEN_AFTER, 0)) {
            self.own.files += 1;
            self.own.bytes += fingerprint.size;
        }
        if self.own.cost() > self.all {
            self.is_done = true;
            return durable::sync_filesystem(disk);
        }
        Ok(())
    }

    /// Whether everything was synced since the round started, or does not have to be.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }
}

/// Whether syncing everything costs less than writing out the recently changed files of the tree
/// `root`. Also returns the cost of syncing everything.
pub(super) fn is_cheaper(root: &Path, now: i64) -> io::Result<(bool, u64)> {
    let all = unwritten();
    if all <= LITTLE {
        return Ok((true, all));
    }
    let mut walk = Walk::new(root)?.changed_since(now - WRITTEN_AFTER);
    loop {
        let done = walk.step(1_000)?;
        let found = walk.usage();
        let own = Amount { files: found.inodes, bytes: found.bytes };
        if own.cost() >= all || done.is_some() {
            return Ok((own.cost() >= all, all));
        }
    }
}
