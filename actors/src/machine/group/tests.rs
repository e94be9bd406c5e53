//! A group in a world where runners move when they are told to.

mod backends;
mod health;
mod recovery;
mod verified;

use super::*;
use crate::id::{Cursor, DeliveryId, GroupName, InstanceId, RepositoryId, RunnerId};
use crate::machine::health::Listed;
use crate::machine::job as job_machine;
use crate::machine::runner::Event;
use crate::model::delivery::{Delivery, JobAction, JobEvent, JobFacts, RepositoryRef, RunnerRef};
use crate::model::settings::{BackendLimits, Scope};
use crate::port::backend::{Instance, InstanceStatus};
use crate::port::github::RemoteRunner;
use crate::port::store::InboxEntry;

pub(crate) fn settings(name: &str, min: u32, max: u32) -> GroupSettings {
    GroupSettings {
        min,
        time_to_start: Duration::from_secs(600),
        time_to_live: Duration::from_secs(3600),
        backends: vec![BackendLimits {
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(60),
            ..BackendLimits::new("base")
        }],
        ..GroupSettings::new(
            GroupName::new(name).unwrap(),
            Scope::Organization("octo-org".into()),
            vec!["x".into()],
            max,
        )
    }
}

pub(crate) fn facts(id: u64) -> JobFacts {
    JobFacts {
        id: JobId(id),
        run_id: 1,
        run_attempt: Some(1),
        name: "build".into(),
        workflow_name: Some("CI".into()),
        head_branch: Some("main".into()),
        labels: vec!["self-hosted".into(), "x".into()],
        repository: RepositoryRef { id: RepositoryId(7), owner: "octo-org".into(), name: "app".into(), private: true },
        organization: Some("octo-org".into()),
        enterprise: None,
        installation_id: None,
        created_at: None,
        started_at: None,
        completed_at: None,
    }
}

pub(crate) fn delivery(id: &str, job: u64, action: JobAction) -> Delivery {
    Delivery {
        id: DeliveryId::new(id).unwrap(),
        received_at: Timestamp::from_second(1000).unwrap(),
        event: JobEvent { action, job: facts(job), runner: None, conclusion: None },
        matched: "it is the only one".into(),
    }
}

/// What the one backend said.
pub(crate) fn listed(instances: Result<Vec<Instance>, String>) -> Vec<Listed> {
    vec![Listed { backend: "base".into(), instances }]
}

/// A group with a fake world around it: runners move when they are told to.
struct World {
    group: Group,
    now: Timestamp,
    cursor: u64,
    runners: BTreeMap<RunnerName, Runner>,
    effects: Vec<String>,
    /// Whether GitHub says at once of each job that it is asked about that it is queued.
    answers: bool,
}

impl World {
    fn new(min: u32, max: u32) -> Self {
        Self::with(min, max, Loaded { snapshot: Some(GroupSnapshot::default()), ..Loaded::default() })
    }

    fn with(min: u32, max: u32, loaded: Loaded) -> Self {
        Self::of(settings("octo", min, max), loaded)
    }

