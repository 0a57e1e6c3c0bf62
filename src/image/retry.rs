//! The retry policy for registry servers: time limits, number of tries, waits between tries.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::error::Problem;
use crate::backoff;

/// One try and three retries. They bridge a restart behind a load balancer, but not an outage.
const TRIES: u32 = 4;
/// The longest wait. With a longer `Retry-After` the request fails at once; its caller retries later.
const LATER_MAX: Duration = Duration::from_secs(20);

/// Time limits and retries for one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    /// The first wait between tries. It doubles each time ([`backoff::pause`]).
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
        match self.wait(*failed, later) {
            Some(wait) if problem.is_transient() => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            _ => Err(problem),
        }
    }

    /// The wait after the `failed`-th try; `None` where no retry follows.
    fn wait(self, failed: u32, later: Option<Duration>) -> Option<Duration> {
        let later = later.unwrap_or_default();
        if failed >= TRIES || later > LATER_MAX {
            return None;
        }
        Some(backoff::pause(self.first, LATER_MAX, failed - 1).max(later))
    }
}

/// The wait in the `Retry-After` header, which has seconds or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date in the past means now.
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_up_to_the_last_try() {
        let retry = RetryPolicy { first: Duration::from_millis(100), ..RetryPolicy::default() };
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        for (failed, later, wait) in [
            (1, None, Some(ms(100)..=ms(150))),
            (3, None, Some(ms(400)..=ms(600))),
            (4, None, None),
            (1, Some(s(2)), Some(s(2)..=s(2))),
            (1, Some(s(0)), Some(ms(100)..=ms(150))),
            (1, Some(s(20)), Some(s(20)..=s(20))),
            (1, Some(s(21)), None),
        ] {
            let found = retry.wait(failed, later);
            let is_within = match (&found, &wait) {
                (Some(found), Some(range)) => range.contains(found),
                (found, range) => found.is_none() && range.is_none(),
            };
            assert!(is_within, "{failed} {later:?}: {found:?}, expected {wait:?}");
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
        assert_eq!(parsed("Sunday, 06-Nov-94 08:49:37 GMT"), Some(Duration::ZERO), "an old form");
        assert_eq!(parsed("soon"), None);
        assert_eq!(parsed("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
