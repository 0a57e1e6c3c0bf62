//! Captures the log of a test.

use std::{
    io,
    sync::{Arc, Mutex, Once},
};

use tracing::subscriber::DefaultGuard;

/// `tracing` decides whether a log statement is enabled when the statement is first reached, and caches the result. If
/// a thread of another test reaches it before a subscriber is installed, the statement stays disabled. So there is
/// always a global subscriber, which enables all statements and drops the lines.
static GLOBAL_SUBSCRIBER: Once = Once::new();

/// The lines that this thread logs.
#[derive(Clone, Default)]
pub(in crate::csi) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures the lines of this thread until the guard is dropped.
    pub(in crate::csi) fn capture(&self) -> DefaultGuard {
        GLOBAL_SUBSCRIBER.call_once(|| {
            // Fails only if there is another global subscriber.
            let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        });
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(in crate::csi) fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap();
        bytes.split_inclusive(|b| *b == b'\n').map(|l| serde_json::from_slice(l).unwrap()).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
