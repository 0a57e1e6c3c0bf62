//! A log that can be read.

use std::{
    io,
    sync::{Arc, Mutex, Once},
};

use tracing::subscriber::DefaultGuard;

/// Whether anybody wants a line is asked when its place in the code is first reached, and kept. Another test's thread that gets
/// there while a subscriber is only just coming would keep that nobody does; so there is always one that wants all, and drops it.
static SOMEBODY: Once = Once::new();

/// The lines that this thread logs.
#[derive(Clone, Default)]
pub(in crate::csi) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Until the guard is dropped.
    pub(in crate::csi) fn catch(&self) -> DefaultGuard {
        SOMEBODY.call_once(|| {
            // Only another one would be in the way.
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
