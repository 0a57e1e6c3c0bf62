//! One inode on its way into the image: its place, its head and its content as it arrives.
//!
//! Deliberately absent: buffers. A piece of content goes to its place as it comes.

use std::io::{Seek, Write};

use super::format::BLOCK;
use super::space::Place;
use super::window::Window;
use super::writer::WriteError;

#[derive(Debug)]
pub(super) struct Body {
    place: Place,
    /// Bytes of the inode with its attributes.
    head: u64,
    size: u64,
    written: u64,
}

impl Body {
    pub(super) fn new(place: Place, head: u64, size: u64) -> Self {
        Self { place, head, size, written: 0 }
    }

    /// Takes the next piece of content.
    pub(super) fn write<W: Write + Seek>(
        &mut self,
        window: &mut Window<W>,
        mut bytes: &[u8],
    ) -> Result<(), WriteError> {
        if bytes.len() as u64 > self.size - self.written {
            return Err(WriteError::Size { expected: self.size });
        }
        let inline_from = if self.place.inline { self.size / BLOCK * BLOCK } else { self.size };
        while !bytes.is_empty() {
            let (at, len) = if self.written < inline_from {
                let left = (inline_from - self.written).min(bytes.len() as u64);
                (self.place.content + self.written, left as usize)
            } else {
                let behind = self.written - inline_from;
                (self.place.inode + self.head + behind, bytes.len())
            };
            let (piece, rest) = bytes.split_at(len);
            window.write_at(at, piece)?;
            self.written += len as u64;
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
        if self.written < self.size {
            return Err(WriteError::Size { expected: self.size });
        }
        Ok(window.write_at(self.place.inode, head)?)
    }
}
