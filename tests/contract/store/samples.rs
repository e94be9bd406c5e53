//! Things to store, and shorthands to store them with.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actors::id::{Attempt, Cursor, DeliveryId, GroupName, JobId, RepositoryId, RunnerId, RunnerName};
use actors::model::delivery::{Delivery, JobAction, JobEvent, JobFacts, RepositoryRef, RunnerRef};
use actors::model::group::{GroupSnapshot, Healthcheck, JobNews, LastError};
use actors::model::job::{Job, JobStatus, Milestone};
use actors::model::runner::{DeleteReason, Removal, Runner, RunnerState, Transition};
use actors::port::store::{Changes, InboxEntry, Loaded, Recorded, Route, Store};
use jiff::Timestamp;

/// A time, in seconds after a fixed one.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_760_000_000 + seconds).unwrap()
}

/// A group's name.
pub fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// A delivery about a job, received so many seconds after the fixed time.
pub fn delivery(id: &str, job: u64, action: JobAction, seconds: i64) -> Delivery {
    Delivery {
        id: DeliveryId::new(id).unwrap(),
        received_at: at(seconds),
        event: JobEvent {
            action,
            job: facts(job),
            runner: (action == JobAction::InProgress)
                .then(|| RunnerRef { id: Some(RunnerId(job + 7)), name: format!("octo-linux-{job:08}") }),
            conclusion: (action == JobAction::Completed).then(|| "success".to_owned()),
        },
        matched: "it is the only group".to_owned(),
    }
}

/// What GitHub says of a job.
pub fn facts(id: u64) -> JobFacts {
    JobFacts {
        id: JobId(id),
        run_id: id / 2,
        run_attempt: Some(1),
        name: format!("build ({id}, \"ünïcode\")"),
        workflow_name: Some("CI".to_owned()),
        head_branch: None,
        labels: vec!["self-hosted".to_owned(), "octo-linux".to_owned(), "X64".to_owned()],
        repository: RepositoryRef {
            id: RepositoryId(11),
            owner: "octo-org".to_owned(),
            name: "app".to_owned(),
            private: true,
        },
        organization: Some("octo-org".to_owned()),
        enterprise: None,
        installation_id: Some(4),
        created_at: Some(at(0)),
        started_at: None,
        completed_at: None,
    }
}

/// A job in a status, received so many seconds after the fixed time and, if final, finished 10 s later.
pub fn job(id: u64, group: Option<&GroupName>, status: JobStatus, seconds: i64) -> Job {
    let mut job = Job {
        facts: facts(id),
        group: group.cloned(),
        status,
        received_at: at(seconds),
        queued_at: Some(at(seconds)),
        taken_at: None,
        finished_at: (status == JobStatus::Completed).then(|| at(seconds + 10)),
        conclusion: (status == JobStatus::Completed).then(|| "success".to_owned()),
        runner: None,
        queued_by: BTreeSet::from([DeliveryId::new(format!("q-{id}")).unwrap()]),
        waiting_by: BTreeSet::new(),
        verified: 0,
        verify_at: None,
        timeline: Vec::new(),
    };
    job.note(at(seconds), Milestone::Unmatched { reason: "no group has the label \"gpu\"".to_owned() });
    job
}

/// A runner in a state since so many seconds after the fixed time.
pub fn runner(group: &GroupName, suffix: u64, state: RunnerState, seconds: i64) -> Runner {
    Runner {
        name: group.runner_name(suffix),
        group: group.clone(),
        attempt: Attempt(2),
        backend: "docker".to_owned(),
        fallbacks: vec![],
        tried: vec![],
        state,
        since: at(seconds),
        created_at: at(0),
        online_at: None,
        for_job: Some(JobId(suffix)),
        for_delivery_at: Some(at(0)),
        job: None,
        github_id: Some(RunnerId(suffix)),
        instance: None,
        time_to_start: Duration::from_millis(600_001),
        time_to_live: Duration::from_secs(43_200),
        removal: (state == RunnerState::Deleting).then_some(Removal {
            reason: DeleteReason::ScaledDown,
            deregistered: true,
            instance_deleted: false,
            deregister_first: true,
        }),
        retry_at: Some(at(seconds + 1)),
        retries: 3,
        call_pending: true,
        missed: 1,
        error: Some("no capacity\nin zone a".to_owned()),
        history: vec![Transition { state, at: at(seconds), reason: "it was time".to_owned() }],
    }
}

