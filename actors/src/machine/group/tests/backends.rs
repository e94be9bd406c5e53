//! Backends that fail, as the group sees them.

use super::*;
use crate::model::instance::BackendError;
use crate::model::secret::Secret;

fn world(breaker_failures: u32) -> World {
    let backends = ["a", "b"].map(|name| BackendLimits { breaker_failures, ..BackendLimits::new(name) }).to_vec();
    let loaded = Loaded { snapshot: Some(GroupSnapshot::default()), ..Loaded::default() };
    World::of(GroupSettings { backends, ..settings("octo", 0, 10) }, loaded)
}

/// Registers the runner whose turn it is, and lets the backend that it asks fail.
fn fail_next(w: &mut World, error: BackendError) -> RunnerName {
    let name = w.in_state(RunnerState::Registering).remove(0);
    w.runner_event(&name, Event::Registered { id: RunnerId(1), jit_config: Secret::new("jit".into()) });
    w.runner_event(&name, Event::CreateFailed { error, jit_config: Some(Secret::new("jit".into())) });
    name
}

#[test]
fn an_unknown_outcome_is_never_followed_by_another_backend() {
    let mut w = world(5);
    w.deliver("1", 1, JobAction::Queued, None);
    let name = fail_next(&mut w, BackendError::Timeout("slow".into()));
    let runner = &w.runners[&name];
    assert_eq!((runner.state, runner.backend.as_str()), (RunnerState::Deleting, "a"));
    assert!(!runner.removal.as_ref().unwrap().instance_deleted);
}

#[test]
fn a_backend_whose_answers_never_come_keeps_no_job_from_the_next_one() {
    let mut w = world(6);
    w.deliver("1", 1, JobAction::Queued, None);
    for _ in 0..6 {
        w.pass(60);
        fail_next(&mut w, BackendError::Timeout("slow".into()));
        w.finish_removals();
    }
    w.pass(1);
    let next = w.in_state(RunnerState::Registering);
    assert_eq!(next.len(), 1, "the wait of the group would outlast that of the breaker, for ever");
    assert_eq!((w.runners[&next[0]].backend.as_str(), &w.runners[&next[0]].fallbacks), ("b", &vec![]));
    fail_next(&mut w, BackendError::Timeout("slow, too".into()));
    w.finish_removals();
    w.pass(1);
    assert_eq!(w.in_state(RunnerState::Registering), [], "what was asked is not left alone: the group waits");
}

#[test]
fn when_no_backend_makes_an_instance_the_creation_failed_and_names_the_last_error() {
    let mut w = world(5);
    w.deliver("1", 1, JobAction::Queued, None);
    let name = fail_next(&mut w, BackendError::Quota("twenty".into()));
    assert_eq!((w.runners[&name].state, w.runners[&name].backend.as_str()), (RunnerState::Provisioning, "b"));
    w.runner_event(&name, Event::CreateFailed { error: BackendError::Invalid("no image".into()), jit_config: None });
    let runner = &w.runners[&name];
    assert_eq!(runner.state, RunnerState::Deleting);
    assert_eq!(runner.error.as_deref(), Some("creating the instance at backend b failed: invalid request: no image"));
    let failures: Vec<_> = w.group.snapshot().breakers.iter().map(|(name, b)| (name.as_str(), b.failures)).collect();
    assert_eq!(failures, [("a", 1), ("b", 1)]);
}

#[test]
fn while_all_breakers_are_open_nothing_is_created_and_a_probe_lets_one_try() {
    let mut w = world(1);
    w.deliver("1", 1, JobAction::Queued, None);
    let name = fail_next(&mut w, BackendError::Quota("twenty".into()));
    w.runner_event(&name, Event::CreateFailed { error: BackendError::Quota("ten".into()), jit_config: None });
    w.finish_removals();
    assert!(!w.group.has_capacity());
    for job in 2..=4 {
        w.deliver(&job.to_string(), job, JobAction::Queued, None);
    }
    w.pass(10);
    assert_eq!(w.in_state(RunnerState::Registering), []);
    w.pass(6);
    assert!(w.effects.contains(&"probe a".to_owned()) && w.effects.contains(&"probe b".to_owned()), "{:?}", w.effects);
    let effects = w.group.probed("a", Err("still full".into()), w.now);
    w.run(effects);
    assert_eq!(w.in_state(RunnerState::Registering), []);
    let effects = w.group.probed("b", Ok(()), w.now);
    w.run(effects);
    let trial = w.in_state(RunnerState::Registering);
    assert_eq!(trial.len(), 1);
    assert_eq!((w.runners[&trial[0]].backend.as_str(), &w.runners[&trial[0]].fallbacks), ("b", &vec![]));
    w.pass(1);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1, "one at a time");
    w.start_all();
    assert_eq!(w.group.snapshot().breakers.keys().collect::<Vec<_>>(), ["a"]);
}
