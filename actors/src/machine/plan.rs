//! Demand, fleet and limits in; how many to create, how many to let go, or what to wait for, out.

use jiff::Timestamp;

/// The numbers a plan is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Jobs in demand.
    pub demand: u32,
    /// Those among them that GitHub is asked about first: no runner is created for them yet.
    pub unsure: u32,
    /// Runners that serve, or will serve, a job: requested up to idle.
    pub available: u32,
    /// Runners that are not proven gone, whatever their state.
    pub total: u32,
    /// Setting: runners kept available beyond demand.
    pub min: u32,
    /// Setting: runners that may exist.
    pub max: u32,
    /// Why nothing may be created at all at the moment.
    pub hold: Option<Hold>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// No creation before this time.
    pub not_before: Option<Timestamp>,
    /// Creations that the backends are asked for at once: none while all their breakers are open, one for a trial.
    pub trials: u32,
}

/// Why a group creates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// An operator drained it.
    Drained,
    /// It has not looked yet what already exists.
    Looking,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Runners to create now.
    pub create: u32,
    /// Idle runners that may go, if they are idle for long enough.
    pub surplus: u32,
    /// Runners that are wanted and cannot be created now.
    pub short: u32,
    /// When to plan again, if nothing happens before.
    pub again_at: Option<Timestamp>,
}

/// Makes a plan. Never plans beyond `max`.
#[must_use]
pub fn plan(s: Situation, now: Timestamp) -> Plan {
    let wanted = match s.hold {
        Some(Hold::Drained) => 0,
        Some(Hold::Looking) | None => s.demand.saturating_add(s.min),
    };
    let short = wanted.saturating_sub(s.available);
    let surplus = s.available.saturating_sub(wanted);
    if short == 0 {
        return Plan { surplus, ..Plan::default() };
    }
    let free = s.max.saturating_sub(s.total);
    let waits = s.not_before.filter(|due| *due > now);
    let allowed = match (s.hold, waits) {
        (Some(_), _) | (_, Some(_)) => 0,
        // After a failure one runner at a time tries whether it works again.
        _ if s.failures > 0 => 1,
        _ => u32::MAX,
    };
    let allowed = allowed.min(s.trials);
    let sure = wanted.saturating_sub(s.unsure).saturating_sub(s.available);
    let create = sure.min(free).min(allowed);
    Plan { create, surplus: 0, short: short - create, again_at: if free > 0 { waits } else { None } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALM: Situation = Situation {
        demand: 0,
        unsure: 0,
        available: 0,
        total: 0,
        min: 0,
        max: 5,
        hold: None,
        failures: 0,
        not_before: None,
        trials: u32::MAX,
    };

    fn t(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_table_of_situations() {
        let create = |s: Situation| {
            let p = plan(s, t(100));
            (p.create, p.surplus, p.short)
        };
        assert_eq!(create(Situation { demand: 3, ..CALM }), (3, 0, 0));
        assert_eq!(create(Situation { demand: 8, ..CALM }), (5, 0, 3));
        assert_eq!(create(Situation { demand: 3, unsure: 2, ..CALM }), (1, 0, 2));
        assert_eq!(create(Situation { demand: 3, unsure: 3, available: 2, ..CALM }), (0, 0, 1));
        assert_eq!(create(Situation { demand: 3, unsure: 2, available: 4, ..CALM }), (0, 1, 0));
        assert_eq!(create(Situation { demand: 8, total: 5, available: 2, ..CALM }), (0, 0, 6));
        assert_eq!(create(Situation { min: 2, ..CALM }), (2, 0, 0));
        assert_eq!(create(Situation { min: 2, demand: 1, available: 2, total: 2, ..CALM }), (1, 0, 0));
        assert_eq!(create(Situation { available: 3, total: 4, min: 1, ..CALM }), (0, 2, 0));
        assert_eq!(create(Situation { demand: 3, hold: Some(Hold::Looking), ..CALM }), (0, 0, 3));
        assert_eq!(create(Situation { demand: 3, available: 2, hold: Some(Hold::Drained), ..CALM }), (0, 2, 0));
        assert_eq!(create(Situation { demand: 3, failures: 1, ..CALM }), (1, 0, 2));
        assert_eq!(create(Situation { demand: 3, trials: 1, ..CALM }), (1, 0, 2));
        assert_eq!(create(Situation { demand: 3, trials: 0, ..CALM }), (0, 0, 3));
        assert_eq!(create(Situation { demand: 3, failures: 1, not_before: Some(t(101)), ..CALM }), (0, 0, 3));
        assert_eq!(
            plan(Situation { demand: 3, failures: 1, not_before: Some(t(101)), ..CALM }, t(100)).again_at,
            Some(t(101))
        );
    }

    proptest! {
        #[test]
        fn a_plan_never_exceeds_max_and_never_both_creates_and_lets_go(
            demand in 0_u32..50, unsure in 0_u32..50, available in 0_u32..50, other in 0_u32..50, min in 0_u32..50, max in 1_u32..50,
            failures in 0_u32..3, trials in prop_oneof![0_u32..3, Just(u32::MAX)], wait in proptest::option::of(0_i64..200), hold in 0..3,
        ) {
            let total = available + other;
            let hold = match hold { 0 => None, 1 => Some(Hold::Drained), _ => Some(Hold::Looking) };
            let unsure = unsure.min(demand);
            let s = Situation { demand, unsure, available, total, min, max, hold, failures, not_before: wait.map(t), trials };
            let p = plan(s, t(100));
            prop_assert!(p.create == 0 || total + p.create <= max);
            prop_assert!(p.create == 0 || p.surplus == 0);
            prop_assert!(p.surplus <= available);
            if hold.is_none() && failures == 0 && wait.is_none_or(|w| w <= 100) && total < max {
                prop_assert_eq!(p.create, (demand - unsure + min).saturating_sub(available).min(max - total).min(trials));
            }
        }
    }
}
