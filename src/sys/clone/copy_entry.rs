//! Copies an entry that is not a directory, or links another name to a file that was already
//! copied.

use std::{fs::File, io, os::fd::AsFd as _, path::Path, thread, time::Duration};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, linkat, mknodat, open, openat, openat2,
    readlinkat, symlinkat, unlinkat,
};

use super::{
    bounds::Bounds,
    content::is_cached,
    error::CloneError,
    fingerprint::{CopyState, Fingerprint, allocated, bytes, now},
    metadata::{Metadata, Original, Weight},
    round_records::{EntryRecord, State},
    walk::{Linked, Pair, Recorded, Round, STEP, Walk, is_race, os_str},
};
use crate::sys::{durable, openat2};

/// The longest path that is passed to one call. The limit of the kernel is 4096.
const PATH_MOST: usize = 4_000;

/// How often a file is copied if it changes during the copy.
const TRIES: u32 = 3;

/// Longer than a tick of the clock of file times.
const TICK: Duration = Duration::from_millis(12);

/// Bytes of memory for files with several names. Above this they go to a file, of which
/// [`LINKS_CACHE`] bytes stay in memory.
const LINKS_MEMORY: usize = 8 << 20;
const LINKS_CACHE: usize = 2 << 20;

impl Walk<'_> {
    /// Whether the file of this name was copied again in this round under another name, so that
    /// this name must be linked anew.
    pub(super) fn is_relinked(
        &mut self,
        name: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<bool, CloneError> {
        match self.linked(fingerprint)? {
            Some(linked) if linked.is_new => return Ok(true),
            Some(linked) => self.count_name(fingerprint, linked)?,
            None => self.remember(name, fingerprint, false)?,
        }
        Ok(false)
    }

    fn linked(&self, fingerprint: &Fingerprint) -> Result<Option<Linked>, CloneError> {
        self.linked.get(&fingerprint.ino.to_be_bytes()).map_err(CloneError::Records)
    }

    fn remember(
        &mut self,
        name: &[u8],
        fingerprint: &Fingerprint,
        is_new: bool,
    ) -> Result<(), CloneError> {
        let linked = Linked { path: self.path_of(name), names_left: fingerprint.links - 1, is_new };
        self.link_to(fingerprint, linked)
    }

    fn link_to(&mut self, fingerprint: &Fingerprint, linked: Linked) -> Result<(), CloneError> {
        let key = Box::from(fingerprint.ino.to_be_bytes());
        self.linked.insert(key, linked).map_err(CloneError::Records)?;
        if self.linked.memory() > LINKS_MEMORY {
            self.linked.spill(&self.scratch, LINKS_CACHE).map_err(CloneError::Records)?;
        }
        self.reserve_memory()
    }

    fn count_name(&mut self, fingerprint: &Fingerprint, linked: Linked) -> Result<(), CloneError> {
        match linked.names_left.saturating_sub(1) {
            0 => self.linked.remove(&fingerprint.ino.to_be_bytes()).map_err(CloneError::Records),
            names_left => self.link_to(fingerprint, Linked { names_left, ..linked }),
        }
    }

    /// Copies the entry that has this name now, and replaces the previous copy.
    pub(super) fn replace_copy(
        &mut self,
        pair: &Pair,
        name: &[u8],
        recorded: Recorded,
    ) -> Result<(), CloneError> {
        self.move_aside(pair, name, recorded)?;
        match self.copy_entry(pair, name) {
            Ok(Some(state)) => self.record(&EntryRecord::Entry { name: name.to_vec(), state }),
            Ok(None) => Ok(()),
            Err(error) => {
                // The copy is incomplete, or does not exist.
                let _ = unlinkat(&pair.to, os_str(name), AtFlags::empty());
                Err(error)
            }
        }
    }

    /// Copies the entry. `None` if it no longer exists.
    fn copy_entry(&mut self, pair: &Pair, name: &[u8]) -> Result<Option<State>, CloneError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat2(&pair.from, os_str(name), flags, Mode::empty(), STEP) {
            Ok(fd) => fd,
            Err(e) if is_race(e) => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        let stat = fstat(&fd).map_err(|e| self.failed(name, e))?;
        let (original, fingerprint) = (Original { fd: fd.as_fd(), stat }, Fingerprint::of(&stat));
        if matches!(fingerprint.file_type(), FileType::Directory | FileType::Socket) {
            return Ok(None);
        }
        let size = match fingerprint.file_type() {
            FileType::RegularFile => original.stat.st_size.cast_unsigned(),
            _ => 0,
        };
        self.bounds.file(size).map_err(|what| self.exceeds(name, what))?;
        let linked = if fingerprint.links > 1 { self.linked(&fingerprint)? } else { None };
        if let Some(linked) = linked {
            self.link(pair, name, &linked.path).map_err(|e| self.failed(name, e))?;
            self.count_name(&fingerprint, linked)?;
            let packed = Bounds::packed(self.path_of(name).len(), 0, &Weight::default());
            let (fingerprint, bytes) = (Some(fingerprint), bytes(&stat));
            return Ok(Some(State { fingerprint, bytes, packed, ..State::default() }));
        }
        let made =
            self.copy(pair, name, &original, &fingerprint).map_err(|e| self.failed(name, e))?;
        let (Metadata { xattrs, weight }, copy_state) = made.ok_or(CloneError::Stopped)?;
        self.bounds.xattrs(&weight, false).map_err(|what| self.exceeds(name, what))?;
        if fingerprint.links > 1 {
            self.remember(name, &fingerprint, true)?;
        }
        let packed = Bounds::packed(self.path_of(name).len(), size, &weight);
        Ok(Some(State {
            fingerprint: Some(fingerprint),
            bytes: bytes(&stat),
            packed,
            xattrs,
            copy_state,
        }))
    }

    /// Makes a new copy. `None` if `go_on` stopped it.
    fn copy(
        &mut self,
        pair: &Pair,
        name: &[u8],
        original: &Original<'_>,
        fingerprint: &Fingerprint,
    ) -> io::Result<Option<(Metadata, CopyState)>> {
        let path = Path::new(os_str(name));
        let metadata = match fingerprint.file_type() {
            FileType::RegularFile => return self.copy_file(pair, path, original, fingerprint),
            FileType::Symlink => {
                let target = readlinkat(original.fd, "", Vec::new())?;
                symlinkat(target, &pair.to, path)?;
                original.set_name_metadata(&pair.to, path)
            }
            kind => {
                mknodat(&pair.to, path, kind, Mode::RUSR | Mode::WUSR, original.stat.st_rdev)?;
                original.set_name_metadata(&pair.to, path)
            }
        };
        Ok(Some((metadata?, CopyState::default())))
    }

    fn copy_file(
        &mut self,
        pair: &Pair,
        path: &Path,
        original: &Original<'_>,
        fingerprint: &Fingerprint,
    ) -> io::Result<Option<(Metadata, CopyState)>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        let from = File::from(open(original.path(), flags, Mode::empty())?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = File::from(openat(&pair.to, path, flags, Mode::RUSR | Mode::WUSR)?);
        let mut was = Original { fd: original.fd, stat: original.stat };
        for tries in 1.. {
            let (started, was_metacopy) = (now(), self.round == Round::Live && was.is_metacopy()?);
            let Some(mut copy_state) = self.fill(&from, &to, fingerprint, &was.stat)? else {
                return Ok(None);
            };
            let mut changed = false;
            if self.round == Round::Live {
                let after = fstat(&from)?;
                let (before, fingerprint) = (Fingerprint::of(&was.stat), Fingerprint::of(&after));
                was.stat = after;
                changed = fingerprint != before || fingerprint.is_since(started);
                // The file was copied up, so its `metacopy` xattr is gone. Without the xattr, bytes
                // that are in a lower would be taken for holes.
                let copied_up = was_metacopy && !was.is_metacopy()?;
                if copied_up || changed && tries < TRIES {
                    thread::sleep(TICK);
                    to.set_len(0)?;
                    was.stat = fstat(&from)?;
                    continue;
                }
            }
            // In the other rounds a later one copies what changes meanwhile, or nothing changes.
            copy_state.torn &= changed;
            return was.set_metadata(&to.into()).map(|metadata| Some((metadata, copy_state)));
        }
        Ok(None)
    }

    /// Copies or shares the content of a file into an empty one. `None` if `go_on` stopped it. A
    /// file whose bytes were copied is reported as torn; the caller clears this if the file did not
    /// change, or if another round follows.
    fn fill(
        &mut self,
        from: &File,
        to: &File,
        fingerprint: &Fingerprint,
        stat: &Stat,
    ) -> io::Result<Option<CopyState>> {
        let size = stat.st_size.cast_unsigned();
        self.flush.count(fingerprint, self.disk)?;
        let in_pieces = self.context.writes_out && !self.flush.is_done();
        if in_pieces && !durable::write_out_in_pieces(from, size, self.context.go_on)? {
            return Ok(None);
        }
        if self.content.share(from, to, size)? {
            self.context.space.map_or(Ok(()), |space| space.share(allocated(stat)))?;
            return Ok(Some(CopyState::default()));
        }
        if !in_pieces && !self.flush.is_done() {
            durable::write_out(from)?;
        }
        let maybe_direct = self.may_be_direct(fingerprint) && !is_cached(from, size);
        let done = self.content.copy(from, to, size, &self.context)?;
        Ok(done.then_some(CopyState { maybe_direct, torn: true }))
    }

    /// Links another name to the file at `of` in the copy.
    fn link(&self, pair: &Pair, name: &[u8], of: &[u8]) -> rustix::io::Result<()> {
        let at = of.iter().rposition(|byte| *byte == b'/');
        let (mut dir, last) = at.map_or((&b""[..], of), |at| (&of[..at], &of[at + 1..]));
        if dir == self.path {
            return linkat(&pair.to, os_str(last), &pair.to, os_str(name), AtFlags::empty());
        }
        let mut here = openat(&self.to, ".", openat2::READ, Mode::empty())?;
        while !dir.is_empty() {
            // A path of the copy can be longer than one call accepts.
            let end = match dir.len() {
                ..PATH_MOST => dir.len(),
                _ => dir[..PATH_MOST].iter().rposition(|byte| *byte == b'/').unwrap_or(PATH_MOST),
            };
            here = openat2(&here, os_str(&dir[..end]), openat2::READ, Mode::empty(), STEP)?;
            dir = dir.get(end + 1..).unwrap_or_default();
        }
        linkat(&here, os_str(last), &pair.to, os_str(name), AtFlags::empty())
    }
}
