//! Copies a directory tree while programs write to it, in rounds like the pre-copy rounds of a live
//! migration.
//!
//! ```text
//! sync ─► catch up (takes everything) ─► sync ─► catch up (takes what changed) ─► …
//! ```
//!
//! [`TreeClone::sync`] decides how written data reaches the disk, and reports a failed write.
//! Either it syncs everything dirty on the file system at once, or each file is written out in the
//! round. The second way is cheaper where neighbours have written more than this tree.
//! [`TreeClone::catch_up`] then walks the tree and copies each entry that differs from what the
//! previous round saw. After a round without writers the copy equals the tree. Files share their
//! bytes with the copy where the file system supports it (`FICLONE`). Otherwise they are copied
//! with their holes. The first round delays no pod: it writes out its copy in pieces and leaves the
//! disk to others between them. The later rounds are quick, so that little changes during each. The
//! last round, in which the writers are frozen, costs one `stat` of each entry plus the bytes that
//! changed since the round before.
//!
//! # How a change is detected
//!
//! A change is detected by the inode's number, size, times, mode and link count. Any change moves
//! ctime, with these exceptions:
//!
//! - A change within one tick of the clock may leave ctime as it was. So may a write through a
//!   mapping that is writable already. The sync of a round ends that: when the kernel writes a file
//!   out, it makes the mappings read-only again, and the next write moves ctime. Therefore round N
//!   copies every entry again whose ctime is at or after the start of the sync of round N-1, even
//!   if it looks unchanged. If the clock was set back since then, round N copies everything again.
//! - A tmpfs never makes mappings read-only. Its files are always copied again.
//! - Direct I/O (`O_DIRECT`) sets ctime when it starts, and its bytes can arrive later. Sharing
//!   bytes waits for it. Where bytes are copied, the last round copies a file again that direct I/O
//!   may have written since.
//!
//! # Memory and safety
//!
//! Each round records what it saw of each entry, in the order of the walk. Many records go to a
//! file. The next round reads it back in the same order. So memory holds only the names on one way
//! down, whatever the size of the tree. A tree that no layer could hold is refused ([`Bounds`]).
//!
//! Each step goes from an open directory to one of its entries. No symlink is followed and no mount
//! is entered, whatever the writers rename meanwhile. An entry that a round replaces is moved to
//! another directory (`aside`), because freeing it takes time. [`TreeClone::free_replaced`] frees these
//! entries between rounds. A socket is useless without its listener. Where it may cover a file of a
//! lower it is copied as a whiteout, so that the file does not reappear. Deliberately absent: how
//! writers are frozen, and syncing the copy.

mod bounds;
mod content;
mod copy_entry;
mod directory;
mod entry;
mod error;
mod fingerprint;
mod flush;
mod memory;
mod metadata;
mod round_records;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

pub use self::{
    bounds::{Bounds, ExceededBound},
    content::{FileCopier, SpaceReservation},
    error::CloneError,
    round_records::Cloned,
    walk::Round,
};
use self::{
    content::{Content, CopyContext},
    fingerprint::{EARLIEST, Moment},
    flush::Flush,
    memory::Memory,
    round_records::{PreviousRecords, RoundRecords},
    walk::Walk,
};
use super::{
    durable::{self, Amount, at},
    openat2, statfs,
};
use crate::{
    budget::Share,
    spill::{Map, Scratch, SpoolReader},
};

/// The longest time, in seconds, that direct I/O can be in flight. The kernel's drivers give up a
/// disk that does not respond for so long.
const LONGEST_IO: i64 = 30;

/// A directory tree and its copy, which is brought up to date by rounds.
#[derive(Debug)]
pub struct TreeClone {
    from: PathBuf,
    to: PathBuf,
    aside: PathBuf,
    /// Open from the start: `syncfs` reports a failed write only to descriptors that were open at
    /// that time.
    disk: File,
    content: Content,
    flush: Flush,
    /// The records of the previous round. `None` before the first.
    previous: Option<SpoolReader>,
    contents: Cloned,
    bounds: Bounds,
    scratch: Scratch,
    /// Number of entries that were moved to `aside`. It is also the next name there.
    moved: u64,
    /// An entry that changed at or after this moment is copied again: the start of the sync before
    /// the last complete round.
    since: Option<Moment>,
    /// When the last sync started.
    synced: Option<Moment>,
    /// Whether each write changes the times of a file. False on a tmpfs.
    times_change: bool,
    /// When this value was made.
    started: Moment,
    /// Memory for the names.
    memory: Memory,
    /// Disk space for the bytes. `None` reserves nothing.
    space: Option<Box<dyn SpaceReservation>>,
}

impl TreeClone {
    /// Prepares a copy of the directory `from` in the directory `to`. `to` and `aside` are new,
    /// empty and in the same directory. All three paths are absolute and without symlinks. A tree
    /// that exceeds `bounds` is refused. Data that exceeds its memory limit goes to files in
    /// `scratch`.
    pub fn new(
        from: &Path,
        to: &Path,
        aside: &Path,
        bounds: Bounds,
        scratch: &Scratch,
    ) -> io::Result<Self> {
        let disk =
            File::from(openat2::dir(from, openat2::READ).map_err(|e| at("open", from)(e.into()))?);
        let in_memory = matches!(statfs::of(from)?.kind(), Some("tmpfs" | "ramfs"));
        Ok(Self {
            from: from.to_owned(),
            to: to.to_owned(),
            aside: aside.to_owned(),
            disk,
            content: Content::default(),
            flush: Flush::default(),
            previous: None,
            contents: Cloned::default(),
            bounds,
            scratch: scratch.clone(),
            moved: 0,
            since: None,
            synced: None,
            times_change: !in_memory,
            started: Moment::now(),
            memory: Memory::default(),
            space: None,
        })
    }

