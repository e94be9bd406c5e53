//! What health checks make of a group.

use super::*;

#[test]
fn without_a_snapshot_nothing_is_created_before_a_look_and_what_is_ours_is_adopted() {
    let mut w = World::with(0, 2, Loaded::default());
    for job in 1..=3 {
        w.deliver(&format!("q{job}"), job, Queued, None);
    }
    assert_eq!(w.runners.len(), 0);
    let (a, b) = ("octo-aaaaaaaa", "octo-bbbbbbbb");
    w.list(
        vec![remote(a, true, false), remote(b, true, true), remote("foreign", true, false)],
        vec![instance(a, InstanceStatus::Running), instance(b, InstanceStatus::Running)],
    );
    assert_eq!(w.in_state(RunnerState::Idle), [RunnerName::new(a).unwrap()]);
    assert_eq!(w.in_state(RunnerState::Busy), [RunnerName::new(b).unwrap()]);
    assert_eq!(w.group.fleet().total(), 2);
}

#[test]
fn without_a_snapshot_a_look_that_finds_something_is_followed_by_a_second_before_anything_is_created() {
    let mut w = World::with(0, 2, Loaded::default());
    w.pass(0);
    w.deliver("q1", 1, Queued, None);
    let (a, b) = ("octo-aaaaaaaa", "octo-bbbbbbbb");
    // The other one is missed on both sides at once.
    w.list(vec![remote(a, true, true)], vec![instance(a, InstanceStatus::Running)]);
    assert!(w.in_state(RunnerState::Registering).is_empty() && w.group.snapshot().looking, "more may be there");
    w.effects.clear();
    w.pass(5);
    assert_eq!(w.effects, [""; 0]);
    w.pass(1);
    assert_eq!(w.effects, ["healthcheck"]);
    // One that fails settles nothing.
    let half = Listing { at: w.now, registered: Err("502".into()), instances: listed(Ok(vec![])) };
    let effects = w.group.listed(&half, w.now);
    w.run(effects);
    assert!(w.group.snapshot().looking);
    w.list(
        vec![remote(a, true, true), remote(b, true, true)],
        vec![instance(a, InstanceStatus::Running), instance(b, InstanceStatus::Running)],
    );
    assert!(!w.group.snapshot().looking);
    assert_eq!(w.in_state(RunnerState::Busy).len(), 2);
    assert!(w.in_state(RunnerState::Registering).is_empty(), "two of two exist");
}

#[test]
fn the_second_look_of_a_beginning_counts_nothing_as_missed_twice() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    let loaded = Loaded { runners: vec![w.runners[&name].clone()], set_aside: 1, ..Loaded::default() };
    let mut again = World::with(0, 2, loaded);
    again.runners.insert(name.clone(), w.runners[&name].clone());
    for (wait, state) in [(1, RunnerState::Idle), (6, RunnerState::Idle), (60, RunnerState::Deleting)] {
        again.pass(wait);
        again.list(vec![], vec![instance(name.as_str(), InstanceStatus::Running)]);
        assert_eq!(again.runners[&name].state, state, "after {wait} s");
    }
}

#[test]
fn a_leaked_instance_goes_after_two_sightings_and_a_grace_and_a_foreign_one_never() {
    let mut w = World::new(0, 2);
    let leak = "octo-aaaaaaaa";
    let mut foreign = remote("octo-cccccccc", false, false);
    foreign.labels.clear();
    for (seconds, expected) in [(0, 0), (30, 0), (60, 1)] {
        w.pass(seconds);
        w.list(vec![foreign.clone()], vec![instance(leak, InstanceStatus::Running)]);
        assert_eq!(w.in_state(RunnerState::Deleting).len(), expected, "after {seconds} s");
    }
    assert!(w.effects.iter().any(|e| e.contains("Leak(\"instance\")")));
}

#[test]
fn a_registration_without_an_instance_goes_unless_it_runs_a_job() {
    let mut w = World::new(0, 2);
    let (offline, idle, busy) = ("octo-aaaaaaaa", "octo-bbbbbbbb", "octo-cccccccc");
    let listing = || vec![remote(offline, false, false), remote(idle, true, false), remote(busy, true, true)];
    w.list(listing(), vec![]);
    w.pass(61);
    w.list(listing(), vec![]);
    assert_eq!(w.in_state(RunnerState::Deleting), [offline, idle].map(|name| RunnerName::new(name).unwrap()));
    assert!(w.runners.values().all(|runner| runner.removal.as_ref().unwrap().deregister_first), "GitHub may refuse");
}

#[test]
fn one_side_that_does_not_answer_condemns_nothing() {
    let mut w = World::new(0, 2);
    for _ in 0..5 {
        w.pass(100);
        let listing = Listing {
            at: w.now,
            registered: Err("502".into()),
            instances: listed(Ok(vec![instance("octo-aaaaaaaa", InstanceStatus::Running)])),
        };
        let effects = w.group.listed(&listing, w.now);
        w.run(effects);
    }
    assert!(w.runners.is_empty());
    assert!(w.group.snapshot().last_error.as_ref().unwrap().text.contains("502"));
}

