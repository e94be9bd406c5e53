//! The manager ends right after every single effect and every single write of the store, one after the other, and comes
//! back.

use std::collections::{BTreeMap, BTreeSet};

use actors::id::JobId;
use actors::model::job::JobStatus;
use actors::model::settings::BackendLimits;

use super::director::{Outcome, run};
use super::scenario::{Kind, Scenario, Twist};

/// Most effects and writes of the small scenarios.
const MOST: u64 = 400;

/// A few jobs without chance beyond these faults: the same end whenever the manager ends in between.
fn small(seed: u64, kinds: &[Kind], twist: Option<Twist>) -> Scenario {
    let kinds = kinds.iter().copied().collect();
    let mut scenario =
        Scenario { kinds, intensity: 1, healed_at: 15, twist, tells_of_jobs: false, ..Scenario::of(seed, 3) };
    scenario.groups.truncate(1);
    if twist == Some(Twist::FirstIsFull) {
        let far = BackendLimits { name: "far".into(), ..scenario.groups[0].backends[0].clone() };
        scenario.groups[0].backends = vec![scenario.groups[0].backends[0].clone(), far];
    }
    scenario
}

type Ends = BTreeMap<JobId, (JobStatus, Option<String>)>;

fn enumerate(scenario: &Scenario) -> (Outcome, Ends) {
    let calm = run(scenario);
    assert_eq!(calm.violations, Vec::<String>::new());
    assert!(calm.effects < MOST, "{} effects", calm.effects);
    for n in 1..=calm.effects {
        let outcome = run(&Scenario { crash_at: Some(n), ..scenario.clone() });
        let end = outcome.lines.iter().rev().take(60).rev().cloned().collect::<Vec<_>>().join("\n");
        assert_eq!(outcome.violations, Vec::<String>::new(), "ended after effect {n} of {scenario:?}:\n{end}");
        assert_eq!(outcome.lives, 2, "it ended after effect {n}");
        assert_eq!(outcome.statuses, calm.statuses, "ended after effect {n} of {scenario:?}:\n{end}");
    }
    let ends = calm.statuses.clone();
    (calm, ends)
}

/// A seed, faults, and what the run without an end in between shows and never shows, so that it is what it says.
type Small = (u64, &'static [Kind], Option<Twist>, &'static str, &'static str);

#[test]
fn a_process_that_ends_after_any_effect_or_save_leaves_the_same_end_as_one_that_does_not() {
    let scenarios: [Small; 6] = [
        (0, &[Kind::Lingers], None, "is over: success", "cancelled"),
        (7, &[Kind::Approval, Kind::DeliveryTwice], None, "is over: success", "cancelled"),
        (0, &[], Some(Twist::CancelsWaiting), "job 1 is over: cancelled", "job 1 is taken"),
        (0, &[], Some(Twist::CancelsRunning), "job 1 is over: cancelled", "job 1 is over: success"),
        (0, &[], Some(Twist::FirstIsFull), " at far", "instance at near"),
        (0, &[], Some(Twist::LosesCreate), "the answer to the create", "cancelled"),
    ];
    let (mut ends, mut effects, mut writes) = (BTreeSet::new(), 0, 0);
    for (seed, kinds, twist, shows, never) in scenarios {
        let (calm, statuses) = enumerate(&small(seed, kinds, twist));
        let shown = |text: &str| calm.lines.iter().any(|line| line.contains(text));
        assert!(shown(shows) && !shown(never), "{kinds:?} {twist:?}: {:#?}", calm.lines);
        let outside = calm.effects - calm.writes;
        println!("{kinds:?} {twist:?}: ended after each of {outside} effects and {} writes of the store", calm.writes);
        (effects, writes) = (effects + outside, writes + calm.writes);
        ends.extend(statuses.into_values());
    }
    println!("{} moments: {effects} effects and {writes} writes of the store", effects + writes);
    assert!(effects > 50 && writes > 250, "{effects} effects, {writes} writes");
    assert!(ends.iter().all(|(status, _)| matches!(status, JobStatus::Completed | JobStatus::Unmatched)), "{ends:?}");
}
