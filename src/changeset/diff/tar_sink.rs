//! Runs three threads for a layer: the caller's own makes the tar, one hashes it, and one compresses and writes it.
//!
//! ```text
//!            ┌─▶ hash                            diff ID
//! caller ────┤
//!   ▲        └─▶ compress ─▶ hash ─▶ out         digest, size
//!   └── buffers ◀──┘
//! ```
//!
//! zstd starts more threads of its own. Deliberately absent: parallel gzip; zstd is the choice for speed.

use std::{
    io::{self, Write},
    num::NonZero,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, Builder},
};

use flate2::write::GzEncoder;
use zstd::stream::{raw::CParameter, write::Encoder};

use super::PackError;
use crate::{
    budget::{OverBudget, Share},
    changeset::{
        Compression, Limits,
        piece::{Buffers, PIECES_BYTES, Piece},
        pipe::{hash, join},
    },
    digest::{BlobDigest, DiffId, Digester},
};

/// The default level of zstd.
const ZSTD_LEVEL: i32 = 3;
/// The most threads of zstd: with more, hashing would be the bottleneck. The number does not change the bytes.
const ZSTD_THREADS: u32 = 8;
/// Bytes that a thread of zstd compresses at a time.
const ZSTD_JOB: u32 = 2 << 20;
/// Bytes of memory that this number of threads takes, as measured: tables, input and output.
fn zstd_memory(threads: u32) -> u64 {
    (8 + 5 * u64::from(threads)) << 20
}

/// Digests and lengths of a tar that was written.
pub(super) struct Written {
    pub diff_id: DiffId,
    pub digest: BlobDigest,
    pub size: u64,
    pub tar_bytes: u64,
}

/// Where the tar is written.
#[derive(Debug)]
pub(super) struct TarSink {
    buffers: Buffers,
    buffer: Vec<u8>,
    len: usize,
    /// Bytes of the tar so far.
    total: u64,
    limits: Limits,
    to_hasher: Sender<Arc<Piece>>,
    to_writer: Sender<Arc<Piece>>,
}

impl TarSink {
    /// The limits of a reader of the layer.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Writes `bytes`.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let spare = self.spare()?;
            let len = spare.len().min(bytes.len());
            spare[..len].copy_from_slice(&bytes[..len]);
            self.filled(len);
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Writes `count` zeros.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<(), PackError> {
        while count > 0 {
            let spare = self.spare()?;
            let len = spare.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            spare[..len].fill(0);
            self.filled(len);
            count -= len as u64;
        }
        Ok(())
    }

    /// Free bytes of the buffer, at least one. Report how many were filled, from the first on, with [`Self::filled`].
    pub(super) fn spare(&mut self) -> Result<&mut [u8], PackError> {
        if self.len == self.buffer.len() {
            self.send_buffer()?;
            self.buffer = self.buffers.take();
        }
        Ok(&mut self.buffer[self.len..])
    }

    /// Counts `len` bytes that were written into the free part of the buffer.
    pub(super) fn filled(&mut self, len: usize) {
        self.len += len;
        self.total += len as u64;
    }

    fn send_buffer(&mut self) -> Result<(), PackError> {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return Ok(());
        }
        if self.total > self.limits.tar_bytes {
            return Err(PackError::TarBytes(self.limits.tar_bytes));
        }
        let piece = Arc::new(self.buffers.piece(std::mem::take(&mut self.buffer), len));
        // The hasher ends only when this sender is dropped.
        let _ = self.to_hasher.send(Arc::clone(&piece));
        self.to_writer.send(piece).map_err(|_| PackError::Stopped)
    }
}

/// Writes to `out` the compressed tar that `write` makes. Returns the result of `write`.
pub(super) fn run<T>(
    compression: Compression,
    limits: Limits,
    share: &Share,
    out: &mut (dyn Write + Send),
    write: impl FnOnce(&mut TarSink) -> Result<T, PackError>,
) -> Result<(T, Written), PackError> {
    let threads = threads(compression, share).map_err(PackError::Memory)?;
    thread::scope(|scope| {
        let (to_hasher, to_hash) = mpsc::channel();
        let (to_writer, to_write) = mpsc::channel();
        let start = |name: &str| Builder::new().name(format!("pack-{name}"));
        let hasher = start("hash").spawn_scoped(scope, || hash(to_hash));
        let hasher = hasher.map_err(PackError::Thread)?;
        let writer =
            start("write").spawn_scoped(scope, || compress(to_write, compression, threads, out));
        let writer = writer.map_err(PackError::Thread)?;
        let (buffers, buffer) = (Buffers::new(), Vec::new());
        let (len, total) = (0, 0);
        let mut sink = TarSink { buffers, buffer, len, total, limits, to_hasher, to_writer };
        let result = write(&mut sink).and_then(|result| sink.send_buffer().map(|()| result));
        drop(sink);
        let packed = join(writer);
        let (diff_id, tar_bytes) = join(hasher);
        match (result, packed) {
            (Err(error), _) if !matches!(error, PackError::Stopped) => Err(error),
            (_, Err(error)) => Err(error),
            (result, Ok((digest, size))) => {
                let digest = digest.unwrap_or_else(|| BlobDigest::new(*diff_id.digest()));
                let result = result?;
                Ok((result, Written { diff_id, digest, size, tar_bytes }))
            }
        }
    })
}

/// Takes memory for the buffers and for the threads of zstd: one for each core, or fewer if other work has the memory.
/// At least one, because without threads zstd splits its input into other blocks.
fn threads(compression: Compression, share: &Share) -> Result<u32, OverBudget> {
    share.take(PIECES_BYTES)?;
    if compression != Compression::Zstd {
        return Ok(1);
    }
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let free = |threads: &u32| share.try_take(zstd_memory(*threads)).is_ok();
    match (1..=cores.clamp(1, ZSTD_THREADS)).rev().find(free) {
        Some(threads) => Ok(threads),
        None => share.take(zstd_memory(1)).map(|()| 1),
    }
}

/// Writes all pieces. Returns the digest of the written bytes, if they differ from the tar, and their number.
fn compress(
    pieces: Receiver<Arc<Piece>>,
    compression: Compression,
    threads: u32,
    out: &mut (dyn Write + Send),
) -> Result<(Option<BlobDigest>, u64), PackError> {
    let digester = (compression != Compression::None).then(Digester::default);
    let mut counted = Counted { out, digester, size: 0 };
    let copy = |to: &mut dyn Write| {
        for piece in pieces {
            to.write_all(&piece)?;
        }
        Ok(())
    };
    let written = match compression {
        Compression::None => copy(&mut counted),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(&mut counted, flate2::Compression::default());
            copy(&mut encoder).and_then(|()| encoder.finish().map(drop))
        }
        Compression::Zstd => zstd(&mut counted, threads).and_then(|mut encoder| {
            copy(&mut encoder)?;
            encoder.finish().map(drop)
        }),
    };
    written.and_then(|()| counted.flush()).map_err(PackError::Output)?;
    let digest = counted.digester.map(|digester| BlobDigest::new(digester.finish()));
    Ok((digest, counted.size))
}

fn zstd<W: Write>(to: W, threads: u32) -> io::Result<Encoder<'static, W>> {
    let mut encoder = Encoder::new(to, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.multithread(threads)?;
    encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
    Ok(encoder)
}

struct Counted<'o> {
    out: &'o mut (dyn Write + Send),
    digester: Option<Digester>,
    size: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.out.write(bytes)?;
        if let Some(digester) = &mut self.digester {
            digester.update(&bytes[..len]);
        }
        self.size += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
