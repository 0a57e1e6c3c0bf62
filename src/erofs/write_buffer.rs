//! Writes at any address in large pieces: the part of the image that is being filled is buffered and moves forward.
//!
//! A write before the buffer's start (an inode in a metadata block that was opened long ago, a link count) goes
//! directly to the output. The first block stays in memory to the end.
//!
//! Long runs of zeros are not written. The output is a new file, so they are holes in it and take no disk space.
//!
//! Deliberately absent: durability. The owner of the file syncs it.

use std::io::{self, Seek, SeekFrom, Write};

use super::format::{BLOCK, BLOCK_LEN};

/// Bytes that a writer buffers: enough to join a thousand small files into one write.
pub const WINDOW: u64 = 1 << 20;

/// A run of this many zeros at a multiple of this length becomes a hole. Shorter holes would only fragment the file.
const HOLE: u64 = 64 << 10;

/// An image that is being written. The output must be empty, because what is never written has to read as zeros.
#[derive(Debug)]
pub(super) struct WriteBuffer<W> {
    out: W,
    /// The output's own position, to seek only when it has to change.
    position: u64,
    front: Box<[u8; BLOCK_LEN]>,
    /// The address of the buffer's first byte.
    start: u64,
    bytes: Vec<u8>,
    /// The end of the last byte that was ever passed to `write_at`, and the output's length.
    reached: u64,
    length: u64,
}

impl<W: Write + Seek> WriteBuffer<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            position: 0,
            front: Box::new([0; BLOCK_LEN]),
            start: BLOCK,
            bytes: Vec::with_capacity(WINDOW as usize),
            reached: BLOCK,
            length: 0,
        }
    }

    /// Writes `bytes` at `at`. A piece must not cross the end of the first block.
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

    /// Flushes the buffer if it has bytes from `at` on, so that they can be read from the output.
    pub(super) fn flush_from(&mut self, at: u64) -> io::Result<()> {
        if at >= self.start { self.flush() } else { Ok(()) }
    }

    pub(super) fn out(&self) -> &W {
        &self.out
    }

    /// Makes the image `end` bytes long. Writes everything but the first block, completes that with `seal`, and
    /// writes it last.
    pub(super) fn finish(
        mut self,
        end: u64,
        seal: impl FnOnce(&mut [u8; BLOCK_LEN]),
    ) -> io::Result<()> {
        if self.reached < end {
            self.write_at(end - 1, &[0])?;
        }
        self.flush()?;
        if self.length < end {
            self.put(end - 1, &[0])?;
        }
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

    /// Writes what is no hole. Zeros are written too where something was written before.
    fn write_through(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut pending, mut next, end) = (at, at, at + bytes.len() as u64);
        let piece = |from: u64, to: u64| &bytes[(from - at) as usize..(to - at) as usize];
        while next < end {
            let stop = (next / HOLE + 1).saturating_mul(HOLE).min(end);
            // At both ends of this write a shorter run counts too, because it may continue the previous write or the
            // next one.
            let is_long = stop - next == HOLE || next == at || stop == end;
            if is_long && next >= self.length && is_zero(piece(next, stop)) {
                self.put(pending, piece(pending, next))?;
                pending = stop;
            }
            next = stop;
        }
        self.put(pending, piece(pending, end))
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.length = self.length.max(at + bytes.len() as u64);
        if self.position != at {
            self.out.seek(SeekFrom::Start(at))?;
        }
        self.position = at;
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    // In blocks without an early exit, which the compiler vectorizes.
    bytes.chunks(4096).all(|part| part.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Writes through the buffer and into a plain vector, and compares both.
    fn compare(writes: &[(u64, usize)]) {
        let (mut out, mut expected) = (Cursor::new(Vec::new()), vec![0; BLOCK_LEN]);
        let mut window = WriteBuffer::new(&mut out);
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
    fn long_zeros_are_holes() {
        use std::os::unix::fs::{FileExt as _, MetadataExt as _};
        let file = tempfile::tempfile().unwrap();
        let mut window = WriteBuffer::new(&file);
        let (zeros, mib) = (vec![0; 4 << 20], 1 << 20);
        let end = 64 * mib;
        window.write_at(BLOCK, &[1; 100]).unwrap();
        for at in (1..12).map(|i| i * 4 * mib) {
            window.write_at(at, &zeros).unwrap();
        }
        window.write_at(50 * mib + 5, &[2; 3]).unwrap();
        // What is there is overwritten, even by zeros.
        window.write_at(52 * mib, &[3; 2 << 20]).unwrap();
        window.write_at(52 * mib, &zeros[..2 << 20]).unwrap();
        window.write_at(end - 2 * mib, &zeros[..2 << 20]).unwrap();
        window.finish(end, |_| ()).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), end);
        assert!(metadata.blocks() * 512 < 4 * mib, "{} KiB", metadata.blocks() / 2);
        let mut bytes = [9; 5];
        file.read_exact_at(&mut bytes, 50 * mib + 4).unwrap();
        assert_eq!(bytes, [0, 2, 2, 2, 0]);
        let mut back = vec![9; 2 << 20];
        file.read_exact_at(&mut back, 52 * mib).unwrap();
        assert!(back.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn writes_at_any_address_are_kept() {
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
