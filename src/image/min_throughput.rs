//! The minimum speed of a blob download.
//!
//! A limit on the gap between chunks is not enough: a server could send one byte now and then, and block a pod for
//! ever. Deliberately absent: a clock. Only the time spent waiting for the server counts, and the caller measures it. A
//! slow local disk is not the server's fault.

use std::{mem, time::Duration};

use super::error::Problem;

/// Long enough for a link or a server to stall and recover.
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes that must arrive in a window. A telephone line carries six times as much; 100 MB at this speed take a day.
const LEAST: u64 = 64 << 10;

/// The bytes received and the time waited for them since the last full window.
#[derive(Debug, Default)]
pub(super) struct MinThroughput {
    bytes: u64,
    waited: Duration,
}

impl MinThroughput {
    /// Records that `bytes` arrived after a wait of `waited`.
    ///
    /// # Errors
    /// [`Problem::Slow`] at the end of a window in which fewer than [`LEAST`] bytes arrived.
    pub(super) fn record(&mut self, bytes: usize, waited: Duration) -> Result<(), Problem> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < WINDOW {
            return Ok(());
        }
        let Self { bytes, waited } = mem::take(self);
        if bytes < LEAST { Err(Problem::Slow { bytes, waited }) } else { Ok(()) }
    }
}

/// The time that every blob may take.
const BASE_TIME: Duration = Duration::from_secs(300);
/// The average speed beyond [`BASE_TIME`] in bytes per second: a line of 128 kbit/s. So 100 MB may take two hours, and
/// no server can block the resources of a pull for a day.
const AVERAGE_SPEED: u64 = 16 << 10;

/// Checks the total time waited for a blob of `size` bytes.
///
/// # Errors
/// [`Problem::TooLong`].
pub(super) fn check_total_time(size: u64, waited: Duration) -> Result<(), Problem> {
    let most = BASE_TIME + Duration::from_secs(size / AVERAGE_SPEED);
    if waited > most { Err(Problem::TooLong { size, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these (bytes, seconds) pass.
    fn passed(arrivals: impl IntoIterator<Item = (usize, u64)>) -> usize {
        let mut throughput = MinThroughput::default();
        let all = arrivals.into_iter();
        all.take_while(|(n, s)| throughput.record(*n, Duration::from_secs(*s)).is_ok()).count()
    }

    #[test]
    fn a_download_below_the_minimum_speed_fails_at_the_end_of_its_window() {
        let least = LEAST as usize;
        assert_eq!(passed([(1, 29); 9]), 2, "29 and 58 s pass, 87 s do not");
        assert_eq!(passed([(1, 0); 9]), 9, "no time was spent waiting");
        assert_eq!(passed([(least / 2, 30); 9]), 9, "exactly the minimum");
        assert_eq!(passed([(least / 2 - 1, 30); 9]), 1, "just below the minimum");
        assert_eq!(
            passed([(least * 99, 1), (1, 59), (1, 30), (1, 30)]),
            3,
            "the bytes of one window do not count in the next"
        );
    }

    #[test]
    fn the_time_limit_of_a_blob_grows_with_its_size() {
        let (s, mib) = (Duration::from_secs, 1 << 20);
        for (size, waited, passes) in [
            (0, s(300), true),
            (0, s(301), false),
            (64 * mib, s(300 + 4_096), true),
            (64 * mib, s(300 + 4_097), false),
        ] {
            assert_eq!(check_total_time(size, waited).is_ok(), passes, "{size}");
        }
        let error = check_total_time(1, s(301)).unwrap_err();
        assert_eq!(error.class(), crate::error::Class::Unavailable);
        assert!(error.to_string().contains("the blob of 1 B did not arrive within 5m"));
    }

    #[test]
    fn the_message_has_the_bytes_and_the_seconds() {
        let error = MinThroughput::default().record(7, Duration::from_secs(61)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server sent only 7 bytes in 1m1s; check the network and the registry, and try again"
        );
        assert_eq!(error.class(), crate::error::Class::Unavailable);
    }
}
