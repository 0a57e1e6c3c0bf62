//! Pauses between the tries of an operation: each is twice as long as the one before, up to a longest one.
//!
//! A part of each pause is random, so that operations that failed at one moment are not all repeated at one moment.
//! Deliberately absent: the sleep, and the number of tries.

use std::time::Duration;

/// The pauses of one operation.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    /// Pauses that grow from `first` to `longest`, each with up to a half of it in addition.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, tries: 0 }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = pause(self.first, self.longest, self.tries);
        self.tries = self.tries.saturating_add(1);
        pause
    }

    /// Starts again with the first pause.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// Continues with the longest pause.
    pub fn skip_to_longest(&mut self) {
        self.tries = u32::MAX;
    }
}

/// The pause after `tries` pauses: `first`, doubled `tries` times, but at most `longest`; and up to a half of that in
/// addition.
pub fn pause(first: Duration, longest: Duration, tries: u32) -> Duration {
    at(first, longest, tries, fastrand::f64())
}

/// `chance` is 0 to 1.
fn at(first: Duration, longest: Duration, tries: u32, chance: f64) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX));
    doubled.min(longest).mul_f64(1.0 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(3);

    #[test]
    fn pauses_double_with_jitter_up_to_the_longest() {
        for (tries, chance, millis) in [
            (0, 0.0, 100),
            (0, 1.0, 150),
            (2, 0.5, 500),
            (4, 0.0, 1600),
            (4, 1.0, 2400),
            (5, 0.0, 3000),
            (5, 1.0, 4500),
            (32, 0.0, 3000),
            (u32::MAX, 0.5, 3750),
        ] {
            let pause = at(FIRST, LONGEST, tries, chance);
            assert_eq!(pause, Duration::from_millis(millis), "{tries} {chance}");
        }
    }

    #[test]
    fn a_backoff_starts_again_and_skips_to_its_longest_pause() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let is_of = |pause: Duration, least: Duration| (least..=least * 3 / 2).contains(&pause);
        assert!(is_of(backoff.next_pause(), FIRST));
        assert!(is_of(backoff.next_pause(), FIRST * 2));
        backoff.skip_to_longest();
        for _ in 0..2 {
            assert!(is_of(backoff.next_pause(), LONGEST));
        }
        backoff.reset();
        assert!(is_of(backoff.next_pause(), FIRST));
    }

    #[test]
    fn the_pauses_of_two_operations_differ() {
        let drawn: Vec<_> = (0..64).map(|_| pause(FIRST, LONGEST, 0)).collect();
        let middle = FIRST * 5 / 4;
        assert!(drawn.iter().any(|p| *p < middle) && drawn.iter().any(|p| *p > middle));
    }
}
