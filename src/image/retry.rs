//! The retry policy for registry servers: time limits, number of tries, waits between tries.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::error::Problem;

/// One try and three retries. They bridge a restart behind a load balancer, but not an outage.
const TRIES: u32 = 4;
/// With a longer `Retry-After` the request fails at once; its caller retries later.
const LATER_MAX: Duration = Duration::from_secs(20);

/// Time limits and retries for one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    /// The first wait between tries. It doubles each time and has a jitter of one half, so that the many pulls of a
    /// node do not all retry at the same moment.
    pub(super) first: Duration,
    /// Limit for one try, with its token: a manifest or config up to its end, a blob up to its first byte. For an
    /// upload: the longest time in which the server reads nothing.
    pub(super) response: Duration,
    /// Limit for the response to an upload, from its last byte on. Some registries copy and hash the content first.
    pub(super) upload_response: Duration,
    /// Bytes of a blob in one upload request. A registry syncs each chunk to its disk, and proxies in front of
    /// registries often have a limit of 100 MB.
    pub(super) chunk: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let (first, response) = (Duration::from_millis(300), Duration::from_secs(60));
        Self { first, response, upload_response: Duration::from_secs(300), chunk: 64 << 20 }
    }
}

impl RetryPolicy {
    /// Runs one try within the limit [`RetryPolicy::response`].
    ///
    /// # Errors
    /// The errors of `once`, and [`Problem::Unreachable`] where it takes too long.
    pub(super) async fn bound<T>(
        self,
        once: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let slow = |_| Problem::Unreachable { why: "the response took too long".to_owned() };
        tokio::time::timeout(self.response, once).await.map_err(slow).flatten()
    }

    /// Counts a failed try in `failed`, and waits before the next one.
    ///
    /// # Errors
    /// The problem itself, where a retry cannot help or no try is left.
    pub(super) async fn pause(self, failed: &mut u32, problem: Problem) -> Result<(), Problem> {
        *failed += 1;
        let later = match &problem {
            Problem::Status { later, .. } => *later,
            _ => None,
        };
        match self.wait(*failed, later, chance()) {
            Some(wait) if problem.is_transient() => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            _ => Err(problem),
        }
    }

    /// The wait after the `failed`-th try; `None` where no retry follows. `chance` is 0 to 1.
    fn wait(self, failed: u32, later: Option<Duration>, chance: f64) -> Option<Duration> {
        let later = later.unwrap_or_default();
        if failed >= TRIES || later > LATER_MAX {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << (failed - 1));
        Some(doubled.mul_f64(0.5 + chance).max(later))
    }
}

/// A random number from 0 to 1, from the seed that the standard library draws for its maps.
fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

/// The wait in the `Retry-After` header, which has seconds or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    // A date in the past means now.
    Some(date.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_last_try() {
        let retry = RetryPolicy { first: Duration::from_millis(100), ..RetryPolicy::default() };
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        for (failed, later, chance, wait) in [
            (1, None, 0.0, Some(ms(50))),
            (1, None, 1.0, Some(ms(150))),
            (3, None, 0.5, Some(ms(400))),
            (4, None, 0.5, None),
            (1, Some(s(2)), 0.5, Some(s(2))),
            (1, Some(s(0)), 0.5, Some(ms(100))),
            (1, Some(s(20)), 0.5, Some(s(20))),
            (1, Some(s(21)), 0.5, None),
        ] {
            assert_eq!(retry.wait(failed, later, chance), wait, "{failed} {later:?} {chance}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parsed = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(parsed("7"), Some(Duration::from_secs(7)));
        assert_eq!(parsed("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(parsed("Sat, 06 Nov 2094 08:49:37 GMT").unwrap() > Duration::from_secs(1 << 20));
        assert_eq!(parsed("soon"), None);
        assert_eq!(parsed("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn the_jitter_is_spread_between_0_and_1() {
        let drawn: Vec<_> = (0..64).map(|_| chance()).collect();
        assert!(drawn.iter().all(|c| (0.0..=1.0).contains(c)));
        assert!(drawn.iter().any(|c| *c < 0.5) && drawn.iter().any(|c| *c > 0.5), "{drawn:?}");
    }
}
