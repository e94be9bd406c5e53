//! Calls that panic.

use std::panic::{PanicHookInfo, panic_any, set_hook, take_hook};
use std::sync::Once;

use actors::port::Observation;

use super::scenario::Kind;
use super::world::Site;

/// What the panics of the simulation carry.
struct Simulated;

/// Panics of the simulation say nothing; all others do as before.
pub fn be_silent() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if !info.payload().is::<Simulated>() {
                others(info);
            }
        }));
    });
}

impl Site {
    /// Panics, if that fault strikes.
    pub fn panics(&self, kind: Kind) {
        {
            let mut state = self.world.lock();
            // Those of lives that are over are of no consequence.
            if !state.lives.contains(&self.life) || !state.faults.strikes(kind) {
                return;
            }
            state.note(format_args!("a call panics: {kind:?}"));
            state.panicked(self.life);
        }
        panic_any(Simulated);
    }

    /// Observations are many, so that few of them panic. Those of the supervisor do not: it is the process.
    pub fn may_panic(&self, observation: &Observation<'_>) {
        let supervisor = matches!(observation, Observation::GroupsOwned(_) | Observation::ActorRestarted { .. });
        let often = matches!(observation, Observation::Group { .. } | Observation::Breaker { .. });
        if supervisor || (often && self.world.lock().faults.between(Kind::ObserverPanics, 0, 19) > 0) {
            return;
        }
        self.panics(Kind::ObserverPanics);
    }
}
