//! Updates the copy of one entry: compares the entry with the record of the previous round, and
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
    round_records::{EntryRecord, State},
    walk::{Pair, Recorded, Round, Walk, os_str},
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
            let record = self.previous.peek().map_err(CloneError::Records)?;
            let Some(name) = record.and_then(EntryRecord::name) else { return Ok(changed) };
            if before.is_some_and(|before| name >= before) {
                return Ok(changed);
            }
            let name = name.to_vec();
            // `Dir` and `Other` are treated alike here.
            self.move_aside(pair, &name, Recorded::Dir)?;
            changed = true;
        }
    }

    /// Returns the previous round's record of `name`, if it is the next record.
    pub(super) fn recorded(&mut self, name: &[u8]) -> Result<Recorded, CloneError> {
        Ok(match self.previous.peek().map_err(CloneError::Records)? {
            Some(EntryRecord::Entry { name: recorded, state }) if recorded == name => {
                Recorded::Other(*state)
            }
            Some(EntryRecord::Enter { name: recorded }) if recorded == name => Recorded::Dir,
            _ => Recorded::Nothing,
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
        let recorded = if known { self.recorded(name)? } else { Recorded::Nothing };
        let current = Current::at(pair, name).map_err(|e| self.failed(name, e))?;
        if matches!(current, Current::Dir) {
            return self.child(pair, name, recorded, depth);
        }
        self.leaf(pair, name, recorded, current, depth == 0)
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
        recorded: Recorded,
        current: Current,
        in_root: bool,
    ) -> Result<bool, CloneError> {
        match current {
            Current::Nothing | Current::Dir => self.move_aside(pair, name, recorded),
            Current::Whiteout => self.whiteout(pair, name, recorded),
            Current::Socket if in_root || may_cover(&pair.from) => {
                self.whiteout(pair, name, recorded)
            }
            Current::Socket => self.move_aside(pair, name, recorded),
            Current::Other(fingerprint) => {
                let times_change =
                    self.times_change || fingerprint.file_type() != FileType::RegularFile;
                if let Recorded::Other(state) = recorded
                    && state.fingerprint == Some(fingerprint)
                    && times_change
                    && !fingerprint.is_since(self.since)
                    && !self.may_have_changed(&state, &fingerprint)
                    && !(fingerprint.links > 1 && self.is_relinked(name, &fingerprint)?)
                {
                    self.keep_record()?;
                    return Ok(false);
                }
                self.replace_copy(pair, name, recorded)?;
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

    fn whiteout(
        &mut self,
        pair: &Pair,
        name: &[u8],
        recorded: Recorded,
    ) -> Result<bool, CloneError> {
        let fingerprint = Some(Fingerprint::WHITEOUT);
        if matches!(recorded, Recorded::Other(state) if state.fingerprint == fingerprint) {
            self.keep_record()?;
            return Ok(false);
        }
        self.move_aside(pair, name, recorded)?;
        let (device, mode) = (FileType::CharacterDevice, Mode::empty());
        mknodat(&pair.to, os_str(name), device, mode, makedev(0, 0))
            .map_err(|e| self.failed(name, e))?;
        let packed = Bounds::packed(self.path_of(name).len(), 0, &Weight::default());
        let state = State { fingerprint, packed, ..State::default() };
        self.record(&EntryRecord::Entry { name: name.to_vec(), state })?;
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
