//! Whether a blob still flows: a floor under its speed, as arithmetic.
//!
//! A bound on the gap between pieces alone lets a server send a byte now and then and hold a pod for ever.
//! Deliberately absent: a clock. Only the time spent waiting for the server counts, and whoever waits measures
//! it; a disk that is slow to take what came is not the server's fault.

use std::{mem, time::Duration};

use super::error::Problem;

/// Long enough for a link or a server to falter and come back.
const WINDOW: Duration = Duration::from_secs(60);
/// What must come in it. A telephone line carries six times as much; 100 MB at this pace take a day.
const LEAST: u64 = 64 << 10;

/// What came, and how long it was waited for, since the last full window.
#[derive(Debug, Default)]
pub(super) struct Flow {
    bytes: u64,
    waited: Duration,
}

impl Flow {
    /// `bytes` came after a wait of `waited`.
    ///
    /// # Errors
    /// [`Problem::Slow`] at the end of a window in which too little came.
    pub(super) fn came(&mut self, bytes: usize, waited: Duration) -> Result<(), Problem> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < WINDOW {
            return Ok(());
        }
        let Self { bytes, waited } = mem::take(self);
        if bytes < LEAST { Err(Problem::Slow { bytes, waited }) } else { Ok(()) }
    }
}

/// What any blob may take, and the pace of all of it beyond that: a line of 128 kbit/s. So 100 MB may take two hours, and no
/// server can hold what a pull holds for a day.
const AT_LEAST: Duration = Duration::from_secs(300);
const PACE: u64 = 16 << 10;

/// Whether a blob of `size` bytes may be waited for so long.
///
/// # Errors
/// [`Problem::TooLong`].
pub(super) fn in_time(size: u64, waited: Duration) -> Result<(), Problem> {
    let most = AT_LEAST + Duration::from_secs(size / PACE);
    if waited > most { Err(Problem::TooLong { size, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these (bytes, seconds) pass.
    fn passed(came: impl IntoIterator<Item = (usize, u64)>) -> usize {
        let mut flow = Flow::default();
        let all = came.into_iter();
        all.take_while(|(n, s)| flow.came(*n, Duration::from_secs(*s)).is_ok()).count()
    }

    #[test]
    fn what_creeps_is_slow_at_the_end_of_its_window() {
        let least = LEAST as usize;
        assert_eq!(passed([(1, 29); 9]), 2, "29 and 58 s pass, 87 s do not");
        assert_eq!(passed([(1, 0); 9]), 9, "nothing was waited for");
        assert_eq!(passed([(least / 2, 30); 9]), 9, "just enough");
        assert_eq!(passed([(least / 2 - 1, 30); 9]), 1, "just not");
        assert_eq!(
            passed([(least * 99, 1), (1, 59), (1, 30), (1, 30)]),
            3,
            "no window lends to the next"
        );
    }

    #[test]
    fn a_blob_has_time_by_its_size() {
        let (s, mib) = (Duration::from_secs, 1 << 20);
        for (size, waited, passes) in [
            (0, s(300), true),
            (0, s(301), false),
            (64 * mib, s(300 + 4_096), true),
            (64 * mib, s(300 + 4_097), false),
        ] {
            assert_eq!(in_time(size, waited).is_ok(), passes, "{size}");
        }
        let error = in_time(1, s(301)).unwrap_err();
        assert_eq!(error.class(), crate::fault::Class::Unavailable);
        assert!(error.to_string().contains("1 bytes") && error.to_string().contains("300 s"));
    }

    #[test]
    fn the_sentence_has_the_numbers() {
        let error = Flow::default().came(7, Duration::from_secs(61)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it sent only 7 bytes in 61 s; check the network and the registry, and try again"
        );
        assert_eq!(error.class(), crate::fault::Class::Unavailable);
    }
}
