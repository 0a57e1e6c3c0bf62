//! Takes what is no directory: a copy of its own, or one more name of a file that was taken already.

use std::{fs::File, io, os::fd::AsFd as _, path::Path, thread, time::Duration};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, linkat, mknodat, open, openat, openat2,
    readlinkat, symlinkat, unlinkat,
};

use super::{
    CloneError, Round,
    bounds::Bounds,
    content::{is_cached, write_out},
    entry::Found,
    fingerprint::{Fingerprint, Taken, allocated, bytes, now},
    metadata::{Metadata, Original, Weight},
    notes::{Note, State},
    walk::{Pair, STEP, Walk, is_race, os},
};
use crate::{
    spill::Value,
    sys::{durable, openat2},
};

/// The most of a path that one call takes, with room to spare.
const PATH: usize = 4_000;

/// How often a file is copied that changes meanwhile.
const TRIES: u32 = 3;

/// Longer than a tick of the clock that files get their times from.
const TICK: Duration = Duration::from_millis(12);

/// Bytes of memory for files with several names; beyond them they go to a file, of which so much stays in memory.
const LINKED: usize = 8 << 20;
const LINKED_CACHE: usize = 2 << 20;

/// A file of the copy that gets more names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Linked {
    path: Vec<u8>,
    /// How many are still to be met.
    left: u32,
    /// Whether it was made in this round, so that names of an earlier one lead to another.
    new: bool,
}

impl Value for Linked {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.left.to_le_bytes());
        out.push(u8::from(self.new));
        out.extend_from_slice(&self.path);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (left, rest) = bytes.split_first_chunk()?;
        let (new, path) = rest.split_first()?;
        Some(Self { path: path.to_vec(), left: u32::from_le_bytes(*left), new: *new == 1 })
    }

    fn memory(&self) -> usize {
        self.path.memory()
    }
}

