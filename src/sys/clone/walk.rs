//! Walks the tree once and updates its copy: one round.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, RawDir, ResolveFlags, Stat, fstat, mkdirat, openat, openat2},
    io::Errno,
};

use super::{
    CloneError, Cloned, Round, TreeClone,
    bounds::{Bounds, ExceededBound},
    content::{BLOCK, Content, CopyContext},
    entry::Noted,
    fingerprint::{Clock, EARLIEST, Fingerprint, Moment},
    flush::Flush,
    memory::Memory,
    metadata::{Metadata, Original},
    notes::{Note, Notes, PreviousNotes, State},
    take::Linked,
};
use crate::{
    spill::{Map, Scratch, Sorted, SortedReader, Sorter, SpoolReader},
    sys::openat2,
};

/// How a step opens one entry of an open directory.
pub(super) const STEP: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// The longest time, in seconds, that direct I/O can be in flight. The kernel's drivers give up a
/// disk that does not respond for so long.
const LONGEST_IO: i64 = 30;

pub(super) struct Walk<'c> {
    from: OwnedFd,
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
    entries_left: u64,
    pub(super) since: Clock,
    pub(super) times_change: bool,
    /// The path of the current directory, relative to the tree.
    pub(super) path: Vec<u8>,
    /// Files with several names that this round has found, by inode number.
    pub(super) linked: Map<Linked>,
    memory: &'c mut Memory,
    /// Bytes of memory of the names in the current directory and those above it.
    listed: usize,
    /// Whether there was a previous round.
    known: bool,
    pub(super) previous: PreviousNotes,
    pub(super) notes: Notes,
}

/// An open directory of the tree, and its open copy.
pub(super) struct Pair {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
}

impl<'c> Walk<'c> {
    pub(super) fn new(
        clone: &'c mut TreeClone,
        round: Round,
        go_on: &'c dyn Fn() -> bool,
    ) -> Result<Self, CloneError> {
        let now = Moment::now();
        // The ctime of files that changed since, or any time if the clock was set back.
        let since =
            |moment: Option<Moment>| moment.and_then(|it| it.until(&now)).unwrap_or(EARLIEST);
        let (since, started) = (since(clone.since), since(Some(clone.started)));
        let open = |path: &Path| {
            openat2::dir(path, openat2::READ).map_err(|e| {
                let path = path.to_owned();
                CloneError::Entry { path, source: e.into() }
            })
        };
        let (from, to, aside) = (open(&clone.from)?, open(&clone.to)?, open(&clone.aside)?);
        let notes = clone.previous.take();
        // The first round copies the most, and delays no pod. A later round copies what was written
        // during the round before, so it must be quick.
        let writes_out = round == Round::Early && notes.is_none();
        Ok(Self {
            from,
            to,
            aside,
            content: &mut clone.content,
            flush: &mut clone.flush,
            disk: &clone.disk,
            context: CopyContext { go_on, space: clone.space.as_deref(), writes_out },
            round,
            direct_since: (started.0.saturating_sub(LONGEST_IO), 0),
            moved: &mut clone.moved,
            bounds: clone.bounds,
            entries_left: clone.bounds.entries,
            since,
            times_change: clone.times_change,
            path: Vec::new(),
            linked: Map::default(),
            memory: &mut clone.memory,
            listed: 0,
            known: notes.is_some(),
            previous: PreviousNotes::new(notes.unwrap_or_default()),
            notes: Notes::new(&clone.scratch),
            scratch: clone.scratch.clone(),
        })
    }

    pub(super) fn root(&mut self) -> Result<(), CloneError> {
        let open = |fd: &OwnedFd| openat(fd, ".", openat2::READ, Mode::empty());
        let pair = open(&self.from).and_then(|from| Ok(Pair { from, to: open(&self.to)? }));
        match pair {
            Ok(pair) => self.dir(&pair, self.known, 0),
            Err(e) => {
                self.end(self.known, State::default())?;
                Err(self.failed(b"", e))
            }
        }
    }

    /// Returns the notes for the next round, and their sum.
    pub(super) fn finish(self) -> io::Result<(SpoolReader, Cloned)> {
        self.notes.finish()
    }

    /// Updates the copy of a directory and everything below it. `known`: the previous round has
    /// noted it.
    fn dir(&mut self, pair: &Pair, known: bool, depth: usize) -> Result<(), CloneError> {
        let updated = self.update(pair, known, depth);
        // After an error, the state marks the copy as incomplete.
        let state = updated.as_ref().copied().unwrap_or_default();
        self.end(known, state)?;
        updated.map(drop)
    }

    /// Notes the end of a directory. Previous notes of entries that the walk did not reach are
    /// kept.
    fn end(&mut self, known: bool, state: State) -> Result<(), CloneError> {
        let rest = if known { self.notes.copy_rest(&mut self.previous) } else { Ok(()) };
        rest.map_err(CloneError::Notes)?;
        self.note(&Note::Leave(state))
    }

    // The following functions are split to keep the stack frames of the recursion small.
    fn update(&mut self, pair: &Pair, known: bool, depth: usize) -> Result<State, CloneError> {
        let stat = fstat(&pair.from).map_err(|e| self.failed(b"", e))?;
        let list = self.list(&pair.from, depth)?;
        let mut names = list.read().map_err(CloneError::Notes)?;
        let (mut name, mut changed) = (Vec::new(), false);
        while next_name(&mut names, &mut name)? {
            if !(self.context.go_on)() {
                return Err(CloneError::Stopped);
            }
            changed |= known && self.remove_vanished(pair, Some(&name))?;
            changed |= self.entry(pair, &name, known, depth)?;
        }
        changed |= known && self.remove_vanished(pair, None)?;
        self.listed -= list.memory();
        self.set_metadata(pair, stat, known, changed)
    }