    /// Takes the memory for names from `memory`, and the disk space for bytes from `reservation`.
    /// Both are shared with other operations.
    #[must_use]
    pub fn with_budget(self, memory: Share, reservation: Box<dyn SpaceReservation>) -> Self {
        Self { memory: Memory::new(memory), space: Some(reservation), ..self }
    }

    /// Syncs the file system of the tree, or leaves writing out to the next round. It chooses the
    /// cheaper way. Returns whether it synced.
    ///
    /// # Errors
    /// [`CloneError::Sync`] where a write to the disk failed.
    pub fn sync(&mut self) -> Result<bool, CloneError> {
        let started = Moment::now();
        let failed = |source| CloneError::Sync { path: self.from.clone(), source };
        let (at_once, all) = match self.previous {
            _ if !self.times_change => (false, u64::MAX),
            None => flush::is_cheaper(&self.from, started.clock.0).map_err(failed)?,
            Some(_) => {
                let all = durable::unwritten();
                (all <= flush::LITTLE, all)
            }
        };
        if at_once {
            durable::sync_filesystem(&self.disk).map_err(failed)?;
        }
        self.flush = Flush::new(at_once || !self.times_change, all);
        self.synced = Some(started);
        Ok(at_once)
    }

    /// Walks the tree and copies what changed since the previous round. The first round copies
    /// everything. Must follow a [`TreeClone::sync`]. An entry that is removed meanwhile is not
    /// copied, or the next round removes its copy.
    ///
    /// `go_on` is called often. When it returns false the round ends with [`CloneError::Stopped`],
    /// and another round may follow.
    pub fn catch_up(&mut self, round: Round, go_on: &dyn Fn() -> bool) -> Result<(), CloneError> {
        if round == Round::Frozen {
            self.flush.stop();
        }
        let mut walk = self.walk(round, go_on)?;
        let walked = walk.root();
        let recorded = walk.finish().map_err(CloneError::Records)?;
        (self.previous, self.contents) = (Some(recorded.0), recorded.1);
        walked?;
        if round == Round::PreCopy {
            let failed = |source| CloneError::Sync { path: self.to.clone(), source };
            self.content.flush().map_err(failed)?;
        }
        self.since = self.synced;
        Ok(())
    }

    /// The start of a round.
    fn walk<'c>(
        &'c mut self,
        round: Round,
        go_on: &'c dyn Fn() -> bool,
    ) -> Result<Walk<'c>, CloneError> {
        let now = Moment::now();
        // The ctime of files that changed since, or any time if the clock was set back.
        let since =
            |moment: Option<Moment>| moment.and_then(|it| it.until(&now)).unwrap_or(EARLIEST);
        let (since, started) = (since(self.since), since(Some(self.started)));
        let open = |path: &Path| {
            openat2::dir(path, openat2::READ).map_err(|e| {
                let path = path.to_owned();
                CloneError::Entry { path, source: e.into() }
            })
        };
        let (from, to, aside) = (open(&self.from)?, open(&self.to)?, open(&self.aside)?);
        let records = self.previous.take();
        // The first round copies the most, and delays no pod. A later round copies what was written
        // during the round before, so it must be quick.
        let writes_out = round == Round::PreCopy && records.is_none();
        Ok(Walk {
            from,
            to,
            aside,
            content: &mut self.content,
            flush: &mut self.flush,
            disk: &self.disk,
            context: CopyContext { go_on, space: self.space.as_deref(), writes_out },
            round,
            direct_since: (started.0.saturating_sub(LONGEST_IO), 0),
            moved: &mut self.moved,
            bounds: self.bounds,
            entries_left: self.bounds.entries,
            since,
            times_change: self.times_change,
            path: Vec::new(),
            linked: Map::default(),
            memory: &mut self.memory,
            listed: 0,
            known: records.is_some(),
            previous: PreviousRecords::new(records.unwrap_or_default()),
            records: RoundRecords::new(&self.scratch),
            scratch: self.scratch.clone(),
        })
    }

    /// Frees the entries that earlier rounds have replaced.
    pub fn free_replaced(&mut self) -> Result<(), CloneError> {
        let path = &self.aside;
        durable::remove_tree_unsynced(path)
            .and_then(|()| durable::create_dir_unsynced(path, 0o700))
            .map_err(|source| CloneError::Entry { path: path.clone(), source })
    }

    /// The part of the copy that is not on the disk yet. Bytes that a file shares with the tree are
    /// on the disk.
    pub fn dirty(&self) -> Amount {
        self.content.dirty()
    }

    /// Bytes that were copied so far. Shared bytes do not count.
    pub fn copied(&self) -> u64 {
        self.content.copied
    }

    /// The contents of the copy after the last round.
    pub fn contents(&self) -> Cloned {
        self.contents
    }
}
