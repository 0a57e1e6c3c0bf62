//! A file's bytes: shared where the file system can, else copied with their holes.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};

/// What is copied between two questions whether to go on.
const PIECE: u64 = 8 << 20;

/// What is read at once where the kernel does not copy by itself.
const BUFFER: usize = 256 << 10;

/// What two file systems were seen to be unable to do together.
#[derive(Debug, Default)]
pub(super) struct Content {
    never_shares: bool,
    never_copies: bool,
}

impl Content {
    /// Gives the empty file `to` the content of `from`, of `size` bytes. Answers whether it was done: not if `go_on` says no.
    pub(super) fn fill(
        &mut self,
        from: &File,
        to: &File,
        size: u64,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        if size == 0 || self.share(from, to)? {
            return Ok(true);
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
            if !self.copy(from, to, begin, end, go_on)? {
                return Ok(false);
            }
            done = end.max(begin + 1);
        }
        to.set_len(size)?;
        Ok(true)
    }

    /// Lets both share their bytes, if that can be.
    fn share(&mut self, from: &File, to: &File) -> io::Result<bool> {
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

    fn copy(
        &mut self,
        from: &File,
        to: &File,
        mut at: u64,
        end: u64,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        while at < end {
            if !go_on() {
                return Ok(false);
            }
            let copied = self.copy_piece(from, to, at, (end - at).min(PIECE))?;
            if copied == 0 {
                // Somebody has cut it off meanwhile.
                break;
            }
            at += copied;
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
