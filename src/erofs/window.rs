//! Writes at any address, in large pieces: a window of the image is kept in memory and slides forward.
//!
//! What lies behind the window goes straight to the output (an inode in a metadata block opened long ago, a
//! link count); the first block stays in memory to the end.
//!
//! Deliberately absent: reading back, and durability, which is whose the file is.

use std::io::{self, Seek, SeekFrom, Write};

use super::format::{BLOCK, BLOCK_LEN};

/// Bytes that a writer keeps in memory: enough to make one write of a thousand small files.
pub const WINDOW: u64 = 1 << 20;

/// An image under way. The output must be empty: what is never written has to read as zeros.
#[derive(Debug)]
pub(super) struct Window<W> {
    out: W,
    /// Where the output's own position is, to seek only when that is elsewhere.
    position: u64,
    front: Box<[u8; BLOCK_LEN]>,
    /// The address of the window's first byte.
    start: u64,
    bytes: Vec<u8>,
    /// One past the last byte ever written.
    reached: u64,
}

impl<W: Write + Seek> Window<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            position: 0,
            front: Box::new([0; BLOCK_LEN]),
            start: BLOCK,
            bytes: Vec::with_capacity(WINDOW as usize),
            reached: BLOCK,
        }
    }

    /// Writes `bytes` at `at`. A piece never crosses the end of the first block.
    pub(super) fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        self.reached = self.reached.max(end);
        if end <= BLOCK {
            self.front[at as usize..end as usize].copy_from_slice(bytes);
            return Ok(());
        }
        if at < self.start {
            return self.write_through(at, bytes);
        }
        if end > self.start + WINDOW {
            self.flush()?;
            self.start = at;
            if bytes.len() as u64 >= WINDOW {
                self.start = end;
                return self.write_through(at, bytes);
            }
        }
        let from = (at - self.start) as usize;
        if from == self.bytes.len() {
            self.bytes.extend_from_slice(bytes);
        } else {
            let to = from + bytes.len();
            self.bytes.resize(self.bytes.len().max(to), 0);
            self.bytes[from..to].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Makes the image `end` bytes long and writes everything but the first block, which `seal` completes;
    /// then that.
    pub(super) fn finish(
        mut self,
        end: u64,
        seal: impl FnOnce(&mut [u8; BLOCK_LEN]),
    ) -> io::Result<()> {
        if self.reached < end {
            self.write_at(end - 1, &[0])?;
        }
        self.flush()?;
        let mut front = std::mem::replace(&mut self.front, Box::new([0; BLOCK_LEN]));
        seal(&mut front);
        self.write_through(0, front.as_slice())?;
        self.out.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let written = self.write_through(self.start, &bytes);
        self.start += bytes.len() as u64;
        bytes.clear();
        self.bytes = bytes;
        written
    }

    fn write_through(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.position != at {
            self.out.seek(SeekFrom::Start(at))?;
        }
        self.position = at;
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Writes through a window and into a plain vector, and compares.
    fn compare(writes: &[(u64, usize)]) {
        let (mut out, mut expected) = (Cursor::new(Vec::new()), vec![0; BLOCK_LEN]);
        let mut window = Window::new(&mut out);
        for (i, &(at, len)) in writes.iter().enumerate() {
            let bytes = vec![i as u8 + 1; len];
            window.write_at(at, &bytes).unwrap();
            let end = at as usize + len;
            expected.resize(expected.len().max(end), 0);
            expected[at as usize..end].copy_from_slice(&bytes);
        }
        let end = expected.len().next_multiple_of(BLOCK_LEN);
        expected.resize(end, 0);
        window.finish(end as u64, |front| front[0] = 0xff).unwrap();
        expected[0] = 0xff;
        assert!(out.into_inner() == expected, "{writes:?}");
    }

    #[test]
    fn holds_what_was_written_wherever_it_was() {
        const W: u64 = WINDOW;
        compare(&[]);
        compare(&[(1152, 64), (BLOCK, 10), (BLOCK + 5, 10), (BLOCK + 100, 1)]);
        compare(&[(BLOCK, 10), (BLOCK + W - 5, 10), (BLOCK + 7, 10), (1200, 9)]);
        compare(&[(2 * BLOCK, 3 * WINDOW as usize), (BLOCK, 100), (2 * BLOCK + 3 * W, 5)]);
        compare(&[
            (BLOCK, WINDOW as usize),
            (BLOCK + W, WINDOW as usize - 1),
            (BLOCK + 2 * W - 1, 2),
        ]);
        compare(&[(10 * W, 1), (BLOCK, 1), (9 * W, 1), (11 * W - 1, 1)]);
    }
}
