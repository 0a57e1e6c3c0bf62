//! A writer that reserves disk space as its file grows.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
};

use super::{reservation::Reservation, reserve_error::ReserveError};
use crate::erofs::Output;

/// A file whose growth is taken from a reservation. Only bytes written at or beyond the end of the file count: neither
/// rewritten bytes nor a hole that a seek left.
#[derive(Debug)]
pub(super) struct ReservedFile<'a, W> {
    out: W,
    reservation: &'a Reservation,
    /// The offset of the next write, in bytes.
    position: u64,
    /// The end of the written bytes.
    end: u64,
}

impl<'a, W> ReservedFile<'a, W> {
    /// Wraps an empty file.
    pub(super) fn new(out: W, reservation: &'a Reservation) -> Self {
        Self { out, reservation, position: 0, end: 0 }
    }
}

impl<W: Write> Write for ReservedFile<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Bytes before the end have been counted already.
        let new = (self.position + bytes.len() as u64).saturating_sub(self.end.max(self.position));
        self.reservation.write(new).map_err(ReserveError::into_io)?;
        let written = self.out.write(bytes)?;
        self.position += written as u64;
        self.end = self.end.max(self.position);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Output for ReservedFile<'_, &File> {
    fn file(&self) -> &File {
        self.out
    }
}

impl<W: Seek> Seek for ReservedFile<'_, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.out.seek(to)?;
        Ok(self.position)
    }
}