    fn of(settings: GroupSettings, loaded: Loaded) -> Self {
        let now = Timestamp::from_second(1000).unwrap();
        let manager = ManagerName::new("test").unwrap();
        let group = Group::new(Arc::new(settings), &manager, loaded, 1, now);
        let mut world = Self { group, now, cursor: 0, runners: BTreeMap::new(), effects: vec![], answers: true };
        let effects = world.group.recover(vec![], now);
        world.run(effects);
        world
    }

    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Spawn(runner, event) => {
                    let runner = Runner::clone(&runner);
                    self.runners.insert(runner.name.clone(), runner.clone());
                    self.effects.push(format!("spawn {event:?}").chars().take(30).collect());
                    self.runner_event(&runner.name, event);
                }
                Effect::Tell(name, event) => {
                    self.effects.push(format!("tell {event:?}").chars().take(30).collect());
                    self.runner_event(&name, event);
                }
                Effect::Healthcheck => self.effects.push("healthcheck".into()),
                Effect::Verify(job, _) => {
                    self.effects.push(format!("verify {job}"));
                    if self.answers {
                        self.verified(job.0, verified::says(Queued, job.0));
                    }
                }
                Effect::Probe(backend) => self.effects.push(format!("probe {backend}")),
                Effect::Note(note) => self.effects.push(format!("{note:?}")),
            }
        }
        assert!(self.group.fleet().total() <= self.group.settings().max || self.group.settings().max == 0);
    }

    fn runner_event(&mut self, name: &RunnerName, event: Event) {
        let (runner, _) = runner_machine::step(self.runners[name].clone(), event, self.now);
        self.runners.insert(name.clone(), runner.clone());
        let effects = self.group.runner_changed(Arc::new(runner), self.now);
        self.run(effects);
    }

    fn deliver(&mut self, id: &str, job: u64, action: JobAction, runner: Option<&RunnerName>) {
        self.cursor += 1;
        let mut delivery = delivery(id, job, action);
        delivery.received_at = self.now;
        delivery.event.runner = runner.map(|name| RunnerRef { id: None, name: name.to_string() });
        if action == JobAction::Completed {
            delivery.event.conclusion = Some("success".into());
        }
        let entry = InboxEntry { cursor: Cursor(self.cursor), delivery, assigned: true, known: None };
        let effects = self.group.delivered(entry, self.now);
        self.run(effects);
    }

    fn pass(&mut self, seconds: i64) {
        self.now += jiff::SignedDuration::from_secs(seconds);
        let effects = self.group.tick(self.now);
        self.run(effects);
    }

    fn in_state(&self, state: RunnerState) -> Vec<RunnerName> {
        self.runners.values().filter(|r| r.state == state).map(|r| r.name.clone()).collect()
    }

    fn start_all(&mut self) {
        for name in self.in_state(RunnerState::Registering) {
            let id = RunnerId(self.runners.len() as u64 + mix(name.as_str().len() as u64) % 1000);
            let jit_config = crate::model::secret::Secret::new("jit".into());
            self.runner_event(&name, Event::Registered { id, jit_config });
            self.runner_event(&name, Event::Created(InstanceId::new(name.as_str()).unwrap()));
        }
    }

    fn finish_removals(&mut self) {
        for name in self.in_state(RunnerState::Deleting) {
            self.runner_event(&name, Event::Deregistered(Ok(crate::port::github::Deregistered::Absent)));
            self.runner_event(&name, Event::InstanceDeleted(Ok(())));
        }
    }

    fn list(&mut self, registered: Vec<RemoteRunner>, instances: Vec<Instance>) {
        let listing = Listing { at: self.now, registered: Ok(Arc::new(registered)), instances: listed(Ok(instances)) };
        let effects = self.group.listed(&listing, self.now);
        self.run(effects);
    }
}

fn remote(name: &str, online: bool, busy: bool) -> RemoteRunner {
    RemoteRunner {
        id: RunnerId(77),
        name: name.into(),
        online,
        busy,
        labels: vec!["self-hosted".into(), "managed-by-test".into()],
    }
}

fn instance(name: &str, status: InstanceStatus) -> Instance {
    Instance { id: InstanceId::new(format!("i-{name}")).unwrap(), runner: RunnerName::new(name).unwrap(), status }
}

use JobAction::{Completed, InProgress, Queued};

#[test]
fn a_queued_job_gets_a_runner_at_once_and_a_freed_place_serves_the_oldest_waiting_job() {
    let mut w = World::new(0, 2);
    for job in 1..=3 {
        w.deliver(&format!("q{job}"), job, Queued, None);
    }
    assert_eq!(w.in_state(RunnerState::Registering).len(), 2);
    assert!(matches!(
        w.group.job(JobId(3)).unwrap().timeline.last().unwrap().what,
        Milestone::WaitingForCapacity { ahead: 2, runners: 2, max: 2 }
    ));
    w.start_all();
    let first = w.group.fleet().requested_for(JobId(1)).unwrap().clone();
    w.deliver("p1", 1, InProgress, Some(&first));
    w.deliver("c1", 1, Completed, Some(&first));
    assert_eq!(w.in_state(RunnerState::Registering).len(), 0, "a deleting runner still holds its place");
    w.finish_removals();
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1);
    let third = w.in_state(RunnerState::Registering)[0].clone();
    assert_eq!(w.runners[&third].for_job, Some(JobId(3)));
}

