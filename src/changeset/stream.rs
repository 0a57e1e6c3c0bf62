//! The tar's bytes in the order of arrival, read without a copy.
//!
//! Deliberately absent: buffering for later. Bytes that are not consumed are returned again.

use std::sync::{Arc, mpsc::Receiver};

use super::Compression;
use super::decompress::StreamError;
use super::error::{EntryName, UnpackError};
use super::piece::Piece;

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
    arriving: Receiver<Result<Arc<Piece>, StreamError>>,
    piece: Option<Arc<Piece>>,
    /// Bytes of `piece` that are consumed.
    from: usize,
}

impl Stream {
    pub(super) fn new(arriving: Receiver<Result<Arc<Piece>, StreamError>>) -> Self {
        Self { arriving, piece: None, from: 0 }
    }

    /// The next bytes of the tar; empty at its end.
    pub(super) fn peek(&mut self) -> Result<&[u8], StreamError> {
        if self.piece.as_ref().is_none_or(|piece| piece.len() == self.from) {
            // The piece is dropped first, because its buffer may be the one that the unpacker waits for.
            self.piece = None;
            self.from = 0;
            self.piece = self.arriving.recv().ok().transpose()?;
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece[self.from..]))
    }

    /// Consumes `len` of the bytes that [`Stream::peek`] returned.
    pub(super) fn consume(&mut self, len: usize) {
        self.from += len;
    }

    /// Fills `bytes`; returns how many bytes there were before the end.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<usize, StreamError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let next = self.peek()?;
            if next.is_empty() {
                break;
            }
            let len = next.len().min(bytes.len() - filled);
            bytes[filled..filled + len].copy_from_slice(&next[..len]);
            self.consume(len);
            filled += len;
        }
        Ok(filled)
    }

    /// Reads the rest and discards it.
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
