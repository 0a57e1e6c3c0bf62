//! A file that is written within its room on the disk.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
};

use super::room::{Room, RoomError};
use crate::erofs::Output;

/// A file that is written within a room. Only what makes it longer, or fills what was skipped while it was its end, counts.
#[derive(Debug)]
pub(super) struct Roomy<'a, W> {
    out: W,
    room: &'a Room,
    position: u64,
    end: u64,
}

impl<'a, W> Roomy<'a, W> {
    /// Of an empty file.
    pub(super) fn new(out: W, room: &'a Room) -> Self {
        Self { out, room, position: 0, end: 0 }
    }
}

impl<W: Write> Write for Roomy<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What lies before the end takes room already.
        let new = (self.position + bytes.len() as u64).saturating_sub(self.end.max(self.position));
        self.room.write(new).map_err(RoomError::into_io)?;
        let written = self.out.write(bytes)?;
        self.position += written as u64;
        self.end = self.end.max(self.position);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Output for Roomy<'_, &File> {
    fn file(&self) -> &File {
        self.out
    }
}

impl<W: Seek> Seek for Roomy<'_, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.out.seek(to)?;
        Ok(self.position)
    }
}
