//! The blob as a plain tar: decompressed, hashed once, and bounded while it comes.
//!
//! Deliberately absent: content kept for later. What is not consumed at once is asked for again.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

use super::error::{EntryName, Exceeded, UnpackError};
use super::{Compression, Limits};
use crate::digest::{Digest, Digester};

/// Bytes of the pieces in which the blob is read and the tar is handed out: large enough that a call costs
/// nothing, small enough to be in the cache still when it is hashed and copied.
const PIECE: usize = 256 << 10;

/// Why the tar does not go on.
#[derive(Debug)]
pub(super) enum StreamError {
    Blob(io::Error),
    Gzip(io::Error),
    Limit(Exceeded),
}

impl StreamError {
    /// The error for the user, with the entry that was being read.
    pub(super) fn at(self, name: &EntryName) -> UnpackError {
        match self {
            Self::Blob(error) => UnpackError::Blob(error),
            Self::Gzip(error) => UnpackError::Gzip(error),
            Self::Limit(what) => UnpackError::Limit { name: name.clone(), what },
        }
    }
}

pub(super) struct Stream<R> {
    source: Source<R>,
    limits: Limits,
    digester: Digester,
    piece: Box<[u8]>,
    /// The part of `piece` not consumed.
    from: usize,
    to: usize,
    total: u64,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(blob: R, compression: Compression, limits: &Limits) -> Self {
        let blob = Counted { blob, bytes: 0, failed: false };
        let source = match compression {
            Compression::None => Source::Plain(blob),
            Compression::Gzip => {
                let input = BufReader::with_capacity(PIECE, blob);
                Source::Gzip(Box::new(MultiGzDecoder::new(input)))
            }
        };
        Self {
            source,
            limits: limits.clone(),
            digester: Digester::default(),
            piece: vec![0; PIECE].into_boxed_slice(),
            from: 0,
            to: 0,
            total: 0,
        }
    }

    /// The next bytes of the tar; none at its end.
    pub(super) fn peek(&mut self) -> Result<&[u8], StreamError> {
        if self.from == self.to {
            let len = self.source.read(&mut self.piece)?;
            self.digester.update(&self.piece[..len]);
            (self.from, self.to) = (0, len);
            self.total += len as u64;
            self.check()?;
        }
        Ok(&self.piece[self.from..self.to])
    }

    /// Moves past `len` of the bytes last seen.
    pub(super) fn consume(&mut self, len: usize) {
        self.from = (self.from + len).min(self.to);
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

    /// Reads the rest, and the blob to its own end; answers the tar's digest and length.
    pub(super) fn finish(&mut self) -> Result<(Digest, u64), StreamError> {
        loop {
            let len = self.peek()?.len();
            if len == 0 {
                break;
            }
            self.consume(len);
        }
        self.drain()?;
        Ok((std::mem::take(&mut self.digester).finish(), self.total))
    }

    /// Sees the blob's end, where its reader may still have something to say; unpacks nothing.
    pub(super) fn drain(&mut self) -> Result<(), StreamError> {
        let blob = match &mut self.source {
            Source::Plain(blob) => blob,
            Source::Gzip(decoder) => decoder.get_mut().get_mut(),
        };
        io::copy(blob, &mut io::sink()).map_err(StreamError::Blob)?;
        Ok(())
    }

    fn check(&self) -> Result<(), StreamError> {
        if self.total > self.limits.tar_bytes {
            return Err(StreamError::Limit(Exceeded::TarBytes(self.limits.tar_bytes)));
        }
        let most = self.source.compressed().saturating_mul(self.limits.ratio);
        if self.total > most.max(self.limits.ratio_free) {
            return Err(StreamError::Limit(Exceeded::Ratio(self.limits.ratio)));
        }
        Ok(())
    }
}

enum Source<R> {
    Plain(Counted<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Counted<R>>>>),
}

impl<R: Read> Source<R> {
    fn read(&mut self, piece: &mut [u8]) -> Result<usize, StreamError> {
        loop {
            let read = match self {
                Self::Plain(blob) => blob.read(piece),
                Self::Gzip(decoder) => decoder.read(piece),
            };
            match read {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.blob().failed => return Err(StreamError::Blob(error)),
                Err(error) => return Err(StreamError::Gzip(error)),
            }
        }
    }

    fn compressed(&self) -> u64 {
        self.blob().bytes
    }

    fn blob(&self) -> &Counted<R> {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
        }
    }
}

/// The blob, with what passed and whether an error was its own or the decoder's.
struct Counted<R> {
    blob: R,
    bytes: u64,
    failed: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.blob.read(into) {
            Ok(len) => {
                self.bytes += len as u64;
                Ok(len)
            }
            Err(error) => {
                self.failed = error.kind() != io::ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}