#[test]
fn a_group_that_ended_before_its_first_look_still_looks_first() {
    let mut w = World::with(0, 2, Loaded::default());
    let (snapshot, _) = w.group.take_changes().unwrap();
    let mut w = World::with(0, 2, Loaded { snapshot: Some(snapshot), ..Loaded::default() });
    w.deliver("q1", 1, Queued, None);
    let half = Listing { at: w.now, registered: Err("502".into()), instances: listed(Ok(vec![])) };
    let effects = w.group.listed(&half, w.now);
    w.run(effects);
    assert!(w.runners.is_empty());
    w.list(vec![], vec![]);
    assert_eq!(w.runners.len(), 1);
}

#[test]
fn a_runner_that_starts_for_long_is_looked_for_before_the_next_regular_health_check() {
    let mut w = World::new(1, 5);
    w.pass(0);
    w.list(vec![], vec![]);
    w.start_all();
    w.effects.clear();
    w.pass(59);
    assert!(w.effects.is_empty(), "{:?}", w.effects);
    w.pass(1);
    assert_eq!(w.effects, ["healthcheck"]);
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.list(vec![remote(name.as_str(), true, false)], vec![instance(name.as_str(), InstanceStatus::Running)]);
    assert_eq!(w.in_state(RunnerState::Idle), [name]);
    w.effects.clear();
    w.pass(500);
    assert!(w.effects.is_empty(), "{:?}", w.effects);
}

#[test]
fn an_instance_that_nobody_tracks_holds_its_place_until_it_is_gone() {
    let mut w = World::with(0, 1, Loaded::default());
    w.deliver("q1", 1, Queued, None);
    let listing = || vec![instance("octo-aaaaaaaa", InstanceStatus::Running)];
    w.list(vec![], listing());
    assert!(w.runners.is_empty(), "one of one exists");
    w.pass(61);
    w.list(vec![], listing());
    assert_eq!(w.in_state(RunnerState::Deleting).len(), 1);
    w.finish_removals();
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1);
    // One that went by itself frees its place with the second listing that does not show it: one may miss it, and one
    // that failed shows nothing.
    let mut w = World::with(0, 1, Loaded::default());
    w.deliver("q1", 1, Queued, None);
    w.list(vec![], listing());
    w.pass(61);
    let failed = Listing { at: w.now, registered: Ok(Arc::new(vec![])), instances: listed(Err("503".into())) };
    let effects = w.group.listed(&failed, w.now);
    w.run(effects);
    w.pass(61);
    w.list(vec![], vec![]);
    assert!(w.runners.is_empty(), "one of one may exist");
    w.pass(61);
    w.list(vec![], vec![]);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1);
}

#[test]
fn what_nobody_tracks_holds_its_place_over_a_restart_whatever_side_it_was_seen_on() {
    type Seen = (Vec<RemoteRunner>, Vec<Instance>);
    let shown: [fn() -> Seen; 3] = [
        || (vec![], vec![instance("octo-aaaaaaaa", InstanceStatus::Running)]),
        || (vec![remote("octo-aaaaaaaa", true, true)], vec![]),
        || (vec![remote("octo-aaaaaaaa", false, false)], vec![]),
    ];
    for shown in shown {
        let mut w = World::with(0, 1, Loaded::default());
        let (registered, instances) = shown();
        w.list(registered, instances);
        let (registered, instances) = shown();
        w.list(registered, instances);
        assert!(!w.group.snapshot().looking);
        let snapshot = Some(w.group.snapshot().clone());
        let mut w = World::with(0, 1, Loaded { snapshot, ..Loaded::default() });
        w.deliver("q1", 1, Queued, None);
        assert!(w.runners.is_empty(), "one of one may exist");
    }
}

#[test]
fn what_a_group_takes_in_holds_its_place_until_it_is_saved() {
    let mut w = World::with(0, 2, Loaded::default());
    w.deliver("q1", 1, Queued, None);
    let (a, b) = ("octo-aaaaaaaa", "octo-bbbbbbbb");
    let listing = Listing {
        at: w.now,
        registered: Ok(Arc::new(vec![remote(a, true, true), remote(b, true, true)])),
        instances: listed(Ok(vec![instance(a, InstanceStatus::Running), instance(b, InstanceStatus::Running)])),
    };
    let effects = w.group.listed(&listing, w.now);
    // The next look comes before a save that takes long.
    drop(w.group.listed(&listing, w.now));
    let crashed = World::with(0, 2, Loaded { snapshot: Some(w.group.snapshot().clone()), ..Loaded::default() });
    assert!(!crashed.group.snapshot().looking && !crashed.group.has_capacity(), "neither was saved before the crash");
    w.run(effects);
    assert!(w.group.snapshot().suspects.is_empty());
    assert_eq!(w.group.fleet().total(), 2);
}

#[test]
fn instances_that_end_before_they_are_online_are_failures_that_back_off_and_are_told() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    let mut names = BTreeSet::new();
    for failures in 1..=3 {
        w.start_all();
        let name = w.in_state(RunnerState::Starting)[0].clone();
        assert!(names.insert(name.clone()), "{name}: GitHub refuses a name that is taken, and jobs know names");
        w.pass(61);
        w.list(vec![remote(name.as_str(), false, false)], vec![instance(name.as_str(), InstanceStatus::Stopped)]);
        w.finish_removals();
        assert_eq!(w.group.snapshot().failures, failures);
        assert!(w.group.snapshot().not_before > Some(w.now));
        w.pass(300);
    }
    let error = &w.group.snapshot().last_error.as_ref().unwrap().text;
    assert!(error.contains("its instance has ended before it was seen online"), "{error}");
}