    /// Copies the metadata of a directory if it changed.
    fn set_metadata(
        &mut self,
        pair: &Pair,
        stat: Stat,
        known: bool,
        changed: bool,
    ) -> Result<State, CloneError> {
        let original = Original { fd: pair.from.as_fd(), stat };
        let fingerprint = Fingerprint::of(&original.stat);
        let before = match self.previous.peek().map_err(CloneError::Notes)? {
            Some(Note::Leave(state)) if known => *state,
            _ => State::default(),
        };
        if before.fingerprint != Some(fingerprint) || fingerprint.is_since(self.since) {
            let Metadata { xattrs, weight } =
                original.set_metadata(&pair.to).map_err(|e| self.failed(b"", e))?;
            let checked = self.bounds.xattrs(&weight, self.path.is_empty());
            checked.map_err(|what| self.exceeds(b"", what))?;
            let packed = Bounds::packed(self.path.len(), 0, &weight);
            return Ok(State {
                fingerprint: Some(fingerprint),
                packed,
                xattrs,
                ..State::default()
            });
        }
        if changed {
            original.set_times(&pair.to).map_err(|e| self.failed(b"", e))?;
        }
        Ok(before)
    }

    pub(super) fn child(
        &mut self,
        pair: &Pair,
        name: &[u8],
        noted: Noted,
        depth: usize,
    ) -> Result<bool, CloneError> {
        let known = noted == Noted::Dir;
        let Some(below) = self.enter(pair, name, noted)? else {
            return self.move_aside(pair, name, noted);
        };
        let above = self.path.len();
        self.path = self.path_of(name);
        self.dir(&below, known, depth + 1)?;
        self.path.truncate(above);
        Ok(!known)
    }

    /// Opens a directory and its copy, and notes it. Makes the copy if it does not exist. `None` if
    /// the entry is no longer a directory.
    fn enter(
        &mut self,
        pair: &Pair,
        name: &[u8],
        noted: Noted,
    ) -> Result<Option<Pair>, CloneError> {
        let open = |fd: &OwnedFd| openat2(fd, os_str(name), openat2::READ, Mode::empty(), STEP);
        let from = match open(&pair.from) {
            Ok(from) => from,
            Err(e) if is_race(e) => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        let known = noted == Noted::Dir;
        if known {
            self.keep_note()?;
        } else {
            self.move_aside(pair, name, noted)?;
            self.context.reserve(BLOCK).map_err(|e| self.failed(name, e))?;
            mkdirat(&pair.to, os_str(name), Mode::RWXU).map_err(|e| self.failed(name, e))?;
            self.note(&Note::Enter { name: name.to_vec() })?;
        }
        match open(&pair.to) {
            Ok(to) => Ok(Some(Pair { from, to })),
            Err(e) => {
                self.end(known, State::default())?;
                Err(self.failed(name, e))
            }
        }
    }

    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let parts = [&self.path[..], name].into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(&b'/')
    }

    fn place(&self, name: &[u8]) -> PathBuf {
        os_str(&self.path_of(name)).into()
    }

    pub(super) fn exceeds(&self, name: &[u8], what: ExceededBound) -> CloneError {
        CloneError::Beyond { path: self.place(name), what }
    }

    /// Reads the names in a directory, sorted.
    fn list(&mut self, dir: &OwnedFd, depth: usize) -> Result<Sorted, CloneError> {
        let mut names = Sorter::of_names(&self.scratch, depth);
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(_) if self.entries_left == 0 => {
                    return Err(CloneError::TooMany(self.bounds.entries));
                }
                Ok(entry) => {
                    self.entries_left -= 1;
                    names.push(entry.file_name().to_bytes()).map_err(CloneError::Notes)?;
                }
                // The directory was removed after it was opened.
                Err(Errno::NOENT) => break,
                Err(e) => return Err(self.failed(b"", e)),
            }
        }
        let names = names.sorted().map_err(CloneError::Notes)?;
        self.listed += names.memory();
        self.reserve_memory()?;
        Ok(names)
    }

    /// Reserves memory for all data of the walk. It is called after the names of each directory and
    /// after each file with several names. Other data is small.
    pub(super) fn reserve_memory(&mut self) -> Result<(), CloneError> {
        let bytes =
            self.listed + self.linked.memory() + self.notes.memory() + self.previous.memory();
        self.memory.reserve(bytes, self.context.go_on)
    }

    pub(super) fn failed(&self, name: &[u8], e: impl Into<io::Error>) -> CloneError {
        CloneError::Entry { path: self.place(name), source: e.into() }
    }
}

/// Reads the next name into `name`. False if there is none.
fn next_name(names: &mut SortedReader<'_>, name: &mut Vec<u8>) -> Result<bool, CloneError> {
    while let Some(next) = names.read_next().map_err(CloneError::Notes)? {
        // If the names of a directory change while it is listed, a name can appear twice.
        if next != name.as_slice() {
            name.clear();
            name.extend_from_slice(next);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the entry was renamed or replaced since it was looked at. The next round copies what is
/// there then.
pub(super) fn is_race(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

pub(super) fn os_str(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
