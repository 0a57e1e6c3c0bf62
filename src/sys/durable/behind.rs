//! Copies that are written out while they are made, a piece at a time, so that nobody else's sync has many of their bytes to wait for.
//!
//! Whoever syncs a file of a few bytes waits for the disk to take whatever it was given before, and a journal commits everybody's
//! changes at once. So bytes that are left in memory until the end are somebody's pause then. Deliberately absent: what makes them
//! survive a power cut; see [`settle`](super::settle).

use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

use super::tree::{Amount, begin_write_out, write_out, write_out_part};

/// How many bytes are written out together; and of how many files at most, each of which is open until then. In pieces of 256 KiB a
/// copy took more than twice as long (100 MB, ext4, Linux 6.18), and a neighbour's syncs gained little.
pub const PIECE: u64 = 1 << 20;
const FILES: usize = 64;

/// For how long the disk is left to others after a piece, in parts of the time that the piece took; and the longest.
const REST: u32 = 1;
const LONGEST: Duration = Duration::from_millis(100);

/// Shorter pauses than this are no pauses.
const SHORTEST: Duration = Duration::from_micros(200);

/// Files that are being written, not all of whose bytes are written out.
#[derive(Debug, Default)]
pub struct WriteBehind {
    files: Vec<File>,
    left: Amount,
    /// When the piece was begun.
    since: Option<Instant>,
}

impl WriteBehind {
    /// A file begins, to which [`Self::wrote`] refers from now on.
    pub fn begin(&mut self, file: &File) -> io::Result<()> {
        if self.files.len() >= FILES {
            self.flush()?;
        }
        self.files.push(file.try_clone()?);
        self.left.files += 1;
        self.since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// So many bytes more are in the file. Where they make a piece this waits for the disk, and leaves it to others for a while.
    pub fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.left.bytes += bytes;
        if self.left.bytes < PIECE {
            return Ok(());
        }
        let last = self.files.last().map(File::try_clone).transpose()?;
        self.flush()?;
        self.files.extend(last);
        self.since = Some(Instant::now());
        Ok(())
    }

    /// A file of so many bytes is complete: a large one is written out in pieces, small ones together.
    pub fn whole(&mut self, file: &File, size: u64) -> io::Result<()> {
        if size < PIECE {
            self.begin(file)?;
            return self.wrote(size);
        }
        let mut at = 0;
        while at < size {
            write_out_piece(file, at)?;
            at += PIECE;
        }
        Ok(())
    }

    /// Writes out what is left. Errors of earlier writes that nobody was told are told.
    pub fn flush(&mut self) -> io::Result<()> {
        for file in &self.files {
            begin_write_out(file)?;
        }
        for file in &self.files {
            write_out(file)?;
        }
        self.files.clear();
        self.left = Amount::default();
        if let Some(since) = self.since.take() {
            rest(since.elapsed());
        }
        Ok(())
    }

    /// What is not written out yet.
    pub fn left(&self) -> Amount {
        self.left
    }
}

/// Writes out a [`PIECE`] of a file, and leaves the disk to others for a while where that took time.
pub fn write_out_piece(file: &File, at: u64) -> io::Result<()> {
    let since = Instant::now();
    write_out_part(file, at, PIECE)?;
    rest(since.elapsed());
    Ok(())
}

/// Leaves the disk to others after it was used for so long.
fn rest(used: Duration) {
    let pause = used * REST;
    if pause > SHORTEST {
        thread::sleep(pause.min(LONGEST));
    }
}
