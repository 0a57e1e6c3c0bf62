//! Detects changes of an entry by its inode's number, size, times, mode and link count.

use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use rustix::fs::{FileType, Stat};

/// A time of a file system: seconds and nanoseconds since 1970.
pub(super) type Clock = (i64, u32);

/// Earlier than any change.
pub(super) const EARLIEST: Clock = (i64::MIN, 0);

/// The time that an inode would get if it was changed now: the time of the last tick, never later.
pub(super) fn now() -> Clock {
    // If the clock cannot be read, everything is copied again.
    let Ok(now) = clock_gettime(ClockId::CLOCK_REALTIME_COARSE) else { return EARLIEST };
    #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
    (i64::from(now.tv_sec()), nanos(now.tv_nsec()))
}

/// The largest difference, in nanoseconds, that a tick can cause between two clocks that are read
/// one after the other.
const TICK: i128 = 20_000_000;

/// A moment on two clocks: the clock of file times, which can be set back, and a monotonic one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) clock: Clock,
    pub(super) running: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { clock: now(), running: Instant::now() }
    }

    /// The ctime of a file that changed at this moment. `None` if the clock was set back between
    /// this moment and `later`: then a change since can have an earlier ctime.
    pub(super) fn until(&self, later: &Self) -> Option<Clock> {
        let nanos = |clock: Clock| i128::from(clock.0) * 1_000_000_000 + i128::from(clock.1);
        let ran = later.running.saturating_duration_since(self.running).as_nanos();
        let went = nanos(later.clock) - nanos(self.clock);
        let is_set_back = went + TICK < i128::try_from(ran).unwrap_or(i128::MAX);
        (!is_set_back).then_some(self.clock)
    }
}

/// The attributes of an inode that show a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) ino: u64,
    pub(super) size: u64,
    ctime: Clock,
    mtime: Clock,
    pub(super) mode: u32,
    pub(super) links: u32,
}

impl Fingerprint {
    /// The fingerprint of every whiteout, because all whiteouts are equal.
    pub(super) const WHITEOUT: Self =
        Self { ino: 0, size: 0, ctime: EARLIEST, mtime: EARLIEST, mode: libc::S_IFCHR, links: 0 };

    pub(super) fn of(stat: &Stat) -> Self {
        #[allow(clippy::useless_conversion, reason = "on some machines these have 32 bits")]
        Self {
            ino: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            ctime: (i64::from(stat.st_ctime), nanos(stat.st_ctime_nsec)),
            mtime: (i64::from(stat.st_mtime), nanos(stat.st_mtime_nsec)),
            mode: stat.st_mode,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        }
    }

    /// Bytes of [`Fingerprint::encode`].
    pub(super) const LEN: usize = 48;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.ino.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        for (at, (seconds, nanos)) in [(16, self.ctime), (28, self.mtime)] {
            bytes[at..at + 8].copy_from_slice(&seconds.to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&nanos.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.mode.to_le_bytes());
        bytes[44..].copy_from_slice(&self.links.to_le_bytes());
        bytes
    }

    /// Decodes the result of [`Fingerprint::encode`] at the start of `bytes`, which has at least
    /// that length.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let long = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let short = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(number)
        };
        Self {
            ino: long(0),
            size: long(8),
            ctime: (long(16).cast_signed(), short(24)),
            mtime: (long(28).cast_signed(), short(36)),
            mode: short(40),
            links: short(44),
        }
    }

    /// Whether it changed at this time or later.
    pub(super) fn is_since(&self, since: Clock) -> bool {
        self.ctime >= since
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

#[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
fn nanos(nanos: impl TryInto<u32>) -> u32 {
    nanos.try_into().unwrap_or(0)
}

/// Which of overlay's xattrs an entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OverlayXattrs {
    pub(super) metacopy: bool,
    pub(super) redirect: bool,
}

/// How the bytes of a file were copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CopyState {
    /// Not all of them were in the page cache, so direct I/O may have written to the file.
    pub(super) maybe_direct: bool,
    /// The file changed while it was copied.
    pub(super) torn: bool,
}

/// Bytes on the disk without holes, divided by the number of the file's names.
pub(super) fn bytes(stat: &Stat) -> u64 {
    #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
    let names = u64::from(stat.st_nlink).max(1);
    allocated(stat) / names
}

/// Bytes of a file on the disk, without holes.
pub(super) fn allocated(stat: &Stat) -> u64 {
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    // A file system can preallocate blocks behind the end of a file.
    taken.min(stat.st_size.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_survives_encoding() {
        let fingerprint = Fingerprint {
            ino: u64::MAX - 1,
            size: 1 << 40,
            ctime: (-1, 999_999_999),
            mtime: (i64::MIN, 7),
            mode: libc::S_IFREG | 0o4755,
            links: 3,
        };
        assert_eq!(Fingerprint::decode(&fingerprint.encode()), fingerprint);
        assert_eq!(Fingerprint::decode(&Fingerprint::WHITEOUT.encode()), Fingerprint::WHITEOUT);
    }

    #[test]
    fn a_clock_that_was_set_back_is_detected() {
        let running = Instant::now();
        let at = |clock: Clock, millis| Moment {
            clock,
            running: running + std::time::Duration::from_millis(millis),
        };
        let start = at((1_000, 0), 0);
        for (later, known) in [
            (at((1_010, 0), 10_000), true),
            // Within a tick, and a step forward.
            (at((1_009, 990_000_000), 10_000), true),
            (at((5_000, 0), 10_000), true),
            (at((1_009, 0), 10_000), false),
            (at((10, 0), 10_000), false),
        ] {
            assert_eq!(start.until(&later), known.then_some((1_000, 0)), "{later:?}");
        }
    }

    #[test]
    fn the_clock_advances() {
        let before = now();
        assert!(before.0 > 1_700_000_000 && before <= now());
    }
}