#[test]
fn a_foreign_runner_releases_demand_and_the_surplus_runner_serves_the_next_job_or_is_scaled_down() {
    let mut w = World::new(0, 5);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    w.deliver("p1", 1, InProgress, Some(&RunnerName::new("somebody-elses").unwrap()));
    assert!(w.group.demand().is_empty());
    w.deliver("q2", 2, Queued, None);
    assert_eq!(w.runners.len(), 1, "the surplus runner serves it");
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.deliver("c2", 2, Completed, None);
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    w.pass(299);
    assert_eq!(w.in_state(RunnerState::Idle).len(), 1);
    w.pass(1);
    assert_eq!(w.in_state(RunnerState::Deleting).len(), 1, "idle for its time-out");
}

#[test]
fn runners_swap_jobs_and_both_jobs_are_served() {
    let mut w = World::new(0, 5);
    w.deliver("q1", 1, Queued, None);
    w.deliver("q2", 2, Queued, None);
    w.start_all();
    let of = |w: &World, job| w.runners.values().find(|r| r.for_job == Some(JobId(job))).unwrap().name.clone();
    let (one, two) = (of(&w, 1), of(&w, 2));
    w.deliver("p1", 1, InProgress, Some(&two));
    w.deliver("p2", 2, InProgress, Some(&one));
    assert_eq!(w.runners[&two].job, Some(JobId(1)));
    w.deliver("c1", 1, Completed, Some(&two));
    assert_eq!(w.runners[&two].state, RunnerState::Deleting);
    assert_eq!(w.runners[&one].state, RunnerState::Busy);
}

#[test]
fn min_runners_are_kept_beyond_demand() {
    let mut w = World::new(2, 5);
    w.pass(0);
    assert_eq!(w.runners.len(), 2);
    w.deliver("q1", 1, Queued, None);
    assert_eq!(w.runners.len(), 3);
}

#[test]
fn failures_back_off_and_one_runner_at_a_time_tries_again() {
    let mut w = World::new(0, 5);
    for job in 1..=3 {
        w.deliver(&format!("q{job}"), job, Queued, None);
    }
    for name in w.in_state(RunnerState::Registering) {
        let error = crate::port::GitHubError::Forbidden("no".into());
        w.runner_event(&name, Event::RegisterFailed(error));
    }
    assert_eq!(w.in_state(RunnerState::Failed).len(), 3);
    assert_eq!(w.group.snapshot().failures, 1, "tried side by side, failed once");
    assert_eq!(w.in_state(RunnerState::Registering).len(), 0);
    w.pass(4);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1, "one probe");
    w.start_all();
    let probe = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&probe, Event::RegistrationLookedUp(Ok(Some(remote(probe.as_str(), true, false)))));
    assert_eq!(w.group.snapshot().failures, 0);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 2, "it works again: all go");
    let failed = w
        .group
        .job(JobId(1))
        .unwrap()
        .timeline
        .iter()
        .any(|e| matches!(&e.what, Milestone::RunnerFailed { error, .. } if error.contains("permission")));
    assert!(failed, "the job's timeline has the error");
}

#[test]
fn a_rate_limit_is_obeyed_by_the_whole_group() {
    let mut w = World::new(0, 5);
    w.deliver("q1", 1, Queued, None);
    let name = w.in_state(RunnerState::Registering)[0].clone();
    let retry_after = Duration::from_secs(90);
    w.runner_event(
        &name,
        Event::RegisterFailed(crate::port::GitHubError::RateLimited { text: "slow".into(), retry_after }),
    );
    w.deliver("q2", 2, Queued, None);
    w.pass(89);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 0);
    w.pass(1);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1);
}

