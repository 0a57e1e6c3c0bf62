//! Updates the copy of one entry: compares the entry with the note of the previous round, and
//! changes the copy.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, FileType, Mode, fgetxattr, makedev, mknodat, statat},
    io::Errno,
};

use super::{
    bounds::Bounds,
    error::CloneError,
    fingerprint::Fingerprint,
    metadata::Weight,
    notes::{Note, State},
    walk::{Noted, Pair, Round, Walk, os_str},
};
use crate::{overlay_xattr::ORIGIN, sys::attributes::read};

/// The entry that has a name now.
enum Current {
    /// No entry.
    Nothing,
    Dir,
    /// A whiteout. All whiteouts are names of one inode, so its link count and ctime change with
    /// each new one.
    Whiteout,
    Socket,
    Other(Fingerprint),
}

impl Walk<'_> {
    /// Removes from the copy the entries of this directory whose names come before `before`.
    /// `None`: all remaining entries. Returns whether there were any.
    pub(super) fn remove_vanished(
        &mut self,
        pair: &Pair,
        before: Option<&[u8]>,
    ) -> Result<bool, CloneError> {
        let mut changed = false;
        loop {
            let note = self.previous.peek().map_err(CloneError::Notes)?;
            let Some(name) = note.and_then(Note::name) else { return Ok(changed) };
            if before.is_some_and(|before| name >= before) {
                return Ok(changed);
            }
            let name = name.to_vec();
            // `Dir` and `Other` are treated alike here.
            self.move_aside(pair, &name, Noted::Dir)?;
            changed = true;
        }
    }

    /// Returns the previous round's note of `name`, if it is the next note.
    pub(super) fn noted(&mut self, name: &[u8]) -> Result<Noted, CloneError> {
        Ok(match self.previous.peek().map_err(CloneError::Notes)? {
            Some(Note::Entry { name: noted, state }) if noted == name => Noted::Other(*state),
            Some(Note::Enter { name: noted }) if noted == name => Noted::Dir,
            _ => Noted::Nothing,
        })
    }

    /// Updates the copy of one entry. Returns whether the copy of its directory was changed.
    pub(super) fn entry(
        &mut self,
        pair: &Pair,
        name: &[u8],
        known: bool,
        depth: usize,
    ) -> Result<bool, CloneError> {
        self.check_place(name, depth)?;
        let noted = if known { self.noted(name)? } else { Noted::Nothing };
        let current = Current::at(pair, name).map_err(|e| self.failed(name, e))?;
        if matches!(current, Current::Dir) {
            return self.child(pair, name, noted, depth);
        }
        self.leaf(pair, name, noted, current, depth == 0)
    }

    fn check_place(&self, name: &[u8], depth: usize) -> Result<(), CloneError> {
        let above = if self.path.is_empty() { 0 } else { self.path.len() + 1 };
        let placed = self.bounds.place(depth + 1, above + name.len());
        placed.map_err(|what| self.exceeds(name, what))
    }

    /// Updates the copy of an entry that is not a directory.
    fn leaf(
        &mut self,
        pair: &Pair,
        name: &[u8],
        noted: Noted,
        current: Current,
        in_root: bool,
    ) -> Result<bool, CloneError> {
        match current {
            Current::Nothing | Current::Dir => self.move_aside(pair, name, noted),
            Current::Whiteout => self.whiteout(pair, name, noted),
            Current::Socket if in_root || may_cover(&pair.from) => self.whiteout(pair, name, noted),
            Current::Socket => self.move_aside(pair, name, noted),
            Current::Other(fingerprint) => {
                let times_change =
                    self.times_change || fingerprint.file_type() != FileType::RegularFile;
                if let Noted::Other(state) = noted
                    && state.fingerprint == Some(fingerprint)
                    && times_change
                    && !fingerprint.is_since(self.since)
                    && !self.may_have_changed(&state, &fingerprint)
                    && !(fingerprint.links > 1 && self.is_relinked(name, &fingerprint)?)
                {
                    self.keep_note()?;
                    return Ok(false);
                }
                self.replace_copy(pair, name, noted)?;
                Ok(true)
            }
        }
    }

    /// Whether direct I/O that had started before may have changed a file that looks unchanged.
    fn may_have_changed(&self, state: &State, fingerprint: &Fingerprint) -> bool {
        self.round != Round::PreCopy
            && state.copy_state.maybe_direct
            && fingerprint.is_since(self.direct_since)
    }

    /// Whether direct I/O to this file may still be in flight.
    pub(super) fn may_be_direct(&self, fingerprint: &Fingerprint) -> bool {
        self.content.never_shares && self.times_change && fingerprint.is_since(self.direct_since)
    }

    fn whiteout(&mut self, pair: &Pair, name: &[u8], noted: Noted) -> Result<bool, CloneError> {
        let fingerprint = Some(Fingerprint::WHITEOUT);
        if matches!(noted, Noted::Other(state) if state.fingerprint == fingerprint) {
            self.keep_note()?;
            return Ok(false);
        }
        self.move_aside(pair, name, noted)?;
        let (device, mode) = (FileType::CharacterDevice, Mode::empty());
        mknodat(&pair.to, os_str(name), device, mode, makedev(0, 0))
            .map_err(|e| self.failed(name, e))?;
        let packed = Bounds::packed(self.path_of(name).len(), 0, &Weight::default());
        let state = State { fingerprint, packed, ..State::default() };
        self.note(&Note::Entry { name: name.to_vec(), state })?;
        Ok(true)
    }
}

impl Current {
    fn at(pair: &Pair, name: &[u8]) -> rustix::io::Result<Self> {
        let stat = match statat(&pair.from, os_str(name), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Self::Nothing),
            stat => stat?,
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => Self::Socket,
            FileType::Directory => Self::Dir,
            FileType::CharacterDevice if stat.st_rdev == 0 => Self::Whiteout,
            _ => Self::Other(Fingerprint::of(&stat)),
        })
    }
}

/// Whether a name in this directory may cover a name of a lower. Overlay sets this xattr on a
/// directory that has a lower. Without it overlay does not look for whiteouts either: it would list
/// them.
fn may_cover(dir: &OwnedFd) -> bool {
    read(|space| fgetxattr(dir, ORIGIN, space)).is_ok()
}
