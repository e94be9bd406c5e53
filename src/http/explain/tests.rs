//! One situation per row.

use std::collections::BTreeSet;
use std::time::Duration;

use actors::id::{Attempt, JobId, RepositoryId, RunnerId, RunnerName};
use actors::model::delivery::{JobFacts, RepositoryRef, RunnerRef};
use actors::model::group::{Breaker, LastError};
use actors::model::job::TimelineEntry;
use actors::model::settings::{BackendLimits, Scope};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn job(status: JobStatus) -> Job {
    Job {
        facts: JobFacts {
            id: JobId(1),
            run_id: 1,
            run_attempt: None,
            name: "build".into(),
            workflow_name: None,
            head_branch: None,
            labels: vec!["linux".into()],
            repository: RepositoryRef { id: RepositoryId(1), owner: "octo".into(), name: "app".into(), private: true },
            organization: None,
            enterprise: None,
            installation_id: None,
            created_at: None,
            started_at: None,
            completed_at: None,
        },
        group: Some(GroupName::new("octo").unwrap()),
        status,
        received_at: at(0),
        queued_at: Some(at(0)),
        taken_at: None,
        finished_at: None,
        conclusion: None,
        runner: None,
        queued_by: BTreeSet::new(),
        waiting_by: BTreeSet::new(),
        verified: 0,
        verify_at: None,
        timeline: Vec::new(),
    }
}

fn settings() -> GroupSettings {
    GroupSettings {
        time_to_start: Duration::from_secs(600),
        time_to_live: Duration::from_secs(3600),
        backends: vec![BackendLimits {
            create_timeout: Duration::from_secs(60),
            delete_timeout: Duration::from_secs(60),
            max_concurrency: 1,
            ..BackendLimits::new("base")
        }],
        ..GroupSettings::new(
            GroupName::new("octo").unwrap(),
            Scope::Organization("octo".into()),
            vec!["linux".into()],
            3,
        )
    }
}

fn runner(state: RunnerState) -> Runner {
    let requested = Runner::requested(RunnerName::new("octo-0a1b2c3d").unwrap(), &settings(), Attempt(1), at(60));
    Runner { state, for_job: Some(JobId(1)), ..requested }
}

fn fleet(states: &[(RunnerState, u32)]) -> [u32; RunnerState::ALL.len()] {
    RunnerState::ALL.map(|state| states.iter().filter(|(s, _)| *s == state).map(|(_, n)| n).sum())
}

