//! Waits for a condition.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two checks of a condition.
const POLL: Duration = Duration::from_millis(500);

/// Checks a condition repeatedly until it returns a value.
///
/// An error of the condition counts as "not yet": an API server restarts, an object does not exist.
///
/// # Errors
/// The timeout has passed. The error has what was waited for, and the result of the last check.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match check() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::from("not yet"),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() >= limit {
            bail!("waited {} s for {what}; last check: {last}", limit.as_secs());
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_quotes_the_last_check() {
        let waited = wait_for::<()>("rain", Duration::ZERO, || bail!("blue sky"));
        let words = waited.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(words.contains("rain") && words.contains("blue sky"), "{words}");
    }
}
