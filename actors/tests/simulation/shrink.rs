//! Makes a failing run small: fewer kinds of faults, fewer jobs, as long as it fails.

use super::director::{Outcome, run};
use super::scenario::Scenario;

/// Most runs that are spent on it.
const TRIES: usize = 80;

/// The smallest failing scenario that was found, and what came of it.
pub fn shrink(mut scenario: Scenario, mut outcome: Outcome) -> (Scenario, Outcome) {
    let mut tries = 0;
    let mut attempt = |next: Scenario, scenario: &mut Scenario, outcome: &mut Outcome| {
        tries += 1;
        if tries > TRIES {
            return false;
        }
        let came = run(&next);
        let fails = !came.violations.is_empty();
        if fails {
            (*scenario, *outcome) = (next, came);
        }
        fails
    };
    for kind in scenario.kinds.clone() {
        let mut next = scenario.clone();
        next.kinds.remove(&kind);
        attempt(next, &mut scenario, &mut outcome);
    }
    while scenario.jobs > 1 {
        let next = Scenario { jobs: scenario.jobs / 2, ..scenario.clone() };
        if !attempt(next, &mut scenario, &mut outcome) {
            break;
        }
    }
    // A small run may need fewer faults.
    for kind in scenario.kinds.clone() {
        let mut next = scenario.clone();
        next.kinds.remove(&kind);
        attempt(next, &mut scenario, &mut outcome);
    }
    (scenario, outcome)
}

/// What to tell of a failing run.
pub fn report(scenario: &Scenario, outcome: &Outcome, small: &(Scenario, Outcome)) -> String {
    let (least, came) = small;
    let lines = came.lines.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
    format!(
        "seed {seed} of {jobs} jobs: {violations:#?}\n\nshrunk to {few} jobs with {kinds:?}: {still:#?}\nits end:\n{lines}\n\n\
         REPRODUCE: scripts/simulate --from {seed} --seeds 1 --jobs {jobs}{alone}",
        alone = if std::env::var_os("SIMULATE_ALONE").is_some() { " --alone" } else { "" },
        seed = scenario.seed,
        jobs = scenario.jobs,
        violations = outcome.violations,
        few = least.jobs,
        kinds = least.kinds,
        still = came.violations,
    )
}
