//! The state of one round, and what each step of it needs: paths, records, memory.
//!
//! The steps are in three files: `directory` goes through the names of a directory, `entry` decides
//! what happens to a name, `copy_entry` copies.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::PathBuf,
};

use rustix::{
    fs::{ResolveFlags, renameat},
    io::Errno,
};

use super::{
    bounds::{Bounds, ExceededBound},
    content::{Content, CopyContext},
    error::CloneError,
    fingerprint::Clock,
    flush::Flush,
    memory::Memory,
    round_records::{Cloned, EntryRecord, PreviousRecords, RoundRecords, State},
};
use crate::spill::{Map, Scratch, SpoolReader, Value};

/// How a step opens one entry of an open directory.
pub(super) const STEP: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

pub(super) struct Walk<'c> {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    pub(super) aside: OwnedFd,
    pub(super) content: &'c mut Content,
    pub(super) flush: &'c mut Flush,
    pub(super) disk: &'c File,
    pub(super) context: CopyContext<'c>,
    pub(super) round: Round,
    /// The earliest start of direct I/O that was in flight when this copy started.
    pub(super) direct_since: Clock,
    pub(super) moved: &'c mut u64,
    pub(super) bounds: Bounds,
    pub(super) scratch: Scratch,
    /// How many more entries are allowed.
    pub(super) entries_left: u64,
    pub(super) since: Clock,
    pub(super) times_change: bool,
    /// The path of the current directory, relative to the tree.
    pub(super) path: Vec<u8>,
    /// Files with several names that this round has found, by inode number.
    pub(super) linked: Map<Linked>,
    pub(super) memory: &'c mut Memory,
    /// Bytes of memory of the names in the current directory and those above it.
    pub(super) listed: usize,
    /// Whether there was a previous round.
    pub(super) known: bool,
    pub(super) previous: PreviousRecords,
    pub(super) records: RoundRecords,
}

/// Whether programs write to the tree during a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// They write, and another round follows.
    PreCopy,
    /// They are frozen, so the tree does not change. Only what must be written out is written out.
    Frozen,
    /// They write, and no round follows. A file that changes while it is copied is copied again, up
    /// to three times in all.
    Live,
}

/// The previous round's record of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recorded {
    /// No record.
    Nothing,
    Dir,
    Other(State),
}

/// A file of the copy that has more names to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) path: Vec<u8>,
    /// Number of names that were not found yet.
    pub(super) names_left: u32,
    /// Whether this round made it. Then names that an earlier round made lead to another file.
    pub(super) is_new: bool,
}

impl Value for Linked {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.names_left.to_le_bytes());
        out.push(u8::from(self.is_new));
        out.extend_from_slice(&self.path);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (names_left, rest) = bytes.split_first_chunk()?;
        let (is_new, path) = rest.split_first()?;
        Some(Self {
            path: path.to_vec(),
            names_left: u32::from_le_bytes(*names_left),
            is_new: *is_new == 1,
        })
    }

    fn memory(&self) -> usize {
        self.path.memory()
    }
}

/// An open directory of the tree, and its open copy.
pub(super) struct Pair {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
}

impl Walk<'_> {
    /// Returns the records for the next round, and their sum.
    pub(super) fn finish(self) -> io::Result<(SpoolReader, Cloned)> {
        self.records.finish()
    }

    /// Copies the next record of the previous round.
    pub(super) fn keep_record(&mut self) -> Result<(), CloneError> {
        let kept = self.previous.next().map_err(CloneError::Records)?;
        kept.map_or(Ok(()), |record| self.record(&record))
    }

    pub(super) fn record(&mut self, record: &EntryRecord) -> Result<(), CloneError> {
        self.records.push(record).map_err(CloneError::Records)?;
        let (limit, packed) = (self.bounds.tar_bytes, self.records.packed);
        if packed > limit {
            return Err(self.exceeds(record.name().unwrap_or_default(), ExceededBound::Tar(limit)));
        }
        Ok(())
    }

    /// Moves the copy of a name to `aside` and skips its previous record. Returns whether there was a
    /// copy.
    pub(super) fn move_aside(
        &mut self,
        pair: &Pair,
        name: &[u8],
        recorded: Recorded,
    ) -> Result<bool, CloneError> {
        if recorded == Recorded::Nothing {
            return Ok(false);
        }
        renameat(&pair.to, os_str(name), &self.aside, self.moved.to_string())
            .map_err(|e| self.failed(name, e))?;
        *self.moved += 1;
        self.previous.skip().map_err(CloneError::Records)?;
        Ok(true)
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let parts = [&self.path[..], name].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(&b'/')
    }

    fn place(&self, name: &[u8]) -> PathBuf {
        os_str(&self.path_of(name)).into()
    }

    pub(super) fn exceeds(&self, name: &[u8], what: ExceededBound) -> CloneError {
        CloneError::ExceedsBound { path: self.place(name), what }
    }

    /// Reserves memory for all data of the walk. It is called after the names of each directory and
    /// after each file with several names. Other data is small.
    pub(super) fn reserve_memory(&mut self) -> Result<(), CloneError> {
        let bytes =
            self.listed + self.linked.memory() + self.records.memory() + self.previous.memory();
        self.memory.reserve(bytes, self.context.go_on)
    }

    pub(super) fn failed(&self, name: &[u8], e: impl Into<io::Error>) -> CloneError {
        CloneError::Entry { path: self.place(name), source: e.into() }
    }
}

/// Whether the entry was renamed or replaced since it was looked at. The next round copies what is
/// there then.
pub(super) fn is_race(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

pub(super) fn os_str(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
