//! When the demo's jobs come and how long they run: random to look at, and the same for the same seed.

use std::time::Duration;

/// Shortest job, in seconds.
const SHORTEST: f64 = 0.3;
/// Longest job, in seconds.
const LONGEST: f64 = 3.0;

/// A job to come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// When, from the start.
    pub at: Duration,
    /// How long it runs: 0.3 to 3 s.
    pub duration: Duration,
}

/// Jobs that come independently of each other, at a mean rate.
#[derive(Debug, Clone)]
pub struct Arrivals {
    state: u64,
    rate: f64,
    at: f64,
    left: u32,
}

impl Arrivals {
    /// `jobs` arrivals, `rate` a second in the mean. A rate that is not above 0 lets all come at once.
    #[must_use]
    pub fn new(jobs: u32, rate: f64, seed: u64) -> Self {
        Self { state: seed, rate, at: 0.0, left: jobs }
    }

    /// The next number from 0 (included) to 1 (excluded), by SplitMix64: the same on every machine, for ever.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.left = self.left.checked_sub(1)?;
        let (gap, length) = (self.uniform(), self.uniform());
        if self.rate > 0.0 {
            self.at += -(1.0 - gap).ln() / self.rate;
        }
        let duration = Duration::from_secs_f64(SHORTEST + (LONGEST - SHORTEST) * length);
        Some(Arrival { at: Duration::from_secs_f64(self.at), duration })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_jobs_and_another_seed_others() {
        let jobs = |seed| Arrivals::new(50, 4.0, seed).collect::<Vec<_>>();
        assert_eq!(jobs(1), jobs(1));
        assert_ne!(jobs(1), jobs(2));
    }

    #[test]
    fn jobs_come_in_order_at_about_the_rate_and_run_within_the_limits() {
        let jobs: Vec<Arrival> = Arrivals::new(2_000, 4.0, 7).collect();
        assert_eq!(jobs.len(), 2_000);
        assert!(jobs.is_sorted_by_key(|job| job.at));
        let took = jobs[1_999].at.as_secs_f64();
        assert!((450.0..550.0).contains(&took), "2000 jobs at 4 a second took {took} s");
        assert!(jobs.iter().all(|job| (0.3..=3.0).contains(&job.duration.as_secs_f64())));
    }
}
