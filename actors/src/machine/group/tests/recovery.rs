//! What a group makes of what it finds in the store when it begins.

use super::*;
use crate::model::group::JobNews;

/// What the runner's actor is asked to do when its group begins with this inbox, and its state then.
fn woken(
    world: &World,
    name: &RunnerName,
    snapshot: GroupSnapshot,
    inbox: Vec<InboxEntry>,
) -> (RunnerState, Vec<runner_machine::Effect>) {
    let runners = world.runners.values().cloned().collect();
    let jobs = world.group.jobs.values().map(|job| Job::clone(job)).collect();
    let loaded = Loaded { snapshot: Some(snapshot), runners, jobs, ..Loaded::default() };
    let manager = ManagerName::new("test").unwrap();
    let mut group = Group::new(Arc::clone(world.group.settings()), &manager, loaded, 2, world.now);
    let mut runner = world.runners[name].clone();
    let mut calls = vec![];
    for effect in group.recover(inbox, world.now) {
        let (told, event) = match effect {
            Effect::Spawn(runner, event) => (runner.name.clone(), event),
            Effect::Tell(name, event) => (name, event),
            _ => continue,
        };
        if told == *name {
            let (next, effects) = runner_machine::step(runner, event, world.now);
            runner = next;
            calls.extend(effects);
        }
    }
    (runner.state, calls)
}

/// A world whose only runner is being scaled down.
fn leaving() -> (World, RunnerName) {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    w.runner_event(&name, Event::ScaleDown);
    assert_eq!(w.in_state(RunnerState::Deleting), std::slice::from_ref(&name));
    (w, name)
}

fn deregisters(calls: &[runner_machine::Effect]) -> bool {
    calls.iter().any(|call| matches!(call, runner_machine::Effect::Deregister))
}

#[test]
fn a_removal_is_taken_up_again_unless_the_inbox_says_that_its_runner_took_a_job() {
    let (w, name) = leaving();
    let (state, calls) = woken(&w, &name, w.group.snapshot().clone(), vec![]);
    assert!(state == RunnerState::Deleting && deregisters(&calls), "{state:?} {calls:?}");

    let mut delivery = delivery("p1", 1, InProgress);
    delivery.event.runner = Some(RunnerRef { id: None, name: name.to_string() });
    let entry = InboxEntry { cursor: Cursor(9), delivery, assigned: true, known: None };
    let (state, calls) = woken(&w, &name, w.group.snapshot().clone(), vec![entry]);
    assert!(state == RunnerState::Busy && !deregisters(&calls), "{state:?} {calls:?}");
}

#[test]
fn a_removal_is_not_taken_up_again_when_the_group_knew_that_its_runner_took_a_job() {
    let (w, name) = leaving();
    let mut snapshot = w.group.snapshot().clone();
    snapshot.unsettled.insert(name.clone(), JobNews { job: JobId(1), completed: false });
    let (state, calls) = woken(&w, &name, snapshot, vec![]);
    assert!(state == RunnerState::Busy && !deregisters(&calls), "{state:?} {calls:?}");
}

#[test]
fn what_the_inbox_has_counts_once_and_its_jobs_get_their_runners() {
    let entry = |cursor, id: &str, job| InboxEntry {
        cursor: Cursor(cursor),
        delivery: delivery(id, job, Queued),
        assigned: true,
        known: None,
    };
    let mut w = World::new(0, 5);
    let inbox = vec![entry(1, "q1", 1), entry(2, "q2", 2)];
    let effects = w.group.recover(inbox, w.now);
    w.run(effects);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 2);
    assert!(w.group.delivered(entry(2, "q2", 2), w.now).is_empty());
    assert_eq!(w.group.snapshot().cursor, Cursor(2));
}

#[test]
fn a_runner_that_is_taken_in_learns_what_was_heard_of_it_before() {
    for (action, state) in [(InProgress, RunnerState::Busy), (Completed, RunnerState::Deleting)] {
        let mut w = World::with(0, 2, Loaded::default());
        let name = RunnerName::new("octo-aaaaaaaa").unwrap();
        w.deliver("q1", 1, Queued, None);
        w.deliver("p1", 1, action, Some(&name));
        // GitHub's listing lags behind.
        w.list(vec![remote(name.as_str(), true, false)], vec![instance(name.as_str(), InstanceStatus::Running)]);
        assert_eq!(w.runners[&name].state, state);
        assert_eq!(w.runners[&name].job, Some(JobId(1)));
    }
}

#[test]
fn what_jobs_say_calls_no_removal_of_a_leak_off() {
    let mut w = World::new(0, 2);
    let name = RunnerName::new("octo-aaaaaaaa").unwrap();
    w.deliver("p1", 1, InProgress, Some(&name));
    for wait in [1, 61] {
        w.pass(wait);
        w.list(vec![remote(name.as_str(), false, false)], vec![]);
    }
    assert_eq!(w.runners[&name].state, RunnerState::Deleting, "GitHub decides");
}

/// The group as it begins anew from what a store has that has its snapshot and these runners.
fn again(world: &mut World, runners: &[&RunnerName]) -> World {
    let (snapshot, _) = world.group.take_changes().unwrap();
    let runners = runners.iter().map(|name| world.runners[*name].clone()).collect();
    World::with(0, 2, Loaded { snapshot: Some(snapshot), runners, ..Loaded::default() })
}

#[test]
fn until_all_is_saved_again_in_a_store_that_lost_it_each_runner_holds_its_place() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.deliver("q2", 2, Queued, None);
    w.start_all();
    let (one, other) = (w.in_state(RunnerState::Starting)[0].clone(), w.in_state(RunnerState::Starting)[1].clone());
    assert!(w.group.write_again(vec![], w.now).is_empty());
    let mut neither = again(&mut w, &[]);
    neither.deliver("q3", 3, Queued, None);
    assert!(!neither.group.has_capacity() && neither.runners.is_empty(), "two of two exist");

    let effects = w.group.runner_changed(Arc::new(w.runners[&one].clone()), w.now);
    w.run(effects);
    // A read that was out when the store lost all begins again, and changes nothing of that.
    w.group.hear_again();
    let half = again(&mut w, &[&one]);
    assert!(!half.group.has_capacity(), "two of two exist");

    // Its actor is parked: it was saved with the group.
    w.group.has_again([&other]);
    let whole = again(&mut w, &[&one]);
    assert!(whole.group.snapshot().suspects.is_empty() && whole.group.has_capacity());
    assert!(w.in_state(RunnerState::Registering).is_empty(), "nothing counted twice");
}

#[test]
fn a_runner_that_a_store_has_again_after_it_was_gone_is_ended_and_holds_no_place() {
    let mut w = World::new(0, 1);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    let before = w.runners[&name].clone();
    w.deliver("p1", 1, InProgress, Some(&name));
    w.deliver("c1", 1, Completed, Some(&name));
    w.finish_removals();
    assert!(w.group.fleet().get(&name).is_none());

    let effects = w.group.write_again(vec![before.clone()], w.now);
    let [Effect::Spawn(runner, _)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((&runner.name, runner.state), (&name, RunnerState::Gone));
    assert!(w.group.has_capacity());
    assert!(w.group.runner_changed(Arc::clone(runner), w.now).is_empty());

    // One that another owner made meanwhile is taken over, and holds its place.
    let other = Runner { name: RunnerName::new("octo-zzzzzzzz").unwrap(), ..Runner::clone(&before) };
    let effects = w.group.write_again(vec![other.clone()], w.now);
    let [Effect::Spawn(runner, Event::Recovered)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(**runner, other);
    assert!(!w.group.has_capacity());
}