#[test]
fn a_busy_runner_is_deleted_only_by_force() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.deliver("p1", 1, InProgress, Some(&name));
    assert!(
        matches!(w.group.delete_runner(&name, false), Err(Refusal::Conflict(why)) if why.contains("busy with job 1"))
    );
    let effects = w.group.delete_runner(&name, true).unwrap();
    w.run(effects);
    assert_eq!(w.in_state(RunnerState::Deleting).len(), 1);
}

#[test]
fn a_drained_group_creates_nothing_and_lets_idle_ones_go() {
    let mut w = World::new(1, 3);
    w.pass(0);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    let effects = w.group.drain(w.now);
    w.run(effects);
    w.finish_removals();
    w.deliver("q1", 1, Queued, None);
    assert_eq!(w.group.fleet().total(), 0);
    assert!(w.group.create_runner(w.now).is_err());
    let effects = w.group.resume(w.now);
    w.run(effects);
    assert_eq!(w.group.fleet().total(), 2);
}

#[test]
fn a_delivery_behind_the_cursor_has_no_second_effect() {
    let mut w = World::new(0, 5);
    w.deliver("q1", 1, Queued, None);
    w.cursor = 0;
    w.deliver("q1", 1, Queued, None);
    assert_eq!(w.runners.len(), 1);
}

#[test]
fn a_job_known_as_final_to_the_store_is_not_revived() {
    let mut w = World::new(0, 5);
    let mut known = job_machine::new(facts(1), Some(GroupName::new("octo").unwrap()), w.now);
    job_machine::apply(&mut known, &delivery("c", 1, Completed));
    let entry =
        InboxEntry { cursor: Cursor(1), delivery: delivery("q", 1, Queued), assigned: true, known: Some(known) };
    let effects = w.group.delivered(entry, w.now);
    w.run(effects);
    assert!(w.runners.is_empty());
}

#[test]
fn a_runner_that_took_a_job_of_another_group_that_is_over_has_nothing_more_to_do() {
    let mut w = World::new(1, 1);
    w.pass(0);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    let mut known = job_machine::new(facts(1), Some(GroupName::new("other").unwrap()), w.now);
    job_machine::apply(&mut known, &delivery("c", 1, Completed));
    let mut late = delivery("p", 1, InProgress);
    late.event.runner = Some(RunnerRef { id: None, name: name.to_string() });
    let mut tell = |cursor, known: &Job| {
        let (cursor, known) = (Cursor(cursor), Some(known.clone()));
        let effects = w.group.delivered(InboxEntry { cursor, delivery: late.clone(), assigned: false, known }, w.now);
        w.run(effects);
        w.runners[&name].state
    };
    let forgotten = Job { conclusion: Some(job_machine::FORGOTTEN.to_owned()), ..known.clone() };
    assert_eq!(tell(1, &forgotten), RunnerState::Starting, "it may run: GitHub only did not know it");
    assert_eq!(tell(2, &known), RunnerState::Deleting, "its job never ends again");
}

#[test]
fn final_jobs_at_hand_stay_bounded() {
    let mut w = World::new(0, 1);
    for job in 1..=3000 {
        w.deliver(&format!("c{job}"), job, Completed, None);
        w.group.take_changes();
    }
    assert!(w.group.jobs.len() <= FINAL_JOBS_MAX + 1);
}

#[test]
fn settings_of_any_length_end_at_the_end_of_time() {
    let mut endless = settings("octo", 1, 2);
    endless.idle_timeout = Duration::MAX;
    endless.healthcheck_interval = Duration::MAX;
    let loaded = Loaded { snapshot: Some(GroupSnapshot::default()), ..Loaded::default() };
    let now = Timestamp::from_second(1000).unwrap();
    let mut group = Group::new(Arc::new(endless), &ManagerName::new("test").unwrap(), loaded, 1, now);
    assert_eq!(group.tick(now).len(), 2);
    assert_eq!(group.wake_at(now), Timestamp::MAX);
}

