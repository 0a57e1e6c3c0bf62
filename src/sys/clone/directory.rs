//! Updates the copy of a directory and of everything below it.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, RawDir, Stat, fstat, mkdirat, openat, openat2},
    io::Errno,
};

use super::{
    bounds::Bounds,
    content::BLOCK,
    error::CloneError,
    fingerprint::Fingerprint,
    metadata::{Metadata, Original},
    round_records::{EntryRecord, State},
    walk::{Pair, Recorded, STEP, Walk, is_race, os_str},
};
use crate::{
    spill::{Sorted, SortedReader, Sorter},
    sys::openat2,
};

impl Walk<'_> {
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

    /// Updates the copy of a directory and everything below it. `known`: the previous round has
    /// recorded it.
    fn dir(&mut self, pair: &Pair, known: bool, depth: usize) -> Result<(), CloneError> {
        let updated = self.update(pair, known, depth);
        // After an error, the state marks the copy as incomplete.
        let state = updated.as_ref().copied().unwrap_or_default();
        self.end(known, state)?;
        updated.map(drop)
    }

    /// Records the end of a directory. Previous records of entries that the walk did not reach are
    /// kept.
    fn end(&mut self, known: bool, state: State) -> Result<(), CloneError> {
        let rest = if known { self.records.copy_rest(&mut self.previous) } else { Ok(()) };
        rest.map_err(CloneError::Records)?;
        self.record(&EntryRecord::Leave(state))
    }

    // The following functions are split to keep the stack frames of the recursion small.
    fn update(&mut self, pair: &Pair, known: bool, depth: usize) -> Result<State, CloneError> {
        let stat = fstat(&pair.from).map_err(|e| self.failed(b"", e))?;
        let list = self.list(&pair.from, depth)?;
        let mut names = list.read().map_err(CloneError::Records)?;
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
        let before = match self.previous.peek().map_err(CloneError::Records)? {
            Some(EntryRecord::Leave(state)) if known => *state,
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
        recorded: Recorded,
        depth: usize,
    ) -> Result<bool, CloneError> {
        let known = recorded == Recorded::Dir;
        let Some(below) = self.enter(pair, name, recorded)? else {
            return self.move_aside(pair, name, recorded);
        };
        let above = self.path.len();
        self.path = self.path_of(name);
        self.dir(&below, known, depth + 1)?;
        self.path.truncate(above);
        Ok(!known)
    }

    /// Opens a directory and its copy, and records it. Makes the copy if it does not exist. `None` if
    /// the entry is no longer a directory.
    fn enter(
        &mut self,
        pair: &Pair,
        name: &[u8],
        recorded: Recorded,
    ) -> Result<Option<Pair>, CloneError> {
        let open = |fd: &OwnedFd| openat2(fd, os_str(name), openat2::READ, Mode::empty(), STEP);
        let from = match open(&pair.from) {
            Ok(from) => from,
            Err(e) if is_race(e) => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        let known = recorded == Recorded::Dir;
        if known {
            self.keep_record()?;
        } else {
            self.move_aside(pair, name, recorded)?;
            self.context.reserve(BLOCK).map_err(|e| self.failed(name, e))?;
            mkdirat(&pair.to, os_str(name), Mode::RWXU).map_err(|e| self.failed(name, e))?;
            self.record(&EntryRecord::Enter { name: name.to_vec() })?;
        }
        match open(&pair.to) {
            Ok(to) => Ok(Some(Pair { from, to })),
            Err(e) => {
                self.end(known, State::default())?;
                Err(self.failed(name, e))
            }
        }
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
                    names.push(entry.file_name().to_bytes()).map_err(CloneError::Records)?;
                }
                // The directory was removed after it was opened.
                Err(Errno::NOENT) => break,
                Err(e) => return Err(self.failed(b"", e)),
            }
        }
        let names = names.sorted().map_err(CloneError::Records)?;
        self.listed += names.memory();
        self.reserve_memory()?;
        Ok(names)
    }
}

/// Reads the next name into `name`. False if there is none.
fn next_name(names: &mut SortedReader<'_>, name: &mut Vec<u8>) -> Result<bool, CloneError> {
    while let Some(next) = names.read_next().map_err(CloneError::Records)? {
        // If the names of a directory change while it is listed, a name can appear twice.
        if next != name.as_slice() {
            name.clear();
            name.extend_from_slice(next);
            return Ok(true);
        }
    }
    Ok(false)
}
