//! The tar's bytes in the order they arrive, looked at without a copy.
//!
//! Deliberately absent: content kept for later. What is not consumed at once is asked for again.

use std::sync::Arc;

use super::Compression;
use super::error::{EntryName, UnpackError};
use super::pipe::{Arriving, Piece};
use super::source::StreamError;

impl StreamError {
    /// The error for the user, with the entry that was being read.
    pub(super) fn at(self, name: &EntryName) -> UnpackError {
        match self {
            Self::Packing(Compression::Gzip, error) => UnpackError::Gzip(error),
            Self::Packing(Compression::Zstd, error) => UnpackError::Zstd(error),
            Self::Packing(Compression::None, error) => UnpackError::Blob(error),
            Self::Limit(what) => UnpackError::Limit { name: name.clone(), what },
        }
    }
}

pub(super) struct Stream {
    arriving: Arriving,
    piece: Option<Arc<Piece>>,
    /// What of `piece` is consumed.
    from: usize,
}

impl Stream {
    pub(super) fn new(arriving: Arriving) -> Self {
        Self { arriving, piece: None, from: 0 }
    }

    /// The next bytes of the tar; none at its end.
    pub(super) fn peek(&mut self) -> Result<&[u8], StreamError> {
        if self.piece.as_ref().is_none_or(|piece| piece.len() == self.from) {
            // Given back first: the buffer may be the one that is waited for.
            self.piece = None;
            self.from = 0;
            self.piece = self.arriving.recv().ok().transpose()?;
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece[self.from..]))
    }

    /// Moves past `len` of the bytes last seen.
    pub(super) fn consume(&mut self, len: usize) {
        self.from += len;
    }

    /// Fills `bytes`; answers how many there were before the end.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, StreamError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let seen = self.peek()?;
            if seen.is_empty() {
                break;
            }
            let len = seen.len().min(bytes.len() - filled);
            bytes[filled..filled + len].copy_from_slice(&seen[..len]);
            self.consume(len);
            filled += len;
        }
        Ok(filled)
    }

    /// Reads the rest.
    pub(super) fn finish(&mut self) -> Result<(), StreamError> {
        loop {
            let len = self.peek()?.len();
            if len == 0 {
                return Ok(());
            }
            self.consume(len);
        }
    }
}
