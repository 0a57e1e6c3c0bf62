//! The clock of the times of files.
//!
//! Deliberately absent: time zones, and the monotonic clock, which `std` has.

use std::io;

use nix::time::{ClockId, clock_gettime};

/// Seconds since 1970 and nanoseconds, as the times of a file have them.
pub type Time = (i64, i64);

/// The present time of the clock from which the kernel takes the times of files. It moves in steps of some milliseconds.
/// A file that is changed afterwards has a ctime that is not earlier.
pub fn now() -> io::Result<Time> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
    #[allow(clippy::useless_conversion, reason = "on some machines these have 32 bits")]
    Ok((now.tv_sec().into(), now.tv_nsec().into()))
}
