//! How long to wait before the next try.

use std::time::Duration;

use jiff::Timestamp;

/// Waits that double from `first` up to `longest`, each shortened by up to a quarter so that many do not retry at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

/// Between failed attempts to start a runner in one group.
pub const CREATE: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

/// Between tries at removing one runner, or at finding out what became of it.
pub const CLEANUP: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(120) };

impl Backoff {
    /// The wait after `failures` failures in a row (at least 1); `chance` picks the jitter.
    #[must_use]
    pub fn delay(self, failures: u32, chance: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full - full.mul_f64((chance % 1000) as f64 / 4000.0)
    }
}

/// `wait` after `time`, or the last of all times: a wait may come from outside and be of any length.
#[must_use]
pub fn after(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Spreads the bits of `value`: a source of chance that repeats itself when it should.
#[must_use]
pub fn mix(value: u64) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_until_the_longest() {
        let waits: Vec<u64> = (1..=10).map(|n| CREATE.delay(n, 0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }

    proptest! {
        #[test]
        fn jitter_shortens_by_at_most_a_quarter(failures in 0..u32::MAX, chance: u64) {
            let full = CREATE.delay(failures, 0);
            let wait = CREATE.delay(failures, chance);
            prop_assert!(wait <= full && wait >= full.mul_f64(0.75));
        }
    }
}
