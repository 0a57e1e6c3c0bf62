//! What tells one state of an entry from another.

use std::{mem::MaybeUninit, time::Instant};

use rustix::fs::{FileType, Stat};

/// A point in the file systems' time: seconds and nanoseconds since 1970.
pub(super) type Clock = (i64, u32);

/// Everything changed after it.
pub(super) const DAWN: Clock = (i64::MIN, 0);

/// The time that an inode would get that is changed now: that of the last tick, never later.
pub(super) fn now() -> Clock {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: it writes one timespec to the address that it is given, which has room for one.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, now.as_mut_ptr()) };
    if told < 0 {
        // Everything that was ever seen will be taken again.
        return DAWN;
    }
    // SAFETY: the call succeeded, so it has written it.
    let now = unsafe { now.assume_init() };
    #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
    (i64::from(now.tv_sec), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// By how much a tick may make two clocks differ, that are read one after the other.
const TICK: i128 = 20_000_000;

/// A moment by both clocks: that of files, which somebody may set back, and one that only goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) clock: Clock,
    pub(super) running: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { clock: now(), running: Instant::now() }
    }

    /// The time in files that changed at this moment, or `None` where the clock was set back between it and `later`: what changed
    /// since may seem to have changed before.
    pub(super) fn until(&self, later: &Self) -> Option<Clock> {
        let nanos = |clock: Clock| i128::from(clock.0) * 1_000_000_000 + i128::from(clock.1);
        let ran = later.running.saturating_duration_since(self.running).as_nanos();
        let went = nanos(later.clock) - nanos(self.clock);
        let is_set_back = went + TICK < i128::try_from(ran).unwrap_or(i128::MAX);
        (!is_set_back).then_some(self.clock)
    }
}

/// What tells one state of an inode from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pub(super) ino: u64,
    pub(super) size: u64,
    changed: Clock,
    written: Clock,
    pub(super) mode: u32,
    pub(super) links: u32,
}

impl Fingerprint {
    /// That of every whiteout: nothing of it matters.
    pub(super) const WHITEOUT: Self =
        Self { ino: 0, size: 0, changed: DAWN, written: DAWN, mode: libc::S_IFCHR, links: 0 };

    pub(super) fn of(stat: &Stat) -> Self {
        #[allow(clippy::useless_conversion, reason = "on some machines these have 32 bits")]
        Self {
            ino: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            changed: (i64::from(stat.st_ctime), nanos(stat.st_ctime_nsec)),
            written: (i64::from(stat.st_mtime), nanos(stat.st_mtime_nsec)),
            mode: stat.st_mode,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        }
    }

    /// Bytes of [`Look::encode`].
    pub(super) const LEN: usize = 48;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.ino.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        for (at, (seconds, nanos)) in [(16, self.changed), (28, self.written)] {
            bytes[at..at + 8].copy_from_slice(&seconds.to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&nanos.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.mode.to_le_bytes());
        bytes[44..].copy_from_slice(&self.links.to_le_bytes());
        bytes
    }

    /// What [`Look::encode`] made of it, at the begin of at least so many bytes.
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
            changed: (long(16).cast_signed(), short(24)),
            written: (long(28).cast_signed(), short(36)),
            mode: short(40),
            links: short(44),
        }
    }

    /// Whether it changed at this time or later.
    pub(super) fn is_since(&self, since: Clock) -> bool {
        self.changed >= since
    }

    pub(super) fn sort(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

#[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
fn nanos(nanos: impl TryInto<u32>) -> u32 {
    nanos.try_into().unwrap_or(0)
}

/// Overlay's marks on something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks {
    pub(super) metacopy: bool,
    pub(super) redirect: bool,
}

/// How a file's bytes were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    /// Not all of them were in memory before, so it may have been written to by direct I/O.
    pub(super) maybe_direct: bool,
    /// It changed meanwhile.
    pub(super) torn: bool,
}

/// What a file takes on its disk, as far as it is no hole, shared among its names.
pub(super) fn bytes(stat: &Stat) -> u64 {
    #[allow(clippy::useless_conversion, reason = "on some machines it has 32 bits")]
    let names = u64::from(stat.st_nlink).max(1);
    allocated(stat) / names
}

/// What a file takes on its disk, as far as it is no hole.
pub(super) fn allocated(stat: &Stat) -> u64 {
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    // A file system may have set room aside behind a file's end.
    taken.min(stat.st_size.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_the_same_as_bytes() {
        let look = Fingerprint {
            ino: u64::MAX - 1,
            size: 1 << 40,
            changed: (-1, 999_999_999),
            written: (i64::MIN, 7),
            mode: libc::S_IFREG | 0o4755,
            links: 3,
        };
        assert_eq!(Fingerprint::decode(&look.encode()), look);
        assert_eq!(Fingerprint::decode(&Fingerprint::WHITEOUT.encode()), Fingerprint::WHITEOUT);
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed() {
        let running = Instant::now();
        let at = |clock: Clock, millis| Moment {
            clock,
            running: running + std::time::Duration::from_millis(millis),
        };
        let begin = at((1_000, 0), 0);
        for (later, known) in [
            (at((1_010, 0), 10_000), true),
            // Within a tick, and a step forward.
            (at((1_009, 990_000_000), 10_000), true),
            (at((5_000, 0), 10_000), true),
            (at((1_009, 0), 10_000), false),
            (at((10, 0), 10_000), false),
        ] {
            assert_eq!(begin.until(&later), known.then_some((1_000, 0)), "{later:?}");
        }
    }

    #[test]
    fn the_clock_goes() {
        let before = now();
        assert!(before.0 > 1_700_000_000 && before <= now());
    }
}
