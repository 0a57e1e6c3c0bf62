//! One inode on its way into the image: its place, its head and its content as it arrives.
//!
//! Deliberately absent: buffers. A piece of content goes to its place as it comes.

use std::io::{Seek, Write};

use super::chunks::Extent;
use super::format::BLOCK;
use super::space::Place;
use super::window::Window;
use super::writer::WriteError;

/// Bytes of content that lie together in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub at: u64,
    pub len: u64,
}

#[derive(Debug)]
pub(super) struct Body {
    inode: u64,
    /// What is still to come, the next run last.
    runs: Vec<Run>,
    /// Bytes of content.
    size: u64,
}

impl Body {
    /// Content in the runs given.
    pub(super) fn new(inode: u64, mut runs: Vec<Run>) -> Self {
        let size = runs.iter().map(|run| run.len).sum();
        runs.retain(|run| run.len > 0);
        runs.reverse();
        Self { inode, runs, size }
    }

    /// Content of `size` bytes, of which a last partial block may lie behind the inode's `head` bytes.
    pub(super) fn flat(place: Place, head: u64, size: u64) -> Self {
        let tail = if place.inline { size % BLOCK } else { 0 };
        let own = Run { at: place.content, len: size - tail };
        Self::new(place.inode, vec![own, Run { at: place.inode + head, len: tail }])
    }

    /// The same, of which only `extents` come; what lies between them stays zeros.
    pub(super) fn only(self, extents: &[Extent]) -> Self {
        let mut runs = Vec::with_capacity(extents.len() + 1);
        let (mut begin, mut whole) = (0, self.runs);
        let mut extents = extents.iter().copied().peekable();
        while let (Some(run), Some(extent)) = (whole.last().copied(), extents.peek_mut()) {
            let end = begin + run.len;
            if extent.offset >= end {
                begin = end;
                whole.pop();
                continue;
            }
            let len = extent.len.min(end - extent.offset);
            runs.push(Run { at: run.at + (extent.offset - begin), len });
            extent.offset += len;
            extent.len -= len;
            if extent.len == 0 {
                extents.next();
            }
        }
        Self::new(self.inode, runs)
    }

    /// Takes the next piece of content.
    pub(super) fn write<W: Write + Seek>(
        &mut self,
        window: &mut Window<W>,
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

    /// Checks that all content has come, and writes the head.
    pub(super) fn finish<W: Write + Seek>(
        self,
        window: &mut Window<W>,
        head: &[u8],
    ) -> Result<(), WriteError> {
        if !self.runs.is_empty() {
            return Err(WriteError::Size { expected: self.size });
        }
        Ok(window.write_at(self.inode, head)?)
    }
}
