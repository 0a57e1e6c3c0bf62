//! Copies a tree that is being written to, in rounds.
//!
//! ```text
//! sync ─► catch up (takes everything) ─► sync ─► catch up (takes what changed) ─► …
//! ```
//!
//! [`TreeClone::sync`] decides how what was written is brought to the disk, whose failure is told: everything that is dirty there
//! at once, or file by file in the round, where neighbours have written more than this tree. [`TreeClone::catch_up`] then goes
//! through the tree and takes again whatever is not as it was seen in the round before, so that after a round in which nobody writes
//! the copy is the tree. Files share their bytes with the copy where the file system can do that (`FICLONE`), and are copied with
//! their holes where not. The first round, for which nobody waits, writes out what it copies in pieces and leaves the disk to others
//! between them; the rounds behind it are quick, so that little changes meanwhile. So the last round, in which writers are made to
//! stand still, costs a look at each entry, and the bytes of what changed since the round before.
//!
//! What tells a change is the inode's number, size, times, mode and links. Any change moves ctime, but for two that this minds:
//! one within the clock's tick, and a write through a mapping that the kernel had made writable before. To write a file out makes
//! its mappings read-only again, so what changes behind that moves ctime behind it; and whatever has a ctime since the begin of the
//! sync before the last round is taken again however it looks; everything is, where the clock was set back meanwhile. A tmpfs never makes mappings read-only: its files are always taken
//! again. A third change is one of direct I/O (`O_DIRECT`), whose ctime is that of its begin, and whose bytes may come later. To share
//! bytes waits for it. Where they are copied, the last round takes a file again that may have been written so since.
//!
//! What was seen of each entry is noted in the order of the walk, in a file where it is much, and read again by the next round: so
//! memory holds the names of one way down, whatever the tree's size. A tree that no layer could hold is refused ([`Bounds`]).
//!
//! Each step goes from an open directory to one of its entries; no symlink is followed and no mount entered, whatever the writers
//! rename meanwhile. What a round replaces is moved to a directory aside: to free it would take time, which [`TreeClone::tidy`] takes
//! between rounds. Sockets are nothing without who listens; where one may stand in the place of a lower's file it is copied as a
//! whiteout, so that the file does not come back. Deliberately absent: how writers are stopped, and syncing the copy.

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

pub use self::bounds::{Beyond, Bounds};
use self::{content::Content, fingerprint::Moment, flush::Flush, memory::Memory, walk::Walk};
use super::{
    durable::{self, Amount, at},
    openat2, statfs,
};
use crate::{
    budget::{OverBudget, Share},
    spill::{Scratch, SpoolReader},
};

/// Why a tree was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The caller wanted no more of it.
    #[error("the time was up")]
    Stopped,
    /// What was written to the tree did not reach its disk.
    #[error("cannot sync {path}: {source}", path = path.display())]
    Sync {
        /// The tree.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// No layer could hold something.
    #[error("{}: {what}", shown(path))]
    Beyond {
        /// What, relative to the tree.
        path: PathBuf,
        /// Which bound, and what to do.
        what: Beyond,
    },
    /// It has more entries than a layer may have.
    #[error(
        "it has more than {0} files and directories, the most that a layer may have; remove some, or keep them in a volume of another kind"
    )]
    TooMany(u64),
    /// To remember its names takes more memory than there is.
    #[error("its names cannot be remembered: {0}")]
    Memory(OverBudget),
    /// What was seen of it cannot be kept.
    #[error("what was seen of it cannot be kept: {0}")]
    Notes(#[source] io::Error),
    /// Something cannot be read, or its copy not be made.
    #[error("{}: {source}", shown(path))]
    Entry {
        /// What, relative to the tree.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// Room on the disk for a copy.
pub trait SpaceReservation: std::fmt::Debug + Send {
    /// So many bytes are about to be copied.
    ///
    /// # Errors
    /// There is no room for them; nothing was copied yet of these.
    fn copy(&self, bytes: u64) -> io::Result<()>;
    /// So many bytes are shared with the tree.
    ///
    /// # Errors
    /// The copy may not have so many.
    fn share(&self, bytes: u64) -> io::Result<()>;
}

/// What is known of those who write while a round goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// They write, and another round follows.
    Early,
    /// They stand still, so what is taken is how it stays. Nothing is written out that need not be.
    Still,
    /// They write, and no round follows: a file that changes while it is copied is copied again, a few times.
    Live,
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".into() } else { path.display().to_string() }
}

/// What a copy consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cloned {
    /// Entries of all directories.
    pub entries: u64,
    /// Bytes of its files, without holes.
    pub bytes: u64,
    /// Whether a file has overlay's mark of content that lies below.
    pub metacopy: bool,
    /// Whether anything has overlay's mark of another name below.
    pub redirect: bool,
    /// Files whose bytes are of more than one moment: each time that one was copied it changed meanwhile.
    pub torn: u64,
}

