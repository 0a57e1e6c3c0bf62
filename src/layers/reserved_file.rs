//! A file that is written within its room on the disk.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
};

use super::reservation::{Reservation, ReserveError};
use crate::erofs::Output;

/// A file that is written within a room. Only what makes it longer, or fills what was skipped while it was its end, counts.
#[derive(Debug)]
pub(super) struct ReservedFile<'a, W> {
    out: W,
    reservation: &'a Reservation,
    position: u64,
    end: u64,
}

impl<'a, W> ReservedFile<'a, W> {
    /// Of an empty file.
    pub(super) fn new(out: W, room: &'a Reservation) -> Self {
        Self { out, reservation: room, position: 0, end: 0 }
    }
}

impl<W: Write> Write for ReservedFile<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What lies before the end takes room already.
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
