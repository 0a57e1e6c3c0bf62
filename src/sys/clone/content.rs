//! Copies the bytes of a file: shares them where the file system can, otherwise copies them with
//! their holes.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

use rustix::{
    fs::{copy_file_range, ioctl_ficlone},
    io::Errno,
};

use crate::sys::{
    data_ranges::DataRanges,
    durable::{self, Amount, WriteBehind},
};

/// Bytes that are copied between two calls of `go_on`.
const PIECE: u64 = 8 << 20;

/// The smallest unit of disk space that a file system allocates.
pub(super) const BLOCK: u64 = 4096;

/// Bytes that are read at once where the kernel does not copy by itself.
const BUFFER: usize = 256 << 10;

/// Disk space that is reserved for a copy.
pub trait SpaceReservation: std::fmt::Debug + Send {
    /// Reserves space before `bytes` are copied.
    ///
    /// # Errors
    /// There is not enough space. None of these bytes was copied yet.
    fn copy(&self, bytes: u64) -> io::Result<()>;
    /// Counts `bytes` that the copy shares with the tree.
    ///
    /// # Errors
    /// The copy may not have so many bytes.
    fn share(&self, bytes: u64) -> io::Result<()>;
}

/// Copies files between two file systems, and remembers which calls these do not support.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) never_shares: bool,
    never_copies: bool,
    /// Bytes that were copied instead of shared.
    pub(super) copied: u64,
    /// The part of them whose write-out was not requested.
    not_requested: Amount,
    behind: WriteBehind,
}

impl Content {
    /// Makes the empty file `to` share the bytes of `from`, and returns whether that worked. Shared
    /// bytes are on the disk. An empty file has none.
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
            // Only this file cannot: it has no copy-on-write, or it is a swap file.
            Err(Errno::INVAL | Errno::TXTBSY | Errno::PERM) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// What was copied and is not written out.
    pub(super) fn dirty(&self) -> Amount {
        let (later, left) = (self.not_requested, self.behind.left());
        Amount { files: later.files + left.files, bytes: later.bytes + left.bytes }
    }

    /// Writes out the last copied bytes where write-out is on.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.behind.flush()
    }

    /// Copies the `size` bytes of `from` with their holes into the empty file `to`. Returns false
    /// if `go_on` stopped it.
    pub(super) fn copy(
        &mut self,
        from: &File,
        to: &File,
        size: u64,
        context: &CopyContext<'_>,
    ) -> io::Result<bool> {
        match context.writes_out {
            true => self.behind.start(to)?,
            false => self.not_requested.files += 1,
        }
        for range in DataRanges::of(from, size) {
            let (start, end) = range?;
            if !self.copy_part(from, to, start, end, context)? {
                return Ok(false);
            }
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
        context: &CopyContext<'_>,
    ) -> io::Result<bool> {
        while at < end {
            if !(context.go_on)() {
                return Ok(false);
            }
            let most = if context.writes_out { durable::PIECE } else { PIECE };
            let piece = (end - at).min(most);
            context.reserve(piece)?;
            let copied = self.copy_piece(from, to, at, piece)?;
            if copied == 0 {
                // The file was truncated meanwhile.
                break;
            }
            at += copied;
            self.copied += copied;
            match context.writes_out {
                true => self.behind.wrote(copied)?,
                false => self.not_requested.bytes += copied,
            }
        }
        Ok(true)
    }

    fn copy_piece(&mut self, from: &File, to: &File, at: u64, len: u64) -> io::Result<u64> {
        if !self.never_copies {
            let (mut start, mut into) = (at, at);
            let len = usize::try_from(len).unwrap_or(BUFFER);
            match copy_file_range(from, Some(&mut start), to, Some(&mut into), len) {
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

/// Copies single files.
#[derive(Debug, Default)]
pub struct FileCopier(Content);

impl FileCopier {
    /// Makes the empty file `to` share the bytes of `from` where the file systems can, otherwise copies them with their
    /// holes. Returns false if `go_on` stopped it.
    pub fn copy(&mut self, from: &File, to: &File, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
        let size = from.metadata()?.len();
        if self.0.share(from, to, size)? {
            return Ok(true);
        }
        self.0.copy(from, to, size, &CopyContext { go_on, space: None, writes_out: false })
    }
}

/// What a copy may use: time, disk space, and the disk itself.
pub(super) struct CopyContext<'c> {
    /// Returns false when the copy must stop.
    pub(super) go_on: &'c dyn Fn() -> bool,
    /// Where disk space is reserved. `None` reserves nothing.
    pub(super) space: Option<&'c dyn SpaceReservation>,
    /// Whether the copy is written out in small pieces while it is made. The disk is left to others
    /// between two pieces.
    pub(super) writes_out: bool,
}

impl CopyContext<'_> {
    /// Reserves space for `bytes`, in whole blocks: a small file takes a whole block.
    pub(super) fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.space.map_or(Ok(()), |space| space.copy(bytes.next_multiple_of(BLOCK)))
    }
}

/// Whether all bytes of a file of this size are in the page cache. That is so if it was written
/// without `O_DIRECT` or read recently. Direct I/O removes the bytes that it writes from the page
/// cache. False where the kernel lacks `cachestat(2)` (since Linux 6.5).
pub(super) fn is_cached(file: &File, size: u64) -> bool {
    let is_cached = |(start, end): (u64, u64)| {
        let pages = end.div_ceil(PAGE) - start / PAGE;
        cached(file, start, end - start).is_some_and(|cached| cached >= pages)
    };
    DataRanges::of(file, size).all(|range| range.is_ok_and(is_cached))
}

/// The smallest page size. Where pages are larger, the kernel counts fewer of them, and the result
/// is false.
const PAGE: u64 = 4096;

/// How many pages of a range of a file are in the page cache.
fn cached(file: &File, start: u64, len: u64) -> Option<u64> {
    /// The number of `cachestat`, the same on all machines. Its structs are `cachestat_range` and
    /// `cachestat` of linux/mman.h.
    const CACHESTAT: libc::c_long = 451;
    let (range, mut counts) = ([start, len], [0_u64; 5]);
    // SAFETY: it reads two and writes five 64-bit numbers at these addresses, which point to arrays of that length.
    let done = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), counts.as_mut_ptr(), 0)
    };
    (done == 0).then_some(counts[0])
}
