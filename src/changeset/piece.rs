//! Pieces of a tar, which threads pass on without a copy.

use std::{
    ops::Deref,
    sync::mpsc::{self, Receiver, Sender},
};

/// Bytes of a piece: large enough that passing it between threads costs nothing.
pub(super) const PIECE: usize = 256 << 10;
/// The number of pieces, and their bytes together.
const PIECES: usize = 4;
pub(super) const PIECES_BYTES: u64 = (PIECES * PIECE) as u64;

/// A piece of the tar. Its buffer returns to [`Buffers`] when it is dropped.
#[derive(Debug)]
pub(super) struct Piece {
    buffer: Vec<u8>,
    len: usize,
    back: Sender<Vec<u8>>,
}

/// The buffers of one layer. Each is allocated when it is first needed.
#[derive(Debug)]
pub(super) struct Buffers {
    back: Sender<Vec<u8>>,
    free: Receiver<Vec<u8>>,
    made: usize,
}

impl Buffers {
    pub(super) fn new() -> Self {
        let (back, free) = mpsc::channel();
        Self { back, free, made: 0 }
    }

    /// A buffer of [`PIECE`] bytes. Blocks until one is free.
    pub(super) fn take(&mut self) -> Vec<u8> {
        if let Ok(buffer) = self.free.try_recv() {
            return buffer;
        }
        if self.made < PIECES {
            self.made += 1;
            return vec![0; PIECE];
        }
        // This thread has a sender itself, so `recv` never fails.
        self.free.recv().unwrap_or_default()
    }

    /// The first `len` bytes of a buffer, as a piece for the other threads.
    pub(super) fn piece(&self, buffer: Vec<u8>, len: usize) -> Piece {
        Piece { buffer, len, back: self.back.clone() }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // At the end of the unpacking there is no receiver any more.
        let _ = self.back.send(std::mem::take(&mut self.buffer));
    }
}
