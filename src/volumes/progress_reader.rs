//! The bytes of a layer on their way.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// What a registry brings in this time, while it is waited for, or it creeps: 64 KiB a second.
const WINDOW: Duration = Duration::from_secs(2);
const LEAST: u64 = 128 << 10;

/// A blob that counts what arrives, and breaks off when nobody wants it any more.
pub(super) struct CancellableReader<R> {
    pub(super) blob: R,
    pub(super) stop: CancellationToken,
    pub(super) arrived: Arc<AtomicU64>,
    pub(super) waits: Arc<StallTimer>,
}

/// How long a blob was waited for: a disk that is slow to take what came is not the registry's fault.
#[derive(Debug)]
pub(super) struct StallTimer {
    begun: Instant,
    /// Microseconds of waits that ended.
    ended: AtomicU64,
    /// When the wait that goes on began, in microseconds after `begun` and one more; 0 where none does.
    since: AtomicU64,
}

impl Default for StallTimer {
    /// Waited for from now on: first for the registry's answer.
    fn default() -> Self {
        Self { begun: Instant::now(), ended: AtomicU64::new(0), since: AtomicU64::new(1) }
    }
}

impl StallTimer {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn begin(&self) {
        // Its first wait goes on since it was made.
        let _ = self.since.compare_exchange(0, self.now(), Relaxed, Relaxed);
    }

    fn end(&self) {
        let since = self.since.swap(0, Relaxed);
        self.ended.fetch_add(self.now().saturating_sub(since), Relaxed);
    }

    /// All of it until now.
    fn total(&self) -> Duration {
        let since = match self.since.load(Relaxed) {
            0 => 0,
            since => self.now().saturating_sub(since),
        };
        Duration::from_micros(self.ended.load(Relaxed).saturating_add(since))
    }

    /// Says, whenever it is asked, whether the blob creeps: whether the last [`WINDOW`] of waiting brought too little.
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
            let creeps = came - bytes < LEAST;
            (from, bytes) = (waited, came);
            creeps
        }
    }
}

impl<R: Read> Read for CancellableReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "not wanted any more"));
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
    fn who_is_waited_for_and_brings_little_creeps() {
        let second = |waits: &StallTimer| _ = waits.ended.fetch_add(1_000_000, Relaxed);
        let (waits, arrived) = (Arc::new(StallTimer::default()), Arc::new(AtomicU64::new(0)));
        waits.end();
        let mut creeps = waits.watch(&arrived);
        arrived.store(1, Relaxed);
        assert!(!creeps(), "the disk was waited for");
        second(&waits);
        assert!(!creeps(), "it may come yet");
        second(&waits);
        assert!(creeps());
        arrived.fetch_add(LEAST, Relaxed);
        second(&waits);
        second(&waits);
        assert!(!creeps());
    }

    #[test]
    fn a_registry_that_does_not_answer_is_waited_for_from_the_begin() {
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
