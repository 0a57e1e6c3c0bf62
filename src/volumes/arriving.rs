//! The bytes of a layer on their way.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio_util::sync::CancellationToken;

/// A blob that counts what arrives, and breaks off when nobody wants it any more.
pub(super) struct Arriving<R> {
    pub(super) blob: R,
    pub(super) stop: CancellationToken,
    pub(super) arrived: Arc<AtomicU64>,
}

impl<R: Read> Read for Arriving<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "not wanted any more"));
        }
        let count = self.blob.read(buf)?;
        self.arrived.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}
