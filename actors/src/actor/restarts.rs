//! How often an actor may be started again: OTP's intensity and period.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

/// Restarts within [`PERIOD`] after which an actor is parked.
pub(crate) const INTENSITY: usize = 5;
/// The period that restarts are counted in.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// The recent restarts of one actor.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restarts(VecDeque<Timestamp>);

impl Restarts {
    /// Whether one more restart is within the limit; counts it if so.
    pub(crate) fn allow(&mut self, now: Timestamp) -> bool {
        while self.0.front().is_some_and(|first| *first + PERIOD <= now) {
            self.0.pop_front();
        }
        if self.0.len() >= INTENSITY {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_restarts_a_minute_are_allowed_and_a_sixth_is_not() {
        let t = |s| Timestamp::from_second(s).unwrap();
        let mut restarts = Restarts::default();
        assert!((0..5).all(|s| restarts.allow(t(s))));
        assert!(!restarts.allow(t(59)));
        assert!(restarts.allow(t(60)));
    }
}
