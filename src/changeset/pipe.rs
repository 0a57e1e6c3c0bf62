//! Runs three threads for a layer: one unpacks the blob, one hashes the tar, and the caller's own reads it.
//!
//! ```text
//!            ┌─▶ hash
//! unpack ────┤            a piece returns when the last of the two drops it
//!   ▲        └─▶ caller
//!   └── PIECES buffers ◀──┘
//! ```
//!
//! Nothing is copied between them. No thread runs ahead by more than these buffers.
//!
//! The blob is read to its end even if the tar is invalid, unless the caller stops. An error of the blob's reader
//! takes precedence over a fault of the tar, because damage in transit would be its cause.
//!
//! Deliberately absent: a thread pool. A layer takes seconds, and starting a thread takes microseconds.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, Builder, ScopedJoinHandle};

use super::Limits;
use super::decompress::{INPUT, ReadError, Source, StreamError};
use super::error::{Exceeded, UnpackError};
use super::piece::{Buffers, PIECES_BYTES, Piece};
use super::stream::Stream;
use crate::budget::Share;
use crate::digest::{DiffId, Digester};

/// Bytes of the buffers for one layer, without the zstd window.
pub(super) const BUFFERS: u64 = PIECES_BYTES + INPUT as u64;

/// Runs `read` on the tar in `blob`. Returns its result, the tar's diff ID and the tar's length in bytes.
pub(super) fn run<T>(
    blob: impl Read + Send,
    limits: &Limits,
    share: &Share,
    read: impl FnOnce(&mut Stream) -> Result<T, UnpackError>,
) -> Result<(T, DiffId, u64), UnpackError> {
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let (to_hasher, to_hash) = mpsc::channel();
        let (to_caller, arriving) = mpsc::channel();
        let start = |name: &str| Builder::new().name(format!("layer-{name}"));
        let hasher = start("hash").spawn_scoped(scope, || hash(to_hash));
        let hasher = hasher.map_err(UnpackError::Thread)?;
        let unpacker = start("unpack").spawn_scoped(scope, || {
            let buffers = Buffers::new();
            let unpacker = Unpacker { buffers, to_hasher, to_caller, limits, share, total: 0 };
            unpacker.run(blob, &stopped)
        });
        let unpacker = unpacker.map_err(UnpackError::Thread)?;
        let mut stream = Stream::new(arriving);
        let result = read(&mut stream);
        if result.as_ref().is_err_and(|error| !error.is_of_the_tar()) {
            stopped.store(true, Ordering::Relaxed);
        }
        drop(stream);
        let verdict = join(unpacker);
        let (diff_id, total) = join(hasher);
        match (result, verdict) {
            (Err(error), _) if !error.is_of_the_tar() => Err(error),
            (_, Err(verdict)) => Err(UnpackError::Blob(verdict)),
            (result, Ok(())) => Ok((result?, diff_id, total)),
        }
    })
}

pub(super) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The diff ID of the tar in all pieces, and its length in bytes.
pub(super) fn hash(pieces: Receiver<Arc<Piece>>) -> (DiffId, u64) {
    let (mut digester, mut total) = (Digester::default(), 0);
    for piece in pieces {
        digester.update(&piece);
        total += piece.len() as u64;
    }
    (DiffId::new(digester.finish()), total)
}

struct Unpacker<'l> {
    buffers: Buffers,
    to_hasher: Sender<Arc<Piece>>,
    to_caller: Sender<Result<Arc<Piece>, StreamError>>,
    limits: &'l Limits,
    share: &'l Share,
    total: u64,
}

impl Unpacker<'_> {
    /// Unpacks while the caller reads. Returns the result of the blob's reader at its end.
    fn run(mut self, blob: impl Read, stopped: &AtomicBool) -> io::Result<()> {
        let mut source = Source::new(blob, self.limits)?;
        loop {
            let mut buffer = self.buffers.take();
            let read = source.read(&mut buffer, self.share).and_then(|len| {
                self.total += len as u64;
                self.check().map_err(ReadError::Stream)?;
                Ok(len)
            });
            let sent = match read {
                Ok(0) => return source.drain(),
                Ok(len) => self.send(self.buffers.piece(buffer, len)),
                Err(ReadError::Blob(error)) => return Err(error),
                Err(ReadError::Stream(error)) => {
                    // The caller gets a fault of the packing only if the blob's reader has no error; a limit at once.
                    if !matches!(error, StreamError::Limit(_)) {
                        source.drain()?;
                    }
                    let _ = self.to_caller.send(Err(error));
                    return Ok(());
                }
            };
            if !sent {
                return if stopped.load(Ordering::Relaxed) { Ok(()) } else { source.drain() };
            }
        }
    }

    /// Passes a piece on. Returns whether the caller still reads.
    fn send(&self, piece: Piece) -> bool {
        let piece = Arc::new(piece);
        // The hasher ends only when this sender is dropped.
        let _ = self.to_hasher.send(Arc::clone(&piece));
        self.to_caller.send(Ok(piece)).is_ok()
    }

    fn check(&self) -> Result<(), StreamError> {
        if self.total > self.limits.tar_bytes {
            return Err(StreamError::Limit(Exceeded::TarBytes(self.limits.tar_bytes)));
        }
        Ok(())
    }
}
