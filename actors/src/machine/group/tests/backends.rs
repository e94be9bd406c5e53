//! Backends that fail, as the group sees them.

use super::*;
use crate::model::group::BreakerState;
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

#[test]
fn a_backend_that_said_how_long_to_wait_is_not_asked_before_also_when_another_one_served() {
    let mut w = world(5);
    w.deliver("1", 1, JobAction::Queued, None);
    let wait = Some(Duration::from_secs(120));
    let name = fail_next(&mut w, BackendError::Throttled { text: "slow down".into(), retry_after: wait });
    assert_eq!((w.runners[&name].state, w.runners[&name].backend.as_str()), (RunnerState::Provisioning, "b"));
    w.runner_event(&name, Event::Created(InstanceId::new("i-1").unwrap()));
    for (job, passed) in [(2, 0), (3, 119)] {
        w.pass(passed);
        w.deliver(&job.to_string(), job, JobAction::Queued, None);
        let next = w.in_state(RunnerState::Registering).remove(0);
        assert_eq!((w.runners[&next].backend.as_str(), &w.runners[&next].fallbacks), ("b", &vec![]), "job {job}");
        w.start_all();
    }
    assert!(!w.effects.contains(&"probe a".to_owned()), "{:?}", w.effects);
    w.pass(1);
    assert!(w.effects.contains(&"probe a".to_owned()), "{:?}", w.effects);
    let effects = w.group.probed("a", Ok(()), w.now);
    w.run(effects);
    w.deliver("4", 4, JobAction::Queued, None);
    w.start_all();
    assert_eq!(w.group.snapshot().breakers.len(), 0);
}

#[test]
fn a_runner_that_tells_twice_that_it_failed_failed_once() {
    let mut w = world(5);
    w.deliver("1", 1, JobAction::Queued, None);
    let name = fail_next(&mut w, BackendError::Quota("twenty".into()));
    w.runner_event(&name, Event::CreateFailed { error: BackendError::Quota("ten".into()), jit_config: None });
    w.finish_removals();
    let told = w.runners[&name].clone();
    assert_eq!(told.state, RunnerState::Failed);
    let once = w.group.snapshot().clone();
    let effects = w.group.runner_changed(Arc::new(told), w.now);
    w.run(effects);
    assert_eq!(*w.group.snapshot(), once);
}

#[test]
fn a_reset_probes_at_once_what_is_left_alone() {
    let mut w = world(1);
    w.deliver("1", 1, JobAction::Queued, None);
    let name = fail_next(&mut w, BackendError::Quota("twenty".into()));
    w.runner_event(&name, Event::CreateFailed { error: BackendError::Quota("ten".into()), jit_config: None });
    w.finish_removals();
    w.pass(1);
    w.effects.clear();
    let effects = w.group.reset(w.now);
    w.run(effects);
    assert_eq!(w.effects, ["healthcheck", "probe a", "probe b"]);
    let effects = w.group.probed("b", Ok(()), w.now);
    w.run(effects);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1);
}

#[test]
fn a_creation_that_was_under_way_does_not_shorten_the_wait_that_a_backend_asked_for() {
    let mut w = world(5);
    w.deliver("1", 1, JobAction::Queued, None);
    w.deliver("2", 2, JobAction::Queued, None);
    let early = w.in_state(RunnerState::Registering).remove(1);
    w.runner_event(&early, Event::Registered { id: RunnerId(2), jit_config: Secret::new("jit".into()) });
    let slow = BackendError::Throttled { text: "slow".into(), retry_after: Some(Duration::from_secs(90)) };
    fail_next(&mut w, slow);
    w.runner_event(&early, Event::Created(crate::id::InstanceId::new("i-2").unwrap()));
    w.runner_event(&early, Event::JobStarted(JobId(2)));
    let breaker = w.group.snapshot().breakers["a"].state;
    assert_eq!(breaker, BreakerState::Open { until: w.now + Duration::from_secs(90) });
}
