//! One round through the tree.

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
    bounds::{Beyond, Bounds},
    content::{BLOCK, Content, Within},
    entry::Found,
    fingerprint::{Clock, DAWN, Fingerprint, Moment},
    flush::Flush,
    memory::Memory,
    metadata::{Metadata, Original},
    notes::{Note, Notes, Old, State},
    take::Linked,
};
use crate::{
    spill::{Map, Scratch, Sorted, SortedReader, Sorter, SpoolReader},
    sys::openat2,
};

/// How a step goes: into one entry of an open directory.
pub(super) const STEP: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// How long direct I/O may be under way: a disk that does not answer for so long is given up by the kernel's drivers.
const LONGEST_IO: i64 = 30;

pub(super) struct Walk<'c> {
    from: OwnedFd,
    pub(super) to: OwnedFd,
    pub(super) aside: OwnedFd,
    pub(super) content: &'c mut Content,
    pub(super) flush: &'c mut Flush,
    pub(super) disk: &'c File,
    pub(super) within: Within<'c>,
    pub(super) what: Round,
    /// Direct I/O that was under way when this copy began has begun since.
    pub(super) direct_since: Clock,
    pub(super) moved: &'c mut u64,
    pub(super) bounds: Bounds,
    pub(super) scratch: Scratch,
    /// How many more entries there may be.
    left: u64,
    pub(super) since: Clock,
    pub(super) telling_times: bool,
    /// Where the directory that is walked lies.
    pub(super) path: Vec<u8>,
    /// Files with several names that were met in this round, by their inode's number.
    pub(super) linked: Map<Linked>,
    memory: &'c mut Memory,
    /// Bytes of memory of the names in the directories on the way down.
    listed: usize,
    /// Whether there was a round before, and what it noted.
    known: bool,
    pub(super) old: Old,
    pub(super) notes: Notes,
}

/// A directory of the tree and its copy, both open.
pub(super) struct Pair {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
}

