//! Three threads for a layer: the caller's own makes the tar, one hashes it, and one compresses and writes it.
//!
//! ```text
//!            ┌─▶ hash                            diff id
//! caller ────┤
//!   ▲        └─▶ compress ─▶ hash ─▶ out         digest, size
//!   └── buffers ◀──┘
//! ```
//!
//! zstd has threads of its own besides. Deliberately absent: gzip in pieces; who wants speed takes zstd.

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
        pipe::{Buffers, PIECES_BYTES, Piece, hash, join},
    },
    digest::{Digest, Digester},
};

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// Threads beyond which hashing is slower than they are. How many there are makes no difference to the bytes.
const ZSTD_THREADS: u32 = 8;
/// Bytes that one of them takes at a time.
const ZSTD_JOB: u32 = 2 << 20;
/// Bytes of memory for so many of them, as measured: tables, and what is read and written.
fn zstd_memory(threads: u32) -> u64 {
    (8 + 5 * u64::from(threads)) << 20
}

/// What became of the tar.
pub(super) struct Written {
    pub diff_id: Digest,
    pub digest: Digest,
    pub size: u64,
    pub tar_bytes: u64,
}

/// Where the tar goes.
#[derive(Debug)]
pub(super) struct Sink {
    buffers: Buffers,
    buffer: Vec<u8>,
    len: usize,
    /// Bytes of the tar so far.
    total: u64,
    limits: Limits,
    to_hasher: Sender<Arc<Piece>>,
    to_packer: Sender<Arc<Piece>>,
}

impl Sink {
    /// What a reader takes.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes some bytes.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            self.filled(len);
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Takes so many zeros.
    pub(super) fn zeros(&mut self, mut count: u64) -> Result<(), PackError> {
        while count > 0 {
            let room = self.room()?;
            let len = room.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            room[..len].fill(0);
            self.filled(len);
            count -= len as u64;
        }
        Ok(())
    }

    /// Some room to write into, whose begin is then [`Sink::filled`]. There always is some.
    pub(super) fn room(&mut self) -> Result<&mut [u8], PackError> {
        if self.len == self.buffer.len() {
            self.hand_on()?;
            self.buffer = self.buffers.take();
        }
        Ok(&mut self.buffer[self.len..])
    }

    /// So much of the room is taken.
    pub(super) fn filled(&mut self, len: usize) {
        self.len += len;
        self.total += len as u64;
    }

    fn hand_on(&mut self) -> Result<(), PackError> {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return Ok(());
        }
        if self.total > self.limits.tar_bytes {
            return Err(PackError::TarBytes(self.limits.tar_bytes));
        }
        let piece = Arc::new(self.buffers.piece(std::mem::take(&mut self.buffer), len));
        // The hasher goes only when this does.
        let _ = self.to_hasher.send(Arc::clone(&piece));
        self.to_packer.send(piece).map_err(|_| PackError::Stopped)
    }
}

/// Has `write` write a tar, which goes to `out` compressed; answers what it answers.
pub(super) fn run<T>(
    compression: Compression,
    limits: Limits,
    share: &Share,
    out: &mut (dyn Write + Send),
    write: impl FnOnce(&mut Sink) -> Result<T, PackError>,
) -> Result<(T, Written), PackError> {
    let threads = threads(compression, share).map_err(PackError::Memory)?;
    thread::scope(|scope| {
        let (to_hasher, to_hash) = mpsc::channel();
        let (to_packer, to_pack) = mpsc::channel();
        let start = |name: &str| Builder::new().name(format!("pack-{name}"));
        let hasher = start("hash").spawn_scoped(scope, || hash(to_hash));
        let hasher = hasher.map_err(PackError::Thread)?;
        let packer =
            start("write").spawn_scoped(scope, || compress(to_pack, compression, threads, out));
        let packer = packer.map_err(PackError::Thread)?;
        let (buffers, buffer) = (Buffers::new(), Vec::new());
        let (len, total) = (0, 0);
        let mut sink = Sink { buffers, buffer, len, total, limits, to_hasher, to_packer };
        let result = write(&mut sink).and_then(|answer| sink.hand_on().map(|()| answer));
        drop(sink);
        let packed = join(packer);
        let (diff_id, tar_bytes) = join(hasher);
        match (result, packed) {
            (Err(error), _) if !matches!(error, PackError::Stopped) => Err(error),
            (_, Err(error)) => Err(error),
            (result, Ok((digest, size))) => {
                let (answer, digest) = (result?, digest.unwrap_or(diff_id));
                Ok((answer, Written { diff_id, digest, size, tar_bytes }))
            }
        }
    })
}

/// Takes the memory for the buffers, and for as many threads of zstd as there are cores and others leave memory for; at least one,
/// because without threads it is cut into other blocks.
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

/// Writes all pieces; answers the digest of what was written, if it is another than that of the tar, and its bytes.
fn compress(
    pieces: Receiver<Arc<Piece>>,
    compression: Compression,
    threads: u32,
    out: &mut (dyn Write + Send),
) -> Result<(Option<Digest>, u64), PackError> {
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
    Ok((counted.digester.map(Digester::finish), counted.size))
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