#[test]
fn a_foreign_runner_of_another_scope_that_has_the_same_id_is_not_taken_for_ours() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let ours = w.in_state(RunnerState::Starting)[0].clone();
    w.deliver("p1", 1, InProgress, Some(&ours));
    let mut foreign = delivery("c9", 9, Completed);
    foreign.event.runner = Some(RunnerRef { id: w.runners[&ours].github_id, name: "raspberry".into() });
    w.cursor += 1;
    let entry = InboxEntry { cursor: Cursor(w.cursor), delivery: foreign, assigned: true, known: None };
    let effects = w.group.delivered(entry, w.now);
    w.run(effects);
    assert_eq!(w.in_state(RunnerState::Busy), [ours]);
}

#[test]
fn news_of_a_job_stays_until_the_saved_runner_shows_it() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    let idle = w.runners[&name].clone();
    // The event names the runner while its save of something older is still out.
    let mut event = delivery("p1", 1, InProgress);
    event.event.runner = Some(RunnerRef { id: None, name: name.to_string() });
    let entry = InboxEntry { cursor: Cursor(2), delivery: event, assigned: true, known: None };
    drop(w.group.delivered(entry, w.now));
    let told = |w: &World| w.group.snapshot().unsettled.contains_key(&name);
    let leaving = runner_machine::step(idle.clone(), Event::ScaleDown, w.now).0;
    drop(w.group.runner_changed(Arc::new(leaving.clone()), w.now));
    assert!(told(&w), "it was leaving before it heard");
    let mut seen_busy = idle;
    seen_busy.state = RunnerState::Busy;
    drop(w.group.runner_changed(Arc::new(seen_busy), w.now));
    assert!(told(&w), "it is busy, and does not know with what");
    let kept = runner_machine::step(leaving, Event::JobStarted(JobId(1)), w.now).0;
    drop(w.group.runner_changed(Arc::new(kept), w.now));
    assert!(!told(&w));
}

#[test]
fn a_burst_that_fails_together_waits_no_longer_than_one_that_fails() {
    let mut w = World::new(0, 50);
    for job in 1..=50 {
        w.deliver(&format!("q{job}"), job, Queued, None);
    }
    for name in w.in_state(RunnerState::Registering) {
        w.runner_event(&name, Event::RegisterFailed(crate::port::GitHubError::Forbidden("no".into())));
    }
    w.pass(1);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 1, "the first probe after a second");
    for failures in 2..=4 {
        let probe = w.in_state(RunnerState::Registering)[0].clone();
        w.runner_event(&probe, Event::RegisterFailed(crate::port::GitHubError::Forbidden("no".into())));
        assert_eq!(w.group.snapshot().failures, failures);
        w.pass(300);
    }
}

#[test]
fn runners_that_never_come_online_again_and_again_are_one_alarm_with_its_likely_cause() {
    let mut w = World::new(0, 1);
    w.deliver("q1", 1, Queued, None);
    for count in 1..=4 {
        while w.in_state(RunnerState::Registering).is_empty() {
            w.pass(60);
        }
        w.start_all();
        let name = w.in_state(RunnerState::Starting)[0].clone();
        w.pass(3600);
        w.runner_event(&name, Event::RegistrationLookedUp(Ok(None)));
        w.runner_event(&name, Event::Deregistered(Ok(crate::port::github::Deregistered::Absent)));
        w.runner_event(&name, Event::InstanceDeleted(Ok(())));
        let text = &w.group.snapshot().last_error.as_ref().unwrap().text;
        let alarm = text.starts_with(&format!("{count} runners in a row were created and never came online"));
        assert_eq!(alarm && text.contains("older than GitHub accepts"), count >= 3, "{text}");
        assert!(text.contains(name.as_str()), "{text}");
    }
    while w.in_state(RunnerState::Registering).is_empty() {
        w.pass(60);
    }
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    assert_eq!(w.group.snapshot().never_online, 0);
}

