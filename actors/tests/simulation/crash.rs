//! The manager ends right after every single effect and every single save, one after the other, and comes back.

use std::collections::{BTreeMap, BTreeSet};

use actors::id::JobId;
use actors::model::job::JobStatus;

use super::director::run;
use super::scenario::{Kind, Scenario};

/// Most effects and saves of the small scenarios.
const MOST: u64 = 400;

/// A few jobs without chance beyond these faults: the same end whenever the manager ends in between.
fn small(seed: u64, kinds: &[Kind]) -> Scenario {
    let mut scenario = Scenario { kinds: kinds.iter().copied().collect(), intensity: 1, ..Scenario::of(seed, 3) };
    scenario.groups.truncate(1);
    scenario
}

type Ends = BTreeMap<JobId, (JobStatus, Option<String>)>;

fn enumerate(scenario: &Scenario) -> (u64, Ends) {
    let calm = run(scenario);
    assert_eq!(calm.violations, Vec::<String>::new());
    assert!(calm.effects < MOST, "{} effects", calm.effects);
    for n in 1..=calm.effects {
        let outcome = run(&Scenario { crash_at: Some(n), ..scenario.clone() });
        let end = outcome.lines.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(outcome.violations, Vec::<String>::new(), "ended after effect {n} of {scenario:?}:\n{end}");
        assert_eq!(outcome.lives, 2, "it ended after effect {n}");
        assert_eq!(outcome.statuses, calm.statuses, "ended after effect {n}:\n{end}");
    }
    (calm.effects, calm.statuses)
}

#[test]
fn a_process_that_ends_after_any_effect_or_save_leaves_the_same_end_as_one_that_does_not() {
    let mut ends = BTreeSet::new();
    let mut total = 0;
    for (seed, kinds) in [(0, &[Kind::Lingers][..]), (7, &[Kind::Approval, Kind::DeliveryTwice])] {
        let (effects, statuses) = enumerate(&small(seed, kinds));
        total += effects;
        ends.extend(statuses.into_values());
    }
    println!("{total} moments");
    assert!(total > 60, "{total}");
    assert!(ends.iter().all(|(status, _)| matches!(status, JobStatus::Completed | JobStatus::Unmatched)), "{ends:?}");
}
