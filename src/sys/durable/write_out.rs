//! Writes out the bytes of a file (`sync_file_range(2)`), which is less than a sync.

use std::{fs::File, io, os::fd::AsRawFd as _};

/// The cost of a file in addition to its bytes, in bytes: to open it and to wait for it.
const PER_FILE: u64 = 64 << 10;

/// An amount of data to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Number of files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Amount {
    /// The cost of writing it out file by file, in bytes, for comparison with [`unwritten`](super::tree::unwritten).
    pub fn cost(&self) -> u64 {
        self.files.saturating_mul(PER_FILE).saturating_add(self.bytes)
    }
}

/// Waits until the bytes of `file` are written out. A later write through a mapping then changes
/// the times of the file. Also returns errors of earlier writes that were not reported yet. This
/// does not survive a power cut: metadata and the disk's own cache are not flushed.
pub fn write_out(file: &File) -> io::Result<()> {
    range(file, 0, 0, WRITE_OUT)
}

/// Like [`write_out`], for `len` bytes from `start` on.
pub(super) fn write_out_part(file: &File, start: u64, len: u64) -> io::Result<()> {
    range(file, start, len, WRITE_OUT)
}

/// Starts to write out the bytes of `file`, and does not wait.
pub(super) fn start_write_out(file: &File) -> io::Result<()> {
    range(file, 0, 0, libc::SYNC_FILE_RANGE_WRITE)
}

const WRITE_OUT: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE
    | libc::SYNC_FILE_RANGE_WRITE
    | libc::SYNC_FILE_RANGE_WAIT_AFTER;

/// Calls `sync_file_range(2)`. A `len` of 0 means all bytes from `start` on.
fn range(file: &File, start: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
    let (start, len) = (start.cast_signed(), len.cast_signed());
    // SAFETY: it uses no memory of this process, and the descriptor is open while it is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
