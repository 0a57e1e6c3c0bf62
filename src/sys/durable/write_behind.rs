//! Write-behind: writes a copy to the disk in pieces while it is made. So another program's sync
//! does not wait for many of its bytes.
//!
//! A program that syncs a file of a few bytes waits until the disk has taken all earlier requests,
//! and one journal commit covers the changes of all programs. So bytes that stay in memory until
//! the end delay another program then. There is no pause between two pieces: it made the syncs of
//! others hardly faster, and a capture took twice as long. Deliberately absent: durability after a
//! power cut. See [`sync_tree`](super::sync_tree).

use std::{fs::File, io};

use super::write_out::{Amount, start_write_out, write_out, write_out_part};

/// The bytes that are written out together, and the largest number of files that they belong to.
/// Each of these files is open until then. In pieces of 256 KiB a copy took more than twice as long
/// (100 MB, ext4, Linux 6.18), and the syncs of neighbours were hardly faster.
pub const PIECE: u64 = 1 << 20;
const FILES: usize = 64;

/// Files whose bytes are not all written out yet.
#[derive(Debug, Default)]
pub struct WriteBehind {
    files: Vec<File>,
    left: Amount,
}

impl WriteBehind {
    /// Starts a file. [`Self::wrote`] refers to it from now on.
    pub fn start(&mut self, file: &File) -> io::Result<()> {
        if self.files.len() >= FILES {
            self.flush()?;
        }
        self.files.push(file.try_clone()?);
        self.left.files += 1;
        Ok(())
    }

    /// Counts `bytes` more of the current file. When a piece is complete, this waits for the disk.
    pub fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.left.bytes += bytes;
        if self.left.bytes < PIECE {
            return Ok(());
        }
        let last = self.files.last().map(File::try_clone).transpose()?;
        self.flush()?;
        self.files.extend(last);
        Ok(())
    }

    /// Writes out a complete file of `size` bytes: a large one in pieces, small ones together.
    pub fn whole(&mut self, file: &File, size: u64) -> io::Result<()> {
        if size < PIECE {
            self.start(file)?;
            return self.wrote(size);
        }
        write_out_in_pieces(file, size, &|| true).map(drop)
    }

    /// Writes out the remaining bytes. Also returns errors of earlier writes that were not reported
    /// yet.
    pub fn flush(&mut self) -> io::Result<()> {
        for file in &self.files {
            start_write_out(file)?;
        }
        for file in &self.files {
            write_out(file)?;
        }
        self.files.clear();
        self.left = Amount::default();
        Ok(())
    }

    /// The files and bytes that are not written out yet.
    pub fn left(&self) -> Amount {
        self.left
    }
}

/// Writes out a file of `size` bytes, one [`PIECE`] after the other. Returns false if `go_on`
/// stopped it.
pub fn write_out_in_pieces(file: &File, size: u64, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut done = 0;
    while done < size {
        if !go_on() {
            return Ok(false);
        }
        write_out_part(file, done, PIECE)?;
        done += PIECE;
    }
    Ok(true)
}