impl<'c> Walk<'c> {
    pub(super) fn new(
        clone: &'c mut TreeClone,
        what: Round,
        go_on: &'c dyn Fn() -> bool,
    ) -> Result<Self, CloneError> {
        let now = Moment::now();
        // The time that files have got since, or, if the clock was set back, any.
        let since = |moment: Option<Moment>| moment.and_then(|it| it.until(&now)).unwrap_or(DAWN);
        let (since, begun) = (since(clone.since), since(Some(clone.begun)));
        let open = |path: &Path| {
            openat2::dir(path, openat2::READ).map_err(|e| {
                let path = path.to_owned();
                CloneError::Entry { path, source: e.into() }
            })
        };
        let (from, to, aside) = (open(&clone.from)?, open(&clone.to)?, open(&clone.aside)?);
        let seen = clone.seen.take();
        // The first round has the most to take and nobody who waits for it. One that follows takes what was written during the one
        // before, and so has to be quick.
        let writes_out = what == Round::Early && seen.is_none();
        Ok(Self {
            from,
            to,
            aside,
            content: &mut clone.content,
            flush: &mut clone.flush,
            disk: &clone.disk,
            within: Within { go_on, space: clone.space.as_deref(), writes_out },
            what,
            direct_since: (begun.0.saturating_sub(LONGEST_IO), 0),
            moved: &mut clone.moved,
            bounds: clone.bounds,
            left: clone.bounds.entries,
            since,
            telling_times: clone.telling_times,
            path: Vec::new(),
            linked: Map::default(),
            memory: &mut clone.memory,
            listed: 0,
            known: seen.is_some(),
            old: Old::new(seen.unwrap_or_default()),
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

    /// What was noted, for the round that follows.
    pub(super) fn finish(self) -> io::Result<(SpoolReader, Cloned)> {
        self.notes.finish()
    }

    /// Brings the copy of a directory up to date, with all below it. `known`: the round before has noted it.
    fn dir(&mut self, pair: &Pair, known: bool, depth: usize) -> Result<(), CloneError> {
        let updated = self.update(pair, known, depth);
        // Unlike the original where that failed.
        let state = updated.as_ref().copied().unwrap_or_default();
        self.end(known, state)?;
        updated.map(drop)
    }

    /// Notes the end of a directory. What is left of it in the notes of the round before stays noted: it was not come to.
    fn end(&mut self, known: bool, state: State) -> Result<(), CloneError> {
        let rest = if known { self.notes.rest_of(&mut self.old) } else { Ok(()) };
        rest.map_err(CloneError::Notes)?;
        self.note(&Note::Leave(state))
    }

    // What follows is split so that the steps from a directory to one in it need little of the stack.
    fn update(&mut self, pair: &Pair, known: bool, depth: usize) -> Result<State, CloneError> {
        let stat = fstat(&pair.from).map_err(|e| self.failed(b"", e))?;
        let list = self.list(&pair.from, depth)?;
        let mut names = list.read().map_err(CloneError::Notes)?;
        let (mut name, mut touched) = (Vec::new(), false);
        while next_name(&mut names, &mut name)? {
            if !(self.within.go_on)() {
                return Err(CloneError::Stopped);
            }
            touched |= known && self.gone(pair, Some(&name))?;
            touched |= self.entry(pair, &name, known, depth)?;
        }
        touched |= known && self.gone(pair, None)?;
        self.listed -= list.memory();
        self.set_metadata(pair, stat, known, touched)
    }

    /// Gives the copy of a directory what it has beside its entries, if that changed.
    fn set_metadata(
        &mut self,
        pair: &Pair,
        stat: Stat,
        known: bool,
        touched: bool,
    ) -> Result<State, CloneError> {
        let is = Original { fd: pair.from.as_fd(), stat };
        let look = Fingerprint::of(&is.stat);
        let before = match self.old.peek().map_err(CloneError::Notes)? {
            Some(Note::Leave(state)) if known => *state,
            _ => State::default(),
        };
        if before.look != Some(look) || look.is_since(self.since) {
            let Metadata { marks, weight } =
                is.set_metadata(&pair.to).map_err(|e| self.failed(b"", e))?;
            let checked = self.bounds.xattrs(&weight, self.path.is_empty());
            checked.map_err(|what| self.beyond(b"", what))?;
            let packed = Bounds::packed(self.path.len(), 0, &weight);
            return Ok(State { look: Some(look), packed, marks, ..State::default() });
        }
        if touched {
            is.set_times(&pair.to).map_err(|e| self.failed(b"", e))?;
        }
        Ok(before)
    }

    pub(super) fn child(
        &mut self,
        pair: &Pair,
        name: &[u8],
        found: Found,
        depth: usize,
    ) -> Result<bool, CloneError> {
        let known = found == Found::Dir;
        let Some(below) = self.enter(pair, name, found)? else {
            return self.put_aside(pair, name, found);
        };
        let above = self.path.len();
        self.path = self.path_of(name);
        self.dir(&below, known, depth + 1)?;
        self.path.truncate(above);
        Ok(!known)
    }

    /// Opens a directory and its copy, which is made where it is missing, and notes it. `None` where it is a directory no more.
    fn enter(
        &mut self,
        pair: &Pair,
        name: &[u8],
        found: Found,
    ) -> Result<Option<Pair>, CloneError> {
        let open = |fd: &OwnedFd| openat2(fd, os(name), openat2::READ, Mode::empty(), STEP);
        let from = match open(&pair.from) {
            Ok(from) => from,
            Err(e) if is_race(e) => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        let known = found == Found::Dir;
        if known {
            self.keep()?;
        } else {
            self.put_aside(pair, name, found)?;
            self.within.takes(BLOCK).map_err(|e| self.failed(name, e))?;
            mkdirat(&pair.to, os(name), Mode::RWXU).map_err(|e| self.failed(name, e))?;
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
        os(&self.path_of(name)).into()
    }

    pub(super) fn beyond(&self, name: &[u8], what: Beyond) -> CloneError {
        CloneError::Beyond { path: self.place(name), what }
    }

    /// The names in a directory, sorted.
    fn list(&mut self, dir: &OwnedFd, depth: usize) -> Result<Sorted, CloneError> {
        let mut names = Sorter::of_names(&self.scratch, depth);
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(_) if self.left == 0 => return Err(CloneError::TooMany(self.bounds.entries)),
                Ok(entry) => {
                    self.left -= 1;
                    names.push(entry.file_name().to_bytes()).map_err(CloneError::Notes)?;
                }
                // It was removed since it was opened.
                Err(Errno::NOENT) => break,
                Err(e) => return Err(self.failed(b"", e)),
            }
        }
        let names = names.sorted().map_err(CloneError::Notes)?;
        self.listed += names.memory();
        self.hold()?;
        Ok(names)
    }

    /// Sees to the memory for all that is held now. Asked after each directory's names and each file of several names: what comes
    /// beside them is little.
    pub(super) fn hold(&mut self) -> Result<(), CloneError> {
        let held = self.listed + self.linked.memory() + self.notes.held() + self.old.memory();
        self.memory.hold(held, self.within.go_on)
    }

    pub(super) fn failed(&self, name: &[u8], e: impl Into<io::Error>) -> CloneError {
        CloneError::Entry { path: self.place(name), source: e.into() }
    }
}

/// Whether there is one more name, which then is in `name`.
fn next_name(names: &mut SortedReader<'_>, name: &mut Vec<u8>) -> Result<bool, CloneError> {
    while let Some(next) = names.read_next().map_err(CloneError::Notes)? {
        // A directory whose names change while it is listed may have one twice.
        if next != name.as_slice() {
            name.clear();
            name.extend_from_slice(next);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether something was renamed or replaced since it was looked at: the next round finds what is there then.
pub(super) fn is_race(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