impl Walk<'_> {
    /// Whether what was a name of one file with others is that no more: those were taken anew.
    pub(super) fn is_now_another(
        &mut self,
        name: &[u8],
        look: &Fingerprint,
    ) -> Result<bool, CloneError> {
        match self.linked(look)? {
            Some(linked) if linked.new => return Ok(true),
            Some(linked) => self.met(look, linked)?,
            None => self.remember(name, look, false)?,
        }
        Ok(false)
    }

    fn linked(&self, look: &Fingerprint) -> Result<Option<Linked>, CloneError> {
        self.linked.get(&look.ino.to_be_bytes()).map_err(CloneError::Notes)
    }

    fn remember(&mut self, name: &[u8], look: &Fingerprint, new: bool) -> Result<(), CloneError> {
        let linked = Linked { path: self.path_of(name), left: look.links - 1, new };
        self.link_to(look, linked)
    }

    fn link_to(&mut self, look: &Fingerprint, linked: Linked) -> Result<(), CloneError> {
        let key = Box::from(look.ino.to_be_bytes());
        self.linked.insert(key, linked).map_err(CloneError::Notes)?;
        if self.linked.memory() > LINKED {
            self.linked.spill(&self.scratch, LINKED_CACHE).map_err(CloneError::Notes)?;
        }
        self.hold()
    }

    fn met(&mut self, look: &Fingerprint, linked: Linked) -> Result<(), CloneError> {
        match linked.left.saturating_sub(1) {
            0 => self.linked.remove(&look.ino.to_be_bytes()).map_err(CloneError::Notes),
            left => self.link_to(look, Linked { left, ..linked }),
        }
    }

    /// Takes what stands under a name now, in the place of what was taken before.
    pub(super) fn take(
        &mut self,
        pair: &Pair,
        name: &[u8],
        found: Found,
    ) -> Result<(), CloneError> {
        self.put_aside(pair, name, found)?;
        match self.make(pair, name) {
            Ok(Some(state)) => self.note(&Note::Entry { name: name.to_vec(), state }),
            Ok(None) => Ok(()),
            Err(error) => {
                // Half made; it may be there, or not.
                let _ = unlinkat(&pair.to, os(name), AtFlags::empty());
                Err(error)
            }
        }
    }

    /// Copies what is no directory; `None` where that is not there any more.
    fn make(&mut self, pair: &Pair, name: &[u8]) -> Result<Option<State>, CloneError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat2(&pair.from, os(name), flags, Mode::empty(), STEP) {
            Ok(fd) => fd,
            Err(e) if is_race(e) => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        let stat = fstat(&fd).map_err(|e| self.failed(name, e))?;
        let (is, look) = (Original { fd: fd.as_fd(), stat }, Fingerprint::of(&stat));
        if matches!(look.sort(), FileType::Directory | FileType::Socket) {
            return Ok(None);
        }
        let size = match look.sort() {
            FileType::RegularFile => is.stat.st_size.cast_unsigned(),
            _ => 0,
        };
        self.bounds.file(size).map_err(|what| self.beyond(name, what))?;
        let linked = if look.links > 1 { self.linked(&look)? } else { None };
        if let Some(linked) = linked {
            self.link(pair, name, &linked.path).map_err(|e| self.failed(name, e))?;
            self.met(&look, linked)?;
            let packed = Bounds::packed(self.path_of(name).len(), 0, &Weight::default());
            let (look, bytes) = (Some(look), bytes(&stat));
            return Ok(Some(State { look, bytes, packed, ..State::default() }));
        }
        let made = self.copy(pair, name, &is, &look).map_err(|e| self.failed(name, e))?;
        let (Metadata { marks, weight }, taken) = made.ok_or(CloneError::Stopped)?;
        self.bounds.xattrs(&weight, false).map_err(|what| self.beyond(name, what))?;
        if look.links > 1 {
            self.remember(name, &look, true)?;
        }
        let packed = Bounds::packed(self.path_of(name).len(), size, &weight);
        Ok(Some(State { look: Some(look), bytes: bytes(&stat), packed, marks, taken }))
    }

    /// Makes a copy of its own; `None` where there was no time for it.
    fn copy(
        &mut self,
        pair: &Pair,
        name: &[u8],
        is: &Original<'_>,
        look: &Fingerprint,
    ) -> io::Result<Option<(Metadata, Taken)>> {
        let path = Path::new(os(name));
        let dressed = match look.sort() {
            FileType::RegularFile => return self.copy_file(pair, path, is, look),
            FileType::Symlink => {
                let target = readlinkat(is.fd, "", Vec::new())?;
                symlinkat(target, &pair.to, path)?;
                is.set_name_metadata(&pair.to, path)
            }
            kind => {
                mknodat(&pair.to, path, kind, Mode::RUSR | Mode::WUSR, is.stat.st_rdev)?;
                is.set_name_metadata(&pair.to, path)
            }
        };
        Ok(Some((dressed?, Taken::default())))
    }

    fn copy_file(
        &mut self,
        pair: &Pair,
        path: &Path,
        is: &Original<'_>,
        look: &Fingerprint,
    ) -> io::Result<Option<(Metadata, Taken)>> {
        let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        let from = File::from(open(is.path(), how, Mode::empty())?);
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = File::from(openat(&pair.to, path, how, Mode::RUSR | Mode::WUSR)?);
        let mut was = Original { fd: is.fd, stat: is.stat };
        for tries in 1.. {
            let (begun, marked) = (now(), self.what == Round::Live && was.is_metacopy()?);
            let Some(mut taken) = self.fill(&from, &to, look, &was.stat)? else {
                return Ok(None);
            };
            if self.what == Round::Live {
                let after = fstat(&from)?;
                let (before, look) = (Fingerprint::of(&was.stat), Fingerprint::of(&after));
                was.stat = after;
                let changed = look != before || look.is_since(begun);
                // Without the mark that went meanwhile its bytes, which lie below, would be taken for holes.
                let copied_up = marked && !was.is_metacopy()?;
                if copied_up || changed && tries < TRIES {
                    thread::sleep(TICK);
                    to.set_len(0)?;
                    was.stat = fstat(&from)?;
                    continue;
                }
                taken.torn &= changed;
            }
            return was.set_metadata(&to.into()).map(|dressed| Some((dressed, taken)));
        }
        Ok(None)
    }

    /// Gives an empty file the content of another one; `None` where there was no time for it. What was copied one byte after
    /// another is said to be torn, which holds if it changed meanwhile.
    fn fill(
        &mut self,
        from: &File,
        to: &File,
        look: &Fingerprint,
        stat: &Stat,
    ) -> io::Result<Option<Taken>> {
        let size = stat.st_size.cast_unsigned();
        self.flush.count(look, self.disk)?;
        let in_pieces = self.within.writes_out && !self.flush.is_done();
        if in_pieces && !write_out(from, size, &self.within)? {
            return Ok(None);
        }
        if self.content.share(from, to, size)? {
            self.within.space.map_or(Ok(()), |room| room.share(allocated(stat)))?;
            return Ok(Some(Taken::default()));
        }
        if !in_pieces && !self.flush.is_done() {
            durable::write_out(from)?;
        }
        let maybe_direct = self.may_be_direct(look) && !is_cached(from, size);
        let done = self.content.copy(from, to, size, &self.within)?;
        Ok(done.then_some(Taken { maybe_direct, torn: true }))
    }

    /// Gives the file at `of` in the copy one more name.
    fn link(&self, pair: &Pair, name: &[u8], of: &[u8]) -> rustix::io::Result<()> {
        let at = of.iter().rposition(|byte| *byte == b'/');
        let (mut dir, last) = at.map_or((&b""[..], of), |at| (&of[..at], &of[at + 1..]));
        if dir == self.path {
            return linkat(&pair.to, os(last), &pair.to, os(name), AtFlags::empty());
        }
        let mut here = openat(&self.to, ".", openat2::READ, Mode::empty())?;
        while !dir.is_empty() {
            // A call takes no longer path; this one may be any number of names long.
            let end = match dir.len() {
                ..PATH => dir.len(),
                _ => dir[..PATH].iter().rposition(|byte| *byte == b'/').unwrap_or(PATH),
            };
            here = openat2(&here, os(&dir[..end]), openat2::READ, Mode::empty(), STEP)?;
            dir = dir.get(end + 1..).unwrap_or_default();
        }
        linkat(&here, os(last), &pair.to, os(name), AtFlags::empty())
    }
}
