//! Takes what is no folder: a copy of its own, or one more name of a file that was taken already.

use std::{fs::File, io, os::fd::AsFd as _, path::Path, thread, time::Duration};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, linkat, mknodat, open, openat, openat2,
    readlinkat, symlinkat, unlinkat,
};

use super::{
    CloneError, Round,
    content::is_cached,
    dress::Original,
    memory::LINKED,
    seen::{Entries, Look, Marks, Node, Taken, allocated, bytes, now},
    walk::{Pair, STEP, Walk, is_race, os},
};
use crate::sys::beneath;

/// The most of a path that one call takes, with room to spare.
const PATH: usize = 4_000;

/// How often a file is copied that changes meanwhile.
const TRIES: u32 = 3;

/// Longer than a tick of the clock that files get their times from.
const TICK: Duration = Duration::from_millis(12);

/// A file of the copy that gets more names.
pub(super) struct Linked {
    path: Box<[u8]>,
    /// How many are still to be met.
    left: u32,
    /// Whether it was made in this round, so that names of an earlier one lead to another.
    new: bool,
}

impl Walk<'_> {
    /// Whether what was a name of one file with others is that no more: those were taken anew.
    pub(super) fn is_now_another(&mut self, name: &[u8], look: &Look) -> Result<bool, CloneError> {
        match self.linked.get(&look.ino) {
            Some(linked) if linked.new => return Ok(true),
            Some(_) => self.met(look),
            None => self.remember(name, look, false)?,
        }
        Ok(false)
    }

    fn remember(&mut self, name: &[u8], look: &Look, new: bool) -> Result<(), CloneError> {
        let path = self.path_of(name).into_boxed_slice();
        self.lent.more(path.len() + LINKED, self.within.go_on)?;
        self.linked.insert(look.ino, Linked { path, left: look.links - 1, new });
        Ok(())
    }

    /// Takes what stands under a name now, in the place of what was taken before.
    pub(super) fn take(
        &mut self,
        pair: &Pair,
        name: &[u8],
        entries: &mut Entries,
    ) -> Result<(), CloneError> {
        self.put_aside(pair, name, entries)?;
        match self.make(pair, name) {
            Ok(Some(node)) => drop(entries.insert(name.into(), node)),
            Ok(None) => {}
            Err(error) => {
                // Half made; it may be there, or not.
                let _ = unlinkat(&pair.to, os(name), AtFlags::empty());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Copies what is no folder; `None` where that is not there any more.
    fn make(&mut self, pair: &Pair, name: &[u8]) -> Result<Option<Node>, CloneError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat2(&pair.from, os(name), flags, Mode::empty(), STEP) {
            Ok(fd) => fd,
            Err(e) if is_race(e) => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        let stat = fstat(&fd).map_err(|e| self.failed(name, e))?;
        let (is, look) = (Original { fd: fd.as_fd(), stat }, Look::of(&stat));
        if matches!(look.sort(), FileType::Directory | FileType::Socket) {
            return Ok(None);
        }
        let linked = self.linked.get(&look.ino).filter(|_| look.links > 1);
        let linked = linked.map(|linked| self.link(pair, name, &linked.path)).transpose();
        let (marks, taken) = if linked.map_err(|e| self.failed(name, e))? == Some(()) {
            self.met(&look);
            Default::default()
        } else {
            let made = self.copy(pair, name, &is, &look);
            let made = made.map_err(|e| self.failed(name, e))?;
            if look.links > 1 {
                self.remember(name, &look, true)?;
            }
            made.ok_or(CloneError::Stopped)?
        };
        let bytes = bytes(&stat);
        Ok(Some(Node { look: Some(look), bytes, round: self.round, marks, taken, entries: None }))
    }

    /// Makes a copy of its own; `None` where there was no time for it.
    fn copy(
        &mut self,
        pair: &Pair,
        name: &[u8],
        is: &Original<'_>,
        look: &Look,
    ) -> io::Result<Option<(Marks, Taken)>> {
        let path = Path::new(os(name));
        let marks = match look.sort() {
            FileType::RegularFile => return self.copy_file(pair, path, is, look),
            FileType::Symlink => {
                let target = readlinkat(is.fd, "", Vec::new())?;
                symlinkat(target, &pair.to, path)?;
                is.dress_name(&pair.to, path)
            }
            kind => {
                mknodat(&pair.to, path, kind, Mode::RUSR | Mode::WUSR, is.stat.st_rdev)?;
                is.dress_name(&pair.to, path)
            }
        };
        Ok(Some((marks?, Taken::default())))
    }

    fn copy_file(
        &mut self,
        pair: &Pair,
        path: &Path,
        is: &Original<'_>,
        look: &Look,
    ) -> io::Result<Option<(Marks, Taken)>> {
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
                let (before, look) = (Look::of(&was.stat), Look::of(&after));
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
            return was.dress(&to.into()).map(|marks| Some((marks, taken)));
        }
        Ok(None)
    }

    /// Gives an empty file the content of another one; `None` where there was no time for it. What was copied one byte after
    /// another is said to be torn, which holds if it changed meanwhile.
    fn fill(
        &mut self,
        from: &File,
        to: &File,
        look: &Look,
        stat: &Stat,
    ) -> io::Result<Option<Taken>> {
        let size = stat.st_size.cast_unsigned();
        self.flush.count(look, self.disk)?;
        if self.content.share(from, to, size)? {
            self.within.room.map_or(Ok(()), |room| room.share(allocated(stat)))?;
            return Ok(Some(Taken::default()));
        }
        self.flush.file(from)?;
        let maybe_direct = self.may_be_direct(look) && !is_cached(from, size);
        let done = self.content.copy(from, to, size, &self.within)?;
        Ok(done.then_some(Taken { maybe_direct, torn: true }))
    }

    fn met(&mut self, look: &Look) {
        let Some(linked) = self.linked.get_mut(&look.ino) else { return };
        linked.left = linked.left.saturating_sub(1);
        if linked.left == 0 {
            let path = self.linked.remove(&look.ino).map_or(0, |linked| linked.path.len());
            self.lent.less(path + LINKED);
        }
    }

    /// Gives the file at `of` in the copy one more name.
    fn link(&self, pair: &Pair, name: &[u8], of: &[u8]) -> rustix::io::Result<()> {
        let at = of.iter().rposition(|byte| *byte == b'/');
        let (mut folder, last) = at.map_or((&b""[..], of), |at| (&of[..at], &of[at + 1..]));
        if folder == self.path {
            return linkat(&pair.to, os(last), &pair.to, os(name), AtFlags::empty());
        }
        let mut here = openat(&self.to, ".", beneath::READ, Mode::empty())?;
        while !folder.is_empty() {
            // A call takes no longer path; this one may be any number of names long.
            let end = match folder.len() {
                ..PATH => folder.len(),
                _ => folder[..PATH].iter().rposition(|byte| *byte == b'/').unwrap_or(PATH),
            };
            here = openat2(&here, os(&folder[..end]), beneath::READ, Mode::empty(), STEP)?;
            folder = folder.get(end + 1..).unwrap_or_default();
        }
        linkat(&here, os(last), &pair.to, os(name), AtFlags::empty())
    }
}
