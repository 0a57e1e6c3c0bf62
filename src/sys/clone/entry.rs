//! One entry of a directory in a round: what it is now, what was noted of it, and its copy brought from the one to the other.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, FileType, Mode, fgetxattr, makedev, mknodat, renameat, statat},
    io::Errno,
};

use super::{
    CloneError, Round,
    bounds::{Beyond, Bounds},
    fingerprint::Fingerprint,
    metadata::Weight,
    notes::{Note, State},
    walk::{Pair, Walk, os},
};
use crate::sys::attributes::read;

/// What stands under a name.
enum There {
    /// Nothing that a copy has.
    Nothing,
    Dir,
    /// What overlay takes for the absence of a name. They are names of one inode, which so changes with each new one.
    Whiteout,
    Socket,
    Other(Fingerprint),
}

/// What the round before has noted of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    Dir,
    Other(State),
}

impl Walk<'_> {
    /// Takes out of the copy what the round before has noted ahead of `before` in this directory, or of its end.
    pub(super) fn gone(&mut self, pair: &Pair, before: Option<&[u8]>) -> Result<bool, CloneError> {
        let mut touched = false;
        loop {
            let note = self.old.peek().map_err(CloneError::Notes)?;
            let Some(name) = note.and_then(Note::name) else { return Ok(touched) };
            if before.is_some_and(|before| name >= before) {
                return Ok(touched);
            }
            let name = name.to_vec();
            // Which of both does not matter.
            self.put_aside(pair, &name, Found::Dir)?;
            touched = true;
        }
    }

    /// What the round before has noted of a name, if that is what comes next.
    pub(super) fn found(&mut self, name: &[u8]) -> Result<Found, CloneError> {
        Ok(match self.old.peek().map_err(CloneError::Notes)? {
            Some(Note::Entry { name: noted, state }) if noted == name => Found::Other(*state),
            Some(Note::Enter { name: noted }) if noted == name => Found::Dir,
            _ => Found::Nothing,
        })
    }

    /// Brings the copy of one entry up to date. Answers whether the directory of the copy was changed for it.
    pub(super) fn entry(
        &mut self,
        pair: &Pair,
        name: &[u8],
        known: bool,
        depth: usize,
    ) -> Result<bool, CloneError> {
        self.place_of(name, depth)?;
        let found = if known { self.found(name)? } else { Found::Nothing };
        let there = There::at(pair, name).map_err(|e| self.failed(name, e))?;
        if matches!(there, There::Dir) {
            return self.child(pair, name, found, depth);
        }
        self.leaf(pair, name, found, there, depth == 0)
    }

    fn place_of(&self, name: &[u8], depth: usize) -> Result<(), CloneError> {
        let above = if self.path.is_empty() { 0 } else { self.path.len() + 1 };
        let placed = self.bounds.place(depth + 1, above + name.len());
        placed.map_err(|what| self.beyond(name, what))
    }

    /// Brings the copy of what is no directory up to date.
    fn leaf(
        &mut self,
        pair: &Pair,
        name: &[u8],
        found: Found,
        there: There,
        in_root: bool,
    ) -> Result<bool, CloneError> {
        match there {
            There::Nothing | There::Dir => self.put_aside(pair, name, found),
            There::Whiteout => self.whiteout(pair, name, found),
            There::Socket if in_root || may_cover(&pair.from) => self.whiteout(pair, name, found),
            There::Socket => self.put_aside(pair, name, found),
            There::Other(look) => {
                let telling = self.telling_times || look.sort() != FileType::RegularFile;
                if let Found::Other(state) = found
                    && state.look == Some(look)
                    && telling
                    && !look.is_since(self.since)
                    && !self.is_in_doubt(&state, &look)
                    && !(look.links > 1 && self.is_now_another(name, &look)?)
                {
                    self.keep()?;
                    return Ok(false);
                }
                self.take(pair, name, found)?;
                Ok(true)
            }
        }
    }

    /// Whether a file that looks as it did may have got bytes since by direct I/O that had begun before.
    fn is_in_doubt(&self, state: &State, look: &Fingerprint) -> bool {
        self.what != Round::Early && state.taken.maybe_direct && look.is_since(self.direct_since)
    }

    /// Whether a file that looks so may have been written to by direct I/O that is still under way.
    pub(super) fn may_be_direct(&self, look: &Fingerprint) -> bool {
        self.content.never_shares && self.telling_times && look.is_since(self.direct_since)
    }

    fn whiteout(&mut self, pair: &Pair, name: &[u8], found: Found) -> Result<bool, CloneError> {
        let look = Some(Fingerprint::WHITEOUT);
        if matches!(found, Found::Other(state) if state.look == look) {
            self.keep()?;
            return Ok(false);
        }
        self.put_aside(pair, name, found)?;
        let (device, mode) = (FileType::CharacterDevice, Mode::empty());
        mknodat(&pair.to, os(name), device, mode, makedev(0, 0))
            .map_err(|e| self.failed(name, e))?;
        let packed = Bounds::packed(self.path_of(name).len(), 0, &Weight::default());
        let state = State { look, packed, ..State::default() };
        self.note(&Note::Entry { name: name.to_vec(), state })?;
        Ok(true)
    }

    /// Notes again what comes next in the notes of the round before.
    pub(super) fn keep(&mut self) -> Result<(), CloneError> {
        let kept = self.old.next().map_err(CloneError::Notes)?;
        kept.map_or(Ok(()), |note| self.note(&note))
    }

    pub(super) fn note(&mut self, note: &Note) -> Result<(), CloneError> {
        self.notes.push(note).map_err(CloneError::Notes)?;
        let (limit, packed) = (self.bounds.tar_bytes, self.notes.packed);
        if packed > limit && !matches!(note, Note::Leave(_)) {
            return Err(self.beyond(note.name().unwrap_or_default(), Beyond::Tar(limit)));
        }
        Ok(())
    }

    /// Takes what was copied under a name out of the copy, if anything was, and out of the notes. Answers whether it was.
    pub(super) fn put_aside(
        &mut self,
        pair: &Pair,
        name: &[u8],
        found: Found,
    ) -> Result<bool, CloneError> {
        if found == Found::Nothing {
            return Ok(false);
        }
        renameat(&pair.to, os(name), &self.aside, self.moved.to_string())
            .map_err(|e| self.failed(name, e))?;
        *self.moved += 1;
        self.old.skip().map_err(CloneError::Notes)?;
        Ok(true)
    }
}

impl There {
    fn at(pair: &Pair, name: &[u8]) -> rustix::io::Result<Self> {
        let stat = match statat(&pair.from, os(name), AtFlags::SYMLINK_NOFOLLOW) {
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

/// Whether a name in this directory may cover one of a lower. Where overlay has not set that mark there is no lower to cover, nor does
/// it look for whiteouts: it would list them.
fn may_cover(dir: &OwnedFd) -> bool {
    read(|space| fgetxattr(dir, "trusted.overlay.origin", space)).is_ok()
}
