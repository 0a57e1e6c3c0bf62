//! The reader of a layer's blob: counts the bytes that arrive, can be cancelled, and measures whether the registry is
//! slow.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// A registry that delivers fewer than [`MIN_BYTES`] bytes in this time of waiting is slow: 64 KiB a second.
const WINDOW: Duration = Duration::from_secs(2);
/// The bytes that a registry must deliver in a [`WINDOW`].
const MIN_BYTES: u64 = 128 << 10;

/// A blob that counts the bytes that arrive, and fails when the pull is cancelled.
pub(super) struct CancellableReader<R> {
    pub(super) blob: R,
    pub(super) stop: CancellationToken,
    pub(super) arrived: Arc<AtomicU64>,
    pub(super) waits: Arc<StallTimer>,
}

/// Measures how long the reader waited for the blob. The time in which a slow disk writes the bytes does not count.
#[derive(Debug)]
pub(super) struct StallTimer {
    begun: Instant,
    /// Microseconds of waits that ended.
    ended: AtomicU64,
    /// The start of the current wait, in microseconds after `begun`, plus one. 0 if there is no current wait.
    since: AtomicU64,
}

impl Default for StallTimer {
    /// A timer whose first wait begins now: the wait for the registry's response.
    fn default() -> Self {
        Self { begun: Instant::now(), ended: AtomicU64::new(0), since: AtomicU64::new(1) }
    }
}

impl StallTimer {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn begin(&self) {
        // The first wait began when the timer was made.
        let _ = self.since.compare_exchange(0, self.now(), Relaxed, Relaxed);
    }

    fn end(&self) {
        let since = self.since.swap(0, Relaxed);
        self.ended.fetch_add(self.now().saturating_sub(since), Relaxed);
    }

    /// The sum of all waits until now.
    fn total(&self) -> Duration {
        let since = match self.since.load(Relaxed) {
            0 => 0,
            since => self.now().saturating_sub(since),
        };
        Duration::from_micros(self.ended.load(Relaxed).saturating_add(since))
    }

    /// Returns a function that says whether the blob is slow: whether fewer than [`MIN_BYTES`] bytes arrived in the last
    /// [`WINDOW`] of waiting.
    pub(super) fn watch(
        self: &Arc<Self>,
        arrived: &Arc<AtomicU64>,
    ) -> impl FnMut() -> bool + use<> {
        let (waits, arrived) = (self.clone(), arrived.clone());
        let (mut from, mut bytes) = (Duration::ZERO, 0);
        move || {
            let (waited, came) = (waits.total(), arrived.load(Relaxed));
            if waited - from < WINDOW {
                return false;
            }
            let is_slow = came - bytes < MIN_BYTES;
            (from, bytes) = (waited, came);
            is_slow
        }
    }
}

impl<R: Read> Read for CancellableReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the pull was cancelled"));
        }
        self.waits.begin();
        let read = self.blob.read(buf);
        self.waits.end();
        let count = read?;
        self.arrived.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_delivers_little_while_it_is_waited_for_is_slow() {
        let second = |waits: &StallTimer| _ = waits.ended.fetch_add(1_000_000, Relaxed);
        let (waits, arrived) = (Arc::new(StallTimer::default()), Arc::new(AtomicU64::new(0)));
        waits.end();
        let mut is_slow = waits.watch(&arrived);
        arrived.store(1, Relaxed);
        assert!(!is_slow(), "the disk was waited for");
        second(&waits);
        assert!(!is_slow(), "the window has not ended");
        second(&waits);
        assert!(is_slow());
        arrived.fetch_add(MIN_BYTES, Relaxed);
        second(&waits);
        second(&waits);
        assert!(!is_slow());
    }

    #[test]
    fn the_wait_for_the_first_response_of_a_registry_counts() {
        let waits = StallTimer::default();
        std::thread::sleep(Duration::from_millis(20));
        assert!(waits.total() >= Duration::from_millis(20));
        waits.begin();
        waits.end();
        assert!(waits.total() >= Duration::from_millis(20));
        let ended = waits.total();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(waits.total(), ended);
    }
}
