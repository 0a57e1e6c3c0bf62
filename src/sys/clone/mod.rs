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
//! - A change within one tick of the clock, and a write through a mapping that the kernel had made
//!   writable before. When a file is written out, the kernel makes its mappings read-only again, so
//!   a later write moves ctime. Therefore each entry with a ctime since the start of the sync
//!   before the last round is copied again, even if nothing else differs. If the clock was set back
//!   since, everything is copied again.
//! - A tmpfs never makes mappings read-only. Its files are always copied again.
//! - Direct I/O (`O_DIRECT`) sets ctime when it starts, and its bytes can arrive later. Sharing
//!   bytes waits for it. Where bytes are copied, the last round copies a file again that direct I/O
//!   may have written since.
//!
//! # Memory and safety
//!
//! Each round records what it saw of each entry, in the order of the walk. A large record goes to a
//! file. The next round reads it back in the same order. So memory holds only the names on one way
//! down, whatever the size of the tree. A tree that no layer could hold is refused ([`Bounds`]).
//!
//! Each step goes from an open directory to one of its entries. No symlink is followed and no mount
//! is entered, whatever the writers rename meanwhile. An entry that a round replaces is moved to
//! another directory (`aside`), because freeing it takes time. [`TreeClone::tidy`] frees these
//! entries between rounds. A socket is useless without its listener. Where it may cover a file of a
//! lower it is copied as a whiteout, so that the file does not reappear. Deliberately absent: how
//! writers are frozen, and syncing the copy.

mod bounds;
mod content;
mod entry;
mod fingerprint;
mod flush;
mod memory;
mod metadata;
mod notes;
mod take;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

pub use self::bounds::{Bounds, ExceededBound};
use self::{content::Content, fingerprint::Moment, flush::Flush, memory::Memory, walk::Walk};
use super::{
    durable::{self, Amount, at},
    openat2, statfs,
};
use crate::{
    budget::{OverBudget, Share},
    spill::{Scratch, SpoolReader},
};

/// Why a tree was not copied. The message completes "the volume cannot be copied: …".
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// `go_on` returned false.
    #[error("the copy was stopped before it was complete")]
    Stopped,
    /// Data that was written to the tree did not reach the disk.
    #[error("cannot sync {path}: {source}", path = path.display())]
    Sync {
        /// The directory of the tree, or of its copy.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An entry is larger than a layer can hold.
    #[error("{}: {what}", shown(path))]
    Beyond {
        /// The entry, relative to the tree.
        path: PathBuf,
        /// Which bound, and what to do.
        what: ExceededBound,
    },
    /// The tree has more entries than a layer may have.
    #[error(
        "it has more than {0} files and directories, and a layer can have no more; remove some, or keep them \
        in a volume of another kind"
    )]
    TooMany(u64),
    /// The names need more memory than one operation may use.
    #[error("cannot keep the names of its files in memory: {0}")]
    Memory(OverBudget),
    /// The record of a round cannot be written or read.
    #[error("cannot keep the record of its files: {0}")]
    Notes(#[source] io::Error),
    /// An entry cannot be read, or its copy cannot be made.
    #[error("{}: {source}", shown(path))]
    Entry {
        /// The entry, relative to the tree.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Disk space that is reserved for a copy.
pub trait SpaceReservation: std::fmt::Debug + Send {
    /// Reserves space before `bytes` are copied.
    ///
    /// # Errors
    /// There is not enough space. None of these bytes was copied yet.
    fn copy(&self, bytes: u64) -> io::Result<()>;
    /// Counts `bytes` that the copy shares with the tree.
    ///
    /// # Errors
    /// The copy may not have so many bytes.
    fn share(&self, bytes: u64) -> io::Result<()>;
}

/// Whether programs write to the tree during a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// They write, and another round follows.
    Early,
    /// They are frozen, so the tree does not change. Only what must be written out is written out.
    Still,
    /// They write, and no round follows. A file that changes while it is copied is copied again, up
    /// to three times in all.
    Live,
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".into() } else { path.display().to_string() }
}

/// The contents of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cloned {
    /// Number of entries in all directories.
    pub entries: u64,
    /// Bytes of the files, without holes.
    pub bytes: u64,
    /// Whether a file has overlay's `metacopy` xattr: its content is in a lower.
    pub metacopy: bool,
    /// Whether an entry has overlay's `redirect` xattr: it has another name in a lower.
    pub redirect: bool,
    /// Number of files whose bytes are of more than one moment: they changed during each attempt to
    /// copy them.
    pub torn: u64,
}

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
    /// The notes of the previous round. `None` before the first.
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
    pub fn within(self, memory: Share, reservation: Box<dyn SpaceReservation>) -> Self {
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
        if round == Round::Still {
            self.flush.stop();
        }
        let mut walk = Walk::new(self, round, go_on)?;
        let walked = walk.root();
        let noted = walk.finish().map_err(CloneError::Notes)?;
        (self.previous, self.contents) = (Some(noted.0), noted.1);
        walked?;
        if round == Round::Early {
            let failed = |source| CloneError::Sync { path: self.to.clone(), source };
            self.content.flush().map_err(failed)?;
        }
        self.since = self.synced;
        Ok(())
    }

    /// Frees the entries that earlier rounds have replaced.
    pub fn tidy(&mut self) -> Result<(), CloneError> {
        let path = &self.aside;
        durable::remove_tree_soon(path)
            .and_then(|()| durable::create_dir_soon(path, 0o700))
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