/// The answer 100 s after the job was queued, in a situation changed by `change`.
fn ask(job: &Job, change: impl FnOnce(&mut Situation<'_>)) -> String {
    let (settings, health, snapshot) = (settings(), Health::Running, GroupSnapshot::default());
    let mut situation = Situation {
        job,
        group: Some((&settings, &health)),
        snapshot: &snapshot,
        runners: fleet(&[]),
        ahead: 0,
        requested: None,
        now: at(100),
    };
    change(&mut situation);
    answer(&situation)
}

#[test]
fn a_job_without_a_place_learns_its_position() {
    let job = job(JobStatus::Queued);
    let busy = fleet(&[(RunnerState::Busy, 2), (RunnerState::Deleting, 1), (RunnerState::Gone, 9)]);
    assert_eq!(
        ask(&job, |s| {
            s.runners = busy;
            s.ahead = 4;
        }),
        "It waits for a place in group octo: 3 of at most 3 runners exist (2 busy, 1 deleting); 4 jobs are ahead of it."
    );
    assert_eq!(ask(&job, |_| {}), "Group octo is about to request a runner for it; no job is ahead of it.");
}

#[test]
fn a_job_held_by_back_off_learns_the_error_and_the_time() {
    let job = job(JobStatus::Queued);
    let snapshot = GroupSnapshot {
        failures: 3,
        not_before: Some(at(190)),
        last_error: Some(LastError { at: at(90), text: "quota exceeded: 8 CPUs.".into() }),
        ..GroupSnapshot::default()
    };
    let mut situation = Situation {
        job: &job,
        group: None,
        snapshot: &snapshot,
        runners: fleet(&[(RunnerState::Failed, 3)]),
        ahead: 1,
        requested: None,
        now: at(100),
    };
    let settings = settings();
    situation.group = Some((&settings, &Health::Running));
    assert_eq!(
        answer(&situation),
        "Group octo tries again in 1 min 30 s, because the last 3 attempts to start a runner failed: \
         quota exceeded: 8 CPUs; 1 job is ahead of it."
    );
    situation.now = at(190);
    assert_eq!(answer(&situation), "Group octo is about to request a runner for it; 1 job is ahead of it.");
    let drained = GroupSnapshot { drained: true, ..GroupSnapshot::default() };
    situation.snapshot = &drained;
    assert_eq!(
        answer(&situation),
        "Group octo is drained and creates no runners until it is resumed; 1 job is ahead of it."
    );
}

#[test]
fn a_job_whose_groups_backends_all_fail_learns_which_comes_first_and_when() {
    let job = job(JobStatus::Queued);
    let mut settings = settings();
    settings.backends = vec![BackendLimits::new("aws"), BackendLimits::new("docker")];
    let breaker = |until| Breaker {
        failures: 5,
        opened: 1,
        state: BreakerState::Open { until },
        error: LastError { at: at(99), text: "no capacity: none in this zone.".into() },
    };
    let mut snapshot = GroupSnapshot { failures: 5, not_before: Some(at(103)), ..GroupSnapshot::default() };
    snapshot.breakers.insert("aws".into(), breaker(at(170)));
    let ask = |snapshot: &GroupSnapshot| {
        answer(&Situation {
            job: &job,
            group: Some((&settings, &Health::Running)),
            snapshot,
            runners: fleet(&[]),
            ahead: 0,
            requested: None,
            now: at(100),
        })
    };
    assert!(ask(&snapshot).starts_with("Group octo tries again in 3 s"), "{}", ask(&snapshot));
    snapshot.breakers.insert("docker".into(), breaker(at(130)));
    assert_eq!(
        ask(&snapshot),
        "Group octo leaves backend docker alone for 30 s after 5 failures in a row: no capacity: none in this zone; \
         no job is ahead of it."
    );
}

#[test]
fn a_job_whose_group_cannot_act_learns_so() {
    let job = job(JobStatus::Queued);
    let (settings, snapshot) = (settings(), GroupSnapshot::default());
    let parked = Health::Parked { error: "the store is unavailable: disk full.".into() };
    let mut situation = Situation {
        job: &job,
        group: Some((&settings, &parked)),
        snapshot: &snapshot,
        runners: fleet(&[]),
        ahead: 0,
        requested: None,
        now: at(100),
    };
    assert_eq!(
        answer(&situation),
        "Group octo is stopped after repeated failures and is started again every few minutes, or at once by the message \"reset\"; the last one: \
         the store is unavailable: disk full."
    );
    situation.group = None;
    assert_eq!(answer(&situation), "Group octo, which serves it, is not configured any more.");
}

#[test]
fn a_job_with_a_runner_on_its_way_learns_which_and_since_when() {
    let job = job(JobStatus::Queued);
    let (settings, snapshot) = (settings(), GroupSnapshot::default());
    let about = |state| {
        let runner = runner(state);
        answer(&Situation {
            job: &job,
            group: Some((&settings, &Health::Running)),
            snapshot: &snapshot,
            runners: fleet(&[(state, 1)]),
            ahead: 0,
            requested: Some(&runner),
            now: at(100),
        })
    };
    assert_eq!(
        about(RunnerState::Starting),
        "Runner octo-0a1b2c3d was requested for it 40 s ago and is starting; it is replaced if it is not online \
         within 10 min."
    );
    assert_eq!(
        about(RunnerState::Provisioning),
        "Runner octo-0a1b2c3d was requested for it 40 s ago and is provisioning."
    );
    assert_eq!(
        about(RunnerState::Idle),
        "Runner octo-0a1b2c3d, requested for it 40 s ago, is online: GitHub is to give it a job."
    );
    assert!(about(RunnerState::Busy).starts_with("Group octo is about to request"), "another job took its runner");
}

#[test]
fn a_job_that_another_jobs_runner_can_serve_learns_so() {
    let job = job(JobStatus::Queued);
    let runners = fleet(&[(RunnerState::Idle, 1), (RunnerState::Starting, 2)]);
    assert_eq!(
        ask(&job, |s| s.runners = runners),
        "In group octo 1 runner is online and idle: GitHub is to give it to one."
    );
    assert_eq!(
        ask(&job, |s| {
            s.runners = runners;
            s.ahead = 1;
        }),
        "In group octo 2 runners are being started, enough to serve it; 1 job is ahead of it."
    );
    assert!(
        ask(&job, |s| {
            s.runners = runners;
            s.ahead = 3;
        })
        .starts_with("It waits for a place"),
    );
}

#[test]
fn a_job_that_is_not_queued_learns_what_became_of_it() {
    assert_eq!(
        ask(&job(JobStatus::Waiting), |_| {}),
        "It waits for an approval at GitHub; a runner is requested once GitHub queues it again."
    );

    let mut unmatched = job(JobStatus::Unmatched);
    unmatched.group = None;
    let why = |reason: &str| TimelineEntry { at: at(0), what: Milestone::Unmatched { reason: reason.into() } };
    unmatched.timeline = vec![why("old"), why("no group has the label gpu.")];
    assert_eq!(ask(&unmatched, |s| s.group = None), "No runner group serves it: no group has the label gpu.");

    let mut taken = job(JobStatus::InProgress);
    taken.taken_at = Some(at(30));
    taken.runner = Some(RunnerRef { id: Some(RunnerId(7)), name: "octo-0a1b2c3d".into() });
    assert_eq!(ask(&taken, |_| {}), "It is not queued any more: runner octo-0a1b2c3d took it 1 min 10 s ago.");

    let mut done = taken;
    done.status = JobStatus::Completed;
    done.finished_at = Some(at(90));
    done.conclusion = Some("success".into());
    assert_eq!(
        ask(&done, |_| {}),
        "It is not queued any more: it finished 10 s ago with the conclusion success; runner octo-0a1b2c3d took it."
    );
    done.runner = None;
    done.conclusion = Some("cancelled".into());
    assert!(ask(&done, |_| {}).ends_with("with the conclusion cancelled; no runner took it."));
}

#[test]
fn ages_are_spelt_in_two_units() {
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86_400, "1 d"),
        (90_061, "1 d 1 h"),
    ] {
        assert_eq!(spell(seconds), text);
    }
}
