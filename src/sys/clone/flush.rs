//! Brings what was written to a tree to its disk before it is read, without what others wrote there where that costs less.
//!
//! It has to be there for two reasons: pages that are mapped for writing become read-only by it, so that what is written through
//! them later changes a file's times; and what is dirty when the writers stand still would be written then.

use std::{fs::File, io, path::Path};

use super::fingerprint::{Fingerprint, now};
use crate::sys::{
    du::Walk,
    durable::{self, Amount, unwritten},
};

/// What is written out within this time of a change, with or without anybody asking: the kernel does it after 30 s
/// (`vm.dirty_expire_centisecs`), and takes its time on a busy disk.
const WRITTEN_AFTER: i64 = 60;

/// What is flushed at once without a thought.
pub(super) const LITTLE: u64 = 16 << 20;

/// What became of a round's dirty bytes until now.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// See [`Self::is_done`].
    is_done: bool,
    /// What all of it costs.
    all: u64,
    /// What was written out file by file.
    own: Amount,
}

impl Flush {
    /// A round begins, before which everything was written out, or nothing.
    pub(super) fn begin(is_done: bool, all: u64) -> Self {
        Self { is_done, all, own: Amount::default() }
    }

    /// Nothing has to be written out any more.
    pub(super) fn stop(&mut self) {
        self.is_done = true;
    }

    /// The bytes of a file that looks so are about to be read. Where to write files out one by one has cost as much as everything
    /// would, everything is.
    pub(super) fn count(&mut self, look: &Fingerprint, disk: &File) -> io::Result<()> {
        if self.is_done {
            return Ok(());
        }
        if look.is_since((now().0 - WRITTEN_AFTER, 0)) {
            self.own.files += 1;
            self.own.bytes += look.size;
        }
        if self.own.cost() > self.all {
            self.is_done = true;
            return durable::sync_filesystem(disk);
        }
        Ok(())
    }

    /// Whether everything on the disk was written out since the round began, or need not be.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }
}

/// Whether a flush of everything costs less than one of the files in the tree `root` that changed lately; and what it costs.
pub(super) fn is_cheaper(root: &Path, now: i64) -> io::Result<(bool, u64)> {
    let all = unwritten();
    if all <= LITTLE {
        return Ok((true, all));
    }
    let mut walk = Walk::new(root)?.changed_since(now - WRITTEN_AFTER);
    loop {
        let done = walk.go_on(1_000)?;
        let found = walk.found();
        let own = Amount { files: found.inodes, bytes: found.bytes };
        if own.cost() >= all || done.is_some() {
            return Ok((own.cost() >= all, all));
        }
    }
}