/// A tree and its copy.
#[derive(Debug)]
pub struct TreeClone {
    from: PathBuf,
    to: PathBuf,
    aside: PathBuf,
    /// Open from the begin: a failed write is told to whoever had the file system open then.
    disk: File,
    content: Content,
    flush: Flush,
    /// Notes of the round before; nothing before the first.
    seen: Option<SpoolReader>,
    contents: Cloned,
    bounds: Bounds,
    scratch: Scratch,
    /// How much was moved aside.
    moved: u64,
    /// What changed at or after this is taken again: when the sync before the last whole round began.
    since: Option<Moment>,
    /// When the last sync began.
    synced: Option<Moment>,
    /// Whether a file's times tell that it was written to.
    telling_times: bool,
    /// When this began.
    begun: Moment,
    /// What its names take.
    memory: Memory,
    /// What its bytes take of the disk.
    space: Option<Box<dyn SpaceReservation>>,
}

impl TreeClone {
    /// A copy of the directory `from` in the directory `to`, which is new and empty like `aside`, a directory beside it. All are absolute
    /// and without symlinks. A tree beyond `bounds` is refused. What outgrows memory goes to files in `scratch`.
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
            seen: None,
            contents: Cloned::default(),
            bounds,
            scratch: scratch.clone(),
            moved: 0,
            since: None,
            synced: None,
            telling_times: !in_memory,
            begun: Moment::now(),
            memory: Memory::default(),
            space: None,
        })
    }

    /// The same copy, which takes its names' memory and its bytes' room from what others want as well.
    #[must_use]
    pub fn within(self, memory: Share, room: Box<dyn SpaceReservation>) -> Self {
        Self { memory: Memory::new(memory), space: Some(room), ..self }
    }

    /// Waits until what was written to the tree is on its disk, or leaves that to the round that follows, whichever costs less;
    /// returns whether it is there.
    pub fn sync(&mut self) -> Result<bool, CloneError> {
        let begun = Moment::now();
        let failed = |source| CloneError::Sync { path: self.from.clone(), source };
        let (at_once, all) = match self.seen {
            _ if !self.telling_times => (false, u64::MAX),
            None => flush::is_cheaper(&self.from, begun.clock.0).map_err(failed)?,
            Some(_) => {
                let all = durable::unwritten();
                (all <= flush::LITTLE, all)
            }
        };
        if at_once {
            durable::sync_filesystem(&self.disk).map_err(failed)?;
        }
        self.flush = Flush::begin(at_once || !self.telling_times, all);
        self.synced = Some(begun);
        Ok(at_once)
    }

    /// Goes through the tree and takes what changed since the round before; the first takes all. After a [`TreeClone::sync`].
    /// What vanishes meanwhile is not taken, or goes in the next round.
    ///
    /// `go_on` is asked again and again; once it says no the round ends with [`CloneError::Stopped`], and another one may follow.
    pub fn catch_up(&mut self, what: Round, go_on: &dyn Fn() -> bool) -> Result<(), CloneError> {
        if what == Round::Still {
            self.flush.stop();
        }
        let mut walk = Walk::new(self, what, go_on)?;
        let walked = walk.root();
        let noted = walk.finish().map_err(CloneError::Notes)?;
        (self.seen, self.contents) = (Some(noted.0), noted.1);
        walked?;
        if what == Round::Early {
            let failed = |source| CloneError::Sync { path: self.to.clone(), source };
            self.content.flush().map_err(failed)?;
        }
        self.since = self.synced;
        Ok(())
    }

    /// Frees what the rounds until now have replaced.
    pub fn tidy(&mut self) -> Result<(), CloneError> {
        let path = &self.aside;
        durable::remove_tree_soon(path)
            .and_then(|()| durable::create_dir_soon(path, 0o700))
            .map_err(|source| CloneError::Entry { path: path.clone(), source })
    }

    /// What of the copy is not on the disk yet: files that share their bytes with the tree's have them there.
    pub fn dirty(&self) -> Amount {
        self.content.dirty()
    }

    /// Bytes that were copied so far, and not shared with the tree's.
    pub fn copied(&self) -> u64 {
        self.content.copied
    }

    /// What the copy consists of.
    pub fn contents(&self) -> Cloned {
        self.contents
    }
}
