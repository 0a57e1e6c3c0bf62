//! How long a server may take, how often it is asked again, and after how long.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::error::Problem;

/// Once, and three times more: a restart behind a load balancer is over by then, an outage is not.
const TRIES: u32 = 4;
/// A server that wants to be left alone for longer is not waited for; whoever asked comes back by itself.
const LATER_MAX: Duration = Duration::from_secs(20);

/// The patience with a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The first wait between tries; doubled each time, and spread by half so that a node's many pulls do not
    /// come back together.
    pub(super) first: Duration,
    /// For a whole try: a manifest or config to its end, a blob to where its bytes begin, each with its token. What
    /// is sent must be taken bit by bit within it.
    pub(super) answer: Duration,
    /// For the answer to what was sent, once all of it is: there are registries that copy and hash it first.
    pub(super) settle: Duration,
    /// Bytes of a blob that are sent in one request. A registry syncs each to its disk; and what stands before
    /// registries often ends at 100 MB.
    pub(super) chunk: u64,
}

impl Default for Pace {
    fn default() -> Self {
        let (first, answer) = (Duration::from_millis(300), Duration::from_secs(60));
        Self { first, answer, settle: Duration::from_secs(300), chunk: 64 << 20 }
    }
}

impl Pace {
    /// What `once` gives, if it does in time.
    ///
    /// # Errors
    /// Its own, and [`Problem::Unreachable`] where it takes too long.
    pub(super) async fn bound<T>(
        self,
        once: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let slow = |_| Problem::Unreachable { why: "its answer took too long".to_owned() };
        tokio::time::timeout(self.answer, once).await.map_err(slow).flatten()
    }

    /// Waits after the `failed`-th try, and counts it.
    ///
    /// # Errors
    /// The problem itself, where asking again would not help or has been done often enough.
    pub(super) async fn pause(self, failed: &mut u32, problem: Problem) -> Result<(), Problem> {
        *failed += 1;
        let later = match &problem {
            Problem::Answered { later, .. } => *later,
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

    /// The wait after the `failed`-th try, if there is to be another one. `chance` is 0 to 1.
    fn wait(self, failed: u32, later: Option<Duration>, chance: f64) -> Option<Duration> {
        let later = later.unwrap_or_default();
        if failed >= TRIES || later > LATER_MAX {
            return None;
        }
        let doubled = self.first.saturating_mul(1 << (failed - 1));
        Some(doubled.mul_f64(0.5 + chance).max(later))
    }
}

/// A number from 0 to 1, from the seed that the standard library draws for its maps.
fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

/// What `Retry-After` says, in seconds or as a date (RFC 9110, 10.2.3).
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
    fn waits_double_are_spread_and_end() {
        let pace = Pace { first: Duration::from_millis(100), ..Pace::default() };
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
            assert_eq!(pace.wait(failed, later, chance), wait, "{failed} {later:?} {chance}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let said = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(said("7"), Some(Duration::from_secs(7)));
        assert_eq!(said("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(said("Sat, 06 Nov 2094 08:49:37 GMT").unwrap() > Duration::from_secs(1 << 20));
        assert_eq!(said("soon"), None);
        assert_eq!(said("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn chance_is_spread_between_its_bounds() {
        let drawn: Vec<_> = (0..64).map(|_| chance()).collect();
        assert!(drawn.iter().all(|c| (0.0..=1.0).contains(c)));
        assert!(drawn.iter().any(|c| *c < 0.5) && drawn.iter().any(|c| *c > 0.5), "{drawn:?}");
    }
}
