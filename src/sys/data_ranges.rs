//! Finds the parts of a file that are not holes.

use std::{fs::File, io};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

/// The ranges of a file that are not holes: start and end in bytes, in order, none empty. A single range if the file
/// system does not report holes. Moves the file's position.
pub(super) struct DataRanges<'f> {
    file: &'f File,
    at: u64,
    size: u64,
}

impl<'f> DataRanges<'f> {
    /// The ranges in the first `size` bytes of the file.
    pub(super) fn of(file: &'f File, size: u64) -> Self {
        Self { file, at: 0, size }
    }

    fn find(&mut self) -> io::Result<Option<(u64, u64)>> {
        while self.at < self.size {
            let start = match seek(self.file, SeekFrom::Data(self.at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => self.at,
                Err(e) => return Err(e.into()),
            };
            let end = match seek(self.file, SeekFrom::Hole(start)) {
                Ok(end) => end.min(self.size),
                Err(Errno::INVAL | Errno::NXIO) => self.size,
                Err(e) => return Err(e.into()),
            };
            self.at = end.max(start + 1);
            // Empty if another process made a hole between the two calls, or data behind the end.
            if start < end {
                return Ok(Some((start, end)));
            }
        }
        Ok(None)
    }
}

impl Iterator for DataRanges<'_> {
    type Item = io::Result<(u64, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.find().transpose();
        if !matches!(found, Some(Ok(_))) {
            self.at = self.size;
        }
        found
    }
}
