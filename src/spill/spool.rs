//! Records that are read in the order in which they were written.

use std::io;

use super::{Scratch, file::File};

/// Bytes that are read and written at once.
const PIECE: usize = 64 << 10;

/// A sequence of records of at most 4 GiB each.
#[derive(Debug)]
pub struct Spool {
    scratch: Scratch,
    most: usize,
    /// What is not in the file yet.
    bytes: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    written: u64,
}

impl Spool {
    /// An empty spool, which moves to a file when it exceeds `most` bytes.
    pub fn new(scratch: &Scratch, most: usize) -> Self {
        Self { scratch: scratch.clone(), most, bytes: Vec::new(), file: None, written: 0 }
    }

    /// Appends a record.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(record);
        let most = if self.file.is_some() { PIECE } else { self.most };
        if self.bytes.len() < most {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(self.scratch.file()?);
        }
        self.write()
    }

    /// Bytes of memory in use.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    fn write(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_all_at(&self.bytes, self.written)?;
            self.written += self.bytes.len() as u64;
            // Frees the memory that was in use before the spool had a file.
            self.bytes.clear();
            self.bytes.shrink_to(PIECE);
        }
        Ok(())
    }

    /// Ends the writing; the reader starts at the first record.
    pub fn read(mut self) -> io::Result<SpoolReader> {
        self.write()?;
        Ok(SpoolReader { bytes: self.bytes, from: 0, file: self.file, at: 0, end: self.written })
    }
}

/// Reads the records in the order in which they were written.
#[derive(Debug, Default)]
pub struct SpoolReader {
    bytes: Vec<u8>,
    from: usize,
    file: Option<File>,
    /// Position in the file of the first byte that is not in `bytes` yet.
    at: u64,
    end: u64,
}

impl SpoolReader {
    /// The next record; `None` at the end.
    pub fn read_next(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.has(4)? {
            return Ok(None);
        }
        let mut len = [0; 4];
        len.copy_from_slice(&self.bytes[self.from..self.from + 4]);
        let len = u32::from_le_bytes(len) as usize;
        if !self.has(4 + len)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = self.from + 4;
        self.from = start + len;
        Ok(Some(&self.bytes[start..start + len]))
    }

    /// Bytes of memory in use.
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Reads until `bytes` holds `wanted` unread bytes; returns whether there are so many.
    fn has(&mut self, wanted: usize) -> io::Result<bool> {
        if self.bytes.len() - self.from >= wanted {
            return Ok(true);
        }
        let Some(file) = &self.file else { return Ok(false) };
        self.bytes.drain(..self.from);
        self.from = 0;
        let have = self.bytes.len();
        let more =
            (wanted.max(PIECE) - have).min(usize::try_from(self.end - self.at).unwrap_or(PIECE));
        self.bytes.resize(have + more, 0);
        file.read_exact_at(&mut self.bytes[have..], self.at)?;
        self.at += more as u64;
        Ok(self.bytes.len() >= wanted)
    }
}