#[test]
fn a_runner_that_was_quick_proves_that_it_works_again() {
    let mut w = World::new(0, 5);
    for job in 1..=3 {
        w.deliver(&format!("q{job}"), job, Queued, None);
    }
    for name in w.in_state(RunnerState::Registering) {
        w.runner_event(&name, Event::RegisterFailed(crate::port::GitHubError::Forbidden("no".into())));
    }
    w.pass(4);
    w.start_all();
    // Its job is over before anything between was saved.
    let probe = w.in_state(RunnerState::Starting)[0].clone();
    let effects = w.group.delivered(
        InboxEntry {
            cursor: Cursor(9),
            delivery: Delivery {
                event: JobEvent {
                    runner: Some(RunnerRef { id: None, name: probe.to_string() }),
                    ..delivery("c1", 1, Completed).event
                },
                ..delivery("c1", 1, Completed)
            },
            assigned: true,
            known: None,
        },
        w.now,
    );
    w.run(effects);
    assert_eq!(w.runners[&probe].state, RunnerState::Deleting);
    assert_eq!(w.group.snapshot().failures, 0);
    assert_eq!(w.in_state(RunnerState::Registering).len(), 2);
}

#[test]
fn a_runner_that_does_not_leave_at_once_is_told_again_without_haste() {
    let mut w = World::new(0, 2);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    w.runner_event(&name, Event::RegistrationLookedUp(Ok(Some(remote(name.as_str(), true, false)))));
    w.deliver("c1", 1, Completed, None);
    w.pass(299);
    assert_eq!(w.group.wake_at(w.now), w.now + Duration::from_secs(1));
    w.now += jiff::SignedDuration::from_secs(1);
    // Its save is stuck, or its actor is parked: it stays idle for all that the group knows.
    assert!(w.group.tick(w.now).iter().any(|e| matches!(e, Effect::Tell(_, Event::ScaleDown))));
    assert!(w.group.wake_at(w.now) >= w.now + Duration::from_secs(1));
}

#[test]
fn a_place_behind_the_cursor_is_not_read_again_whatever_is_in_it() {
    let mut w = World::new(0, 5);
    w.deliver("q1", 1, Queued, None);
    let entry = InboxEntry { cursor: Cursor(1), delivery: delivery("q2", 2, Queued), assigned: true, known: None };
    assert!(w.group.delivered(entry, w.now).is_empty());
    assert!(w.group.job(JobId(2)).is_none());
}

#[test]
fn a_job_whose_runner_ran_another_one_is_still_owed_one() {
    let mut w = World::new(0, 1);
    w.deliver("q1", 1, Queued, None);
    w.deliver("q2", 2, Queued, None);
    w.start_all();
    let name = w.in_state(RunnerState::Starting)[0].clone();
    assert_eq!(w.runners[&name].for_job, Some(JobId(1)));
    w.deliver("p2", 2, InProgress, Some(&name));
    w.deliver("c2", 2, Completed, Some(&name));
    assert!(w.group.demand().contains(JobId(1)));
    w.finish_removals();
    let next = w.in_state(RunnerState::Registering);
    assert_eq!((next.len(), w.runners[&next[0]].for_job), (1, Some(JobId(1))));
}

#[test]
fn news_that_no_saved_runner_shows_is_told_again_after_a_restart() {
    let mut w = World::new(0, 5);
    w.deliver("q1", 1, Queued, None);
    w.start_all();
    let runner = w.runners.values().next().unwrap().clone();
    let mut snapshot = w.group.snapshot().clone();
    snapshot.unsettled.insert(runner.name.clone(), crate::model::group::JobNews { job: JobId(1), completed: false });
    let w = World::with(0, 5, Loaded { snapshot: Some(snapshot), runners: vec![runner], ..Loaded::default() });
    assert_eq!(w.in_state(RunnerState::Busy).len(), 1);
    assert!(w.group.snapshot().unsettled.is_empty());
}
