//! When a backend is left alone after creates that failed in a row, and how it is tried again.

use std::time::Duration;

use jiff::Timestamp;

use crate::machine::backoff::{self, Backoff};
use crate::model::group::{Breaker, BreakerState, LastError};
use crate::model::settings::BackendLimits;

/// Longest time between two probes, unless the configured first one is longer.
const LONGEST: Duration = Duration::from_secs(300);

/// A create failed. Opens the breaker when too many did in a row, or when it was the trial after a probe.
#[must_use]
pub fn failed(breaker: Option<Breaker>, limits: &BackendLimits, error: LastError, chance: u64) -> Breaker {
    let now = error.at;
    let mut breaker =
        breaker.unwrap_or(Breaker { failures: 0, opened: 0, state: BreakerState::Closed, error: error.clone() });
    breaker.failures = breaker.failures.saturating_add(1);
    breaker.error = error;
    let open = match breaker.state {
        BreakerState::Closed => breaker.failures >= limits.breaker_failures.max(1),
        BreakerState::HalfOpen => true,
        // It was asked before the breaker opened.
        BreakerState::Open { .. } => false,
    };
    if open { opened(breaker, limits, now, chance) } else { breaker }
}

/// The backend said when it may be asked again: it is not before, whatever comes of other creates meanwhile.
#[must_use]
pub fn left_alone(breaker: Breaker, until: Timestamp) -> Breaker {
    let until = match breaker.state {
        BreakerState::Open { until: already } => already.max(until),
        BreakerState::Closed | BreakerState::HalfOpen => until,
    };
    Breaker { state: BreakerState::Open { until }, ..breaker }
}

/// A probe came back. One that went well lets one create at a time try; another one leaves it open for longer.
#[must_use]
pub fn probed(
    mut breaker: Breaker,
    limits: &BackendLimits,
    answer: Result<(), String>,
    now: Timestamp,
    chance: u64,
) -> Breaker {
    match (breaker.state, answer) {
        (BreakerState::Open { .. }, Ok(())) => Breaker { state: BreakerState::HalfOpen, ..breaker },
        (BreakerState::Open { .. }, Err(text)) => {
            breaker.error = LastError { at: now, text };
            opened(breaker, limits, now, chance)
        }
        (BreakerState::Closed | BreakerState::HalfOpen, _) => breaker,
    }
}

fn opened(mut breaker: Breaker, limits: &BackendLimits, now: Timestamp, chance: u64) -> Breaker {
    breaker.opened = breaker.opened.saturating_add(1);
    let waits = Backoff { first: limits.breaker_wait, longest: LONGEST.max(limits.breaker_wait) };
    breaker.state = BreakerState::Open { until: backoff::after(now, waits.delay(breaker.opened, chance)) };
    breaker
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn error(second: i64) -> LastError {
        LastError { at: t(second), text: "no capacity".into() }
    }

    #[test]
    fn it_opens_after_the_configured_failures_doubles_its_wait_and_lets_one_try_after_a_good_probe() {
        let limits =
            BackendLimits { breaker_failures: 3, breaker_wait: Duration::from_secs(10), ..BackendLimits::new("a") };
        let mut breaker = None;
        for second in 1..=2 {
            breaker = Some(failed(breaker, &limits, error(second), 0));
            assert_eq!(breaker.as_ref().unwrap().state, BreakerState::Closed);
        }
        let open = failed(breaker, &limits, error(3), 0);
        assert_eq!(open.state, BreakerState::Open { until: t(13) });
        let late = failed(Some(open.clone()), &limits, error(9), 0);
        assert_eq!((late.state, late.failures), (open.state, 4));
        let still = probed(late, &limits, Err("still nothing".into()), t(13), 0);
        assert_eq!((still.state, still.error.text.as_str()), (BreakerState::Open { until: t(33) }, "still nothing"));
        let half = probed(still, &limits, Ok(()), t(33), 0);
        assert_eq!(half.state, BreakerState::HalfOpen);
        let again = failed(Some(half), &limits, error(34), 0);
        assert_eq!(again.state, BreakerState::Open { until: t(74) });
    }

    #[test]
    fn a_wait_that_is_configured_longer_than_five_minutes_stays_that_long() {
        let limits =
            BackendLimits { breaker_failures: 1, breaker_wait: Duration::from_secs(900), ..BackendLimits::new("a") };
        let open = failed(None, &limits, error(0), 0);
        assert_eq!(open.state, BreakerState::Open { until: t(900) });
        assert_eq!(probed(open, &limits, Err(String::new()), t(900), 0).state, BreakerState::Open { until: t(1800) });
    }
}