/// A snapshot that has read its inbox up to a place.
pub fn snapshot(cursor: Cursor) -> GroupSnapshot {
    GroupSnapshot {
        cursor,
        drained: true,
        looking: true,
        failures: 2,
        // As read from a release that did not know it.
        never_online: 0,
        not_before: Some(at(60)),
        last_error: Some(LastError { at: at(1), text: "create failed: quota".to_owned() }),
        last_healthcheck: Some(Healthcheck { at: at(2), registered: Some(3), instances: None, repairs: 1 }),
        unsettled: BTreeMap::from([(group("octo-linux").runner_name(4), JobNews { job: JobId(4), completed: true })]),
        breakers: BTreeMap::new(),
        suspects: BTreeMap::new(),
    }
}

/// A route to one group.
pub fn to(group: &GroupName) -> Route {
    Route { group: Some(group.clone()), ..Route::default() }
}

/// Changes of jobs alone.
pub fn jobs(jobs: impl IntoIterator<Item = Job>) -> Changes {
    Changes { jobs: jobs.into_iter().map(Arc::new).collect(), ..Changes::default() }
}

/// Changes of runners alone.
pub fn runners(runners: impl IntoIterator<Item = Runner>) -> Changes {
    Changes { runners: runners.into_iter().map(Arc::new).collect(), ..Changes::default() }
}

/// Changes of the snapshot alone.
pub fn cursor(cursor: Cursor) -> Changes {
    Changes { snapshot: Some(snapshot(cursor)), ..Changes::default() }
}

/// Before every place in an inbox.
pub const START: Cursor = Cursor(0);
/// More than any test stores.
pub const ALL: usize = 100_000;

/// Records a delivery.
pub async fn record(store: &Arc<dyn Store>, delivery: Delivery, route: Route) -> Recorded {
    store.record(Arc::new(delivery), route).await.unwrap()
}

/// Records that a job was queued, for one group.
pub async fn queue(store: &Arc<dyn Store>, id: &str, job: u64, to_group: &GroupName) -> Recorded {
    record(store, delivery(id, job, JobAction::Queued, 0), to(to_group)).await
}

/// A whole inbox.
pub async fn inbox(store: &Arc<dyn Store>, group: &GroupName) -> Vec<InboxEntry> {
    store.inbox(group, START, ALL).await.unwrap()
}

/// The ids of deliveries.
pub fn ids(entries: &[InboxEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.delivery.id.as_str()).collect()
}

/// In an order that two can be compared in.
pub fn sorted(mut loaded: Loaded) -> Loaded {
    loaded.runners.sort_by(|a, b| a.name.cmp(&b.name));
    loaded.jobs.sort_by_key(Job::id);
    loaded
}

/// A job with one of each milestone in its timeline.
/// Those that the first release knew; what it wrote is compared with this.
pub fn every_milestone(mut job: Job) -> Job {
    let (runner, group) = (RunnerName::new("octo-00000001").unwrap(), group("octo"));
    let reason = || "it says so".to_owned();
    for (what, seconds) in [
        Milestone::Received { action: "queued".to_owned(), delivery: DeliveryId::new("d-1").unwrap() },
        Milestone::Matched { group, reason: reason() },
        Milestone::Unmatched { reason: reason() },
        Milestone::WaitingForCapacity { ahead: 3, runners: 2, max: 2 },
        Milestone::Held { reason: reason(), until: Some(at(9)) },
        Milestone::WaitingForApproval,
        Milestone::RunnerRequested { runner: runner.clone() },
        Milestone::RunnerRegistered { runner: runner.clone() },
        Milestone::InstanceCreated { runner: runner.clone(), instance: "i-1".to_owned() },
        Milestone::RunnerOnline { runner: runner.clone() },
        Milestone::RunnerFailed { runner, error: "quota".to_owned() },
        Milestone::Taken { runner: "octo-00000001".to_owned(), ours: true },
        Milestone::Finished { conclusion: "success".to_owned() },
    ]
    .into_iter()
    .zip(1..)
    {
        job.note(at(seconds), what);
    }
    job
}
