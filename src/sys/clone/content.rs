//! A file's bytes: shared where the file system can, else copied with their holes.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};

use super::SpaceReservation;
use crate::sys::durable::{self, Amount, WriteBehind};

/// What is copied between two questions whether to go on.
const PIECE: u64 = 8 << 20;

/// What a file system gives out at least.
pub(super) const BLOCK: u64 = 4096;

/// What is read at once where the kernel does not copy by itself.
const BUFFER: usize = 256 << 10;

/// What two file systems were seen to be unable to do together.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) never_shares: bool,
    never_copies: bool,
    /// Bytes that were copied instead.
    pub(super) copied: u64,
    /// What of them nobody was asked to write out.
    later: Amount,
    behind: WriteBehind,
}

impl Content {
    /// Lets the empty file `to` share the bytes of `from`, if that can be; they are on the disk then. An empty one has none.
    pub(super) fn share(&mut self, from: &File, to: &File, size: u64) -> io::Result<bool> {
        if size == 0 {
            return Ok(true);
        }
        if self.never_shares {
            return Ok(false);
        }
        match ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::NOSYS) => {
                self.never_shares = true;
                Ok(false)
            }
            // This file alone: one without copy-on-write, one that is swapped to.
            Err(Errno::INVAL | Errno::TXTBSY | Errno::PERM) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// What was copied and is not written out.
    pub(super) fn dirty(&self) -> Amount {
        let (later, left) = (self.later, self.behind.left());
        Amount { files: later.files + left.files, bytes: later.bytes + left.bytes }
    }

    /// Writes out what was copied of late, if that was begun.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.behind.flush()
    }

    /// Gives the empty file `to` the content of `from`, of `size` bytes, with its holes. Returns whether it was done: not if `go_on`
    /// says no.
    pub(super) fn copy(
        &mut self,
        from: &File,
        to: &File,
        size: u64,
        within: &Within<'_>,
    ) -> io::Result<bool> {
        match within.writes_out {
            true => self.behind.begin(to)?,
            false => self.later.files += 1,
        }
        let mut done = 0;
        while done < size {
            let begin = match seek(from, SeekFrom::Data(done)) {
                Ok(begin) => begin,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => done,
                Err(e) => return Err(e.into()),
            };
            let end = match seek(from, SeekFrom::Hole(begin)) {
                Ok(end) => end.min(size),
                Err(Errno::INVAL | Errno::NXIO) => size,
                Err(e) => return Err(e.into()),
            };
            if !self.copy_part(from, to, begin, end, within)? {
                return Ok(false);
            }
            done = end.max(begin + 1);
        }
        to.set_len(size)?;
        Ok(true)
    }

    fn copy_part(
        &mut self,
        from: &File,
        to: &File,
        mut at: u64,
        end: u64,
        within: &Within<'_>,
    ) -> io::Result<bool> {
        while at < end {
            if !(within.go_on)() {
                return Ok(false);
            }
            let most = if within.writes_out { durable::PIECE } else { PIECE };
            let piece = (end - at).min(most);
            within.takes(piece)?;
            let copied = self.copy_piece(from, to, at, piece)?;
            if copied == 0 {
                // Somebody has cut it off meanwhile.
                break;
            }
            at += copied;
            self.copied += copied;
            match within.writes_out {
                true => self.behind.wrote(copied)?,
                false => self.later.bytes += copied,
            }
        }
        Ok(true)
    }

    fn copy_piece(&mut self, from: &File, to: &File, at: u64, len: u64) -> io::Result<u64> {
        if !self.never_copies {
            let (mut begin, mut into) = (at, at);
            let len = usize::try_from(len).unwrap_or(BUFFER);
            match copy_file_range(from, Some(&mut begin), to, Some(&mut into), len) {
                Ok(copied) => return Ok(copied as u64),
                Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    self.never_copies = true;
                }
                Err(e) => return Err(e.into()),
            }
        }
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(BUFFER).min(BUFFER)];
        let read = from.read_at(&mut buffer, at)?;
        to.write_all_at(&buffer[..read], at)?;
        Ok(read as u64)
    }
}

/// What a copy may take.
pub(super) struct Within<'c> {
    /// Whether there is time for more.
    pub(super) go_on: &'c dyn Fn() -> bool,
    /// The disk's room.
    pub(super) space: Option<&'c dyn SpaceReservation>,
    /// Whether what is copied is written out as it is copied, in small pieces, between which the disk is left to others.
    pub(super) writes_out: bool,
}

impl Within<'_> {
    /// So many bytes are about to be written: in whole blocks, which is what small files take.
    pub(super) fn takes(&self, bytes: u64) -> io::Result<()> {
        self.space.map_or(Ok(()), |room| room.copy(bytes.next_multiple_of(BLOCK)))
    }
}

/// Writes out a file of `size` bytes that is about to be copied or shared, in pieces. Returns whether it was done: not if `go_on` says
/// no.
pub(super) fn write_out(from: &File, size: u64, within: &Within<'_>) -> io::Result<bool> {
    let mut done = 0;
    while done < size {
        if !(within.go_on)() {
            return Ok(false);
        }
        durable::write_out_piece(from, done)?;
        done += durable::PIECE;
    }
    Ok(true)
}

/// Whether all bytes of a file of this size are in memory, as they are when it was written in the common way, or read, of late.
/// Direct I/O takes what it writes out of memory. False where the kernel does not tell (`cachestat(2)`, since Linux 6.5).
pub(super) fn is_cached(file: &File, size: u64) -> bool {
    let mut done = 0;
    while done < size {
        let Ok(begin) = seek(file, SeekFrom::Data(done)) else { break };
        let end = seek(file, SeekFrom::Hole(begin)).unwrap_or(size).min(size);
        let pages = end.div_ceil(PAGE) - begin / PAGE;
        if cached(file, begin, end - begin).is_none_or(|cached| cached < pages) {
            return false;
        }
        done = end.max(begin + 1);
    }
    true
}

/// The least that memory is counted in. Where pages are larger, fewer of them are counted and the answer is no.
const PAGE: u64 = 4096;

/// How many pages of a part of a file are in memory.
fn cached(file: &File, begin: u64, len: u64) -> Option<u64> {
    /// The call's number, the same on all machines; its structs are `cachestat_range` and `cachestat` of linux/mman.h.
    const CACHESTAT: libc::c_long = 451;
    let (range, mut told) = ([begin, len], [0_u64; 5]);
    // SAFETY: it reads two and writes five numbers of 64 bits at these addresses, which have room for them.
    let done =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), told.as_mut_ptr(), 0) };
    (done == 0).then_some(told[0])
}
