//! The content of one inode while it is written: where the next bytes go, and the inode itself at the end.
//!
//! Deliberately absent: buffers. Each piece of content is written to its place at once.

use std::io::{Seek, Write};

use super::allocator::Region;
use super::error::WriteError;
use super::format::BLOCK;
use super::inode::Extent;
use super::write_buffer::WriteBuffer;

/// A contiguous range of content in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub at: u64,
    pub len: u64,
}

#[derive(Debug)]
pub(super) struct Body {
    inode: u64,
    /// The runs that are not full yet, the next one last.
    runs: Vec<Run>,
    /// Bytes of content in all runs.
    size: u64,
}

impl Body {
    /// Content in the given runs, in their order.
    pub(super) fn new(inode: u64, mut runs: Vec<Run>) -> Self {
        let size = runs.iter().map(|run| run.len).sum();
        runs.retain(|run| run.len > 0);
        runs.reverse();
        Self { inode, runs, size }
    }

    /// Content of `size` bytes. If it is inline, the last partial block follows the inode's `head` bytes.
    pub(super) fn flat(place: Region, head: u64, size: u64) -> Self {
        let tail = if place.inline { size % BLOCK } else { 0 };
        let own = Run { at: place.content, len: size - tail };
        Self::new(place.inode, vec![own, Run { at: place.inode + head, len: tail }])
    }

    /// Restricts the content to `extents`; the bytes between them stay zeros.
    pub(super) fn only(self, extents: &[Extent]) -> Self {
        let mut runs = Vec::with_capacity(extents.len() + 1);
        let (mut start, mut whole) = (0, self.runs);
        let mut extents = extents.iter().copied().peekable();
        while let (Some(run), Some(extent)) = (whole.last().copied(), extents.peek_mut()) {
            let end = start + run.len;
            if extent.offset >= end {
                start = end;
                whole.pop();
                continue;
            }
            let len = extent.len.min(end - extent.offset);
            runs.push(Run { at: run.at + (extent.offset - start), len });
            extent.offset += len;
            extent.len -= len;
            if extent.len == 0 {
                extents.next();
            }
        }
        Self::new(self.inode, runs)
    }

    /// Writes the next piece of content.
    pub(super) fn write<W: Write + Seek>(
        &mut self,
        window: &mut WriteBuffer<W>,
        mut bytes: &[u8],
    ) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let run = self.runs.last_mut().ok_or(WriteError::Size { expected: self.size })?;
            let len = run.len.min(bytes.len() as u64);
            let (piece, rest) = bytes.split_at(len as usize);
            window.write_at(run.at, piece)?;
            (run.at, run.len) = (run.at + len, run.len - len);
            if run.len == 0 {
                self.runs.pop();
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Checks that all content was written, and writes the inode (`head`).
    pub(super) fn finish<W: Write + Seek>(
        self,
        window: &mut WriteBuffer<W>,
        head: &[u8],
    ) -> Result<(), WriteError> {
        if !self.runs.is_empty() {
            return Err(WriteError::Size { expected: self.size });
        }
        Ok(window.write_at(self.inode, head)?)
    }
}
