//! What every adapter of the Store port must keep: one test per promise, the same for all.
//!
//! An adapter's test file includes this as a module, implements [`Adapter`] and calls `store_contract!`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actors::id::{Attempt, Cursor, DeliveryId, FencingToken, GroupName, JobId, RepositoryId, RunnerId, RunnerName};
use actors::model::delivery::{Delivery, JobAction, JobEvent, JobFacts, RepositoryRef, RunnerRef};
use actors::model::group::{GroupSnapshot, Healthcheck, LastError};
use actors::model::job::{Job, JobStatus, Milestone};
use actors::model::runner::{DeleteReason, Removal, Runner, RunnerState, Transition};
use actors::port::store::{
    Changes, Horizon, InboxEntry, JobFilter, Loaded, Recorded, Route, RunnerFilter, Store, StoreError,
};
use jiff::Timestamp;

/// A place for one store that starts empty. Dropped, it takes everything with it.
pub trait Adapter: Send + Sync {
    /// A new, empty place.
    fn new() -> impl Future<Output = Self> + Send;
    /// Opens the store. After `close` of an earlier one, it holds what that one held.
    fn open(&self) -> impl Future<Output = Arc<dyn Store>> + Send;
}

/// Makes a test of each promise for one adapter.
#[macro_export]
macro_rules! store_contract {
    ($adapter:ty: $($promise:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let adapter = <$adapter as $crate::store::Adapter>::new().await;
            $crate::store::$promise(&adapter).await;
        }
    )+};
    ($adapter:ty) => {
        $crate::store_contract! {$adapter:
            an_empty_store_knows_nothing_and_says_so_without_an_error
            a_recorded_delivery_is_in_the_inbox_of_its_group_as_it_came
            a_delivery_id_is_recorded_once
            a_job_stays_with_the_group_of_its_first_recorded_delivery
            a_saved_job_stays_with_its_group_even_if_no_delivery_came_first
            a_delivery_that_names_a_runner_of_another_group_is_in_both_inboxes
            a_delivery_for_a_runner_alone_is_not_assigned
            an_unmatched_job_is_kept_replaced_and_forgotten_once_routed
            an_unmatched_job_does_not_replace_an_assigned_one
            an_inbox_is_read_in_order_from_any_place_in_any_portion
            inboxes_of_different_groups_are_apart
            an_entry_knows_the_job_as_it_was_saved
            a_delivery_for_a_final_job_is_still_in_the_inbox
            saved_deliveries_leave_the_inbox_and_places_are_not_used_again
            a_save_without_a_snapshot_leaves_the_inbox_alone
            what_was_saved_is_what_is_loaded
            final_runners_and_jobs_are_kept_but_not_loaded
            each_owner_gets_a_greater_token
            a_stale_owner_s_save_changes_nothing
            a_save_without_an_owner_is_refused
            jobs_are_listed_newest_first_and_filtered
            runners_are_listed_by_name_and_filtered
            what_is_past_its_time_is_forgotten_and_nothing_else
            a_forgotten_delivery_id_is_new_again
            more_than_one_step_of_pruning_is_carried_through
            concurrent_deliveries_are_each_recorded_once_in_one_order
            concurrent_saves_take_effect_in_the_order_of_their_calls
            concurrent_owners_all_get_different_tokens
            recovery_from_snapshot_and_inbox_equals_an_uninterrupted_run
            everything_is_still_there_when_opened_again
            numbers_and_texts_at_their_limits_come_back_unchanged
            a_probe_works_on_a_store_that_works
            a_closed_store_refuses_every_call
        }
    };
}

// ---- things to store ----

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
        error: Some("no capacity\nin zone a".to_owned()),
        history: vec![Transition { state, at: at(seconds), reason: "it was time".to_owned() }],
    }
}

/// A snapshot that has read its inbox up to a place.
pub fn snapshot(cursor: Cursor) -> GroupSnapshot {
    GroupSnapshot {
        cursor,
        drained: true,
        failures: 2,
        not_before: Some(at(60)),
        last_error: Some(LastError { at: at(1), text: "create failed: quota".to_owned() }),
        last_healthcheck: Some(Healthcheck { at: at(2), registered: Some(3), instances: None, repairs: 1 }),
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

const START: Cursor = Cursor(0);
const ALL: usize = 100_000;

async fn record(store: &Arc<dyn Store>, delivery: Delivery, route: Route) -> Recorded {
    store.record(Arc::new(delivery), route).await.unwrap()
}

async fn queue(store: &Arc<dyn Store>, id: &str, job: u64, to_group: &GroupName) -> Recorded {
    record(store, delivery(id, job, JobAction::Queued, 0), to(to_group)).await
}

async fn inbox(store: &Arc<dyn Store>, group: &GroupName) -> Vec<InboxEntry> {
    store.inbox(group, START, ALL).await.unwrap()
}

fn ids(entries: &[InboxEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.delivery.id.as_str()).collect()
}

fn sorted(mut loaded: Loaded) -> Loaded {
    loaded.runners.sort_by(|a, b| a.name.cmp(&b.name));
    loaded.jobs.sort_by_key(Job::id);
    loaded
}

// ---- the promises ----

pub async fn an_empty_store_knows_nothing_and_says_so_without_an_error(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let group = group("octo");
    assert_eq!(inbox(&store, &group).await, []);
    assert_eq!(store.load(&group).await, Ok(Loaded::default()));
    assert_eq!(store.group(&group).await, Ok(None));
    assert_eq!(store.job(JobId(1)).await, Ok(None));
    assert_eq!(store.runner(&RunnerName::new("octo-00000001").unwrap()).await, Ok(None));
    assert_eq!(store.jobs(&JobFilter { limit: ALL, ..JobFilter::default() }).await, Ok(vec![]));
    assert_eq!(store.runners(&RunnerFilter { limit: ALL, ..RunnerFilter::default() }).await, Ok(vec![]));
    let horizon = Horizon { deliveries: at(9999), jobs: at(9999), runners: at(9999) };
    assert_eq!(store.prune(horizon).await, Ok(0));
}

pub async fn a_recorded_delivery_is_in_the_inbox_of_its_group_as_it_came(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    for (n, action) in
        [JobAction::Queued, JobAction::Waiting, JobAction::InProgress, JobAction::Completed].into_iter().enumerate()
    {
        let sent = delivery(&format!("d-{n}"), 5, action, 1);
        assert_eq!(record(&store, sent.clone(), to(&octo)).await, Recorded::New(vec![octo.clone()]));
        let entries = inbox(&store, &octo).await;
        assert_eq!(entries.len(), n + 1);
        assert_eq!(entries[n].delivery, sent);
        assert!(entries[n].assigned);
        assert!(entries[n].cursor > START);
        assert_eq!(entries[n].known, None);
    }
}

pub async fn a_delivery_id_is_recorded_once(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (octo, other) = (group("octo"), group("other"));
    queue(&store, "d-1", 1, &octo).await;
    let before = inbox(&store, &octo).await;
    // Whatever else comes under the same id: nothing is written.
    assert_eq!(queue(&store, "d-1", 1, &octo).await, Recorded::Duplicate);
    assert_eq!(queue(&store, "d-1", 2, &other).await, Recorded::Duplicate);
    let unmatched = job(3, None, JobStatus::Unmatched, 0);
    let route = Route { unmatched: Some(Box::new(unmatched)), ..Route::default() };
    assert_eq!(record(&store, delivery("d-1", 3, JobAction::Queued, 0), route.clone()).await, Recorded::Duplicate);
    assert_eq!(inbox(&store, &octo).await, before);
    assert_eq!(inbox(&store, &other).await, []);
    assert_eq!(store.job(JobId(3)).await, Ok(None));
    // Job 2 was never assigned by the duplicate.
    assert_eq!(queue(&store, "d-2", 2, &octo).await, Recorded::New(vec![octo.clone()]));
    // An unmatched delivery has an id as well.
    assert_eq!(record(&store, delivery("d-3", 3, JobAction::Queued, 0), route).await, Recorded::New(vec![]));
    assert_eq!(queue(&store, "d-3", 3, &octo).await, Recorded::Duplicate);
    assert!(store.job(JobId(3)).await.unwrap().is_some());
}

pub async fn a_job_stays_with_the_group_of_its_first_recorded_delivery(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (first, second) = (group("first"), group("second"));
    queue(&store, "d-1", 1, &first).await;
    for (id, route) in [("d-2", to(&second)), ("d-3", Route::default())] {
        let recorded = record(&store, delivery(id, 1, JobAction::Completed, 1), route).await;
        assert_eq!(recorded, Recorded::New(vec![first.clone()]));
    }
    assert_eq!(ids(&inbox(&store, &first).await), ["d-1", "d-2", "d-3"]);
    assert_eq!(inbox(&store, &second).await, []);
    assert_eq!(queue(&store, "d-4", 2, &second).await, Recorded::New(vec![second.clone()]), "another job");

    // Not when the inbox was worked off, nor when the job is final, nor when the store is opened again.
    let token = store.acquire(&first).await.unwrap();
    let last = inbox(&store, &first).await[2].cursor;
    let changes = Changes { snapshot: Some(snapshot(last)), ..jobs([job(1, Some(&first), JobStatus::Completed, 0)]) };
    store.save(&first, token, changes).await.unwrap();
    store.close().await;
    let store = adapter.open().await;
    assert_eq!(queue(&store, "d-5", 1, &second).await, Recorded::New(vec![first.clone()]));
}

pub async fn a_saved_job_stays_with_its_group_even_if_no_delivery_came_first(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (owner, other) = (group("owner"), group("other"));
    let token = store.acquire(&owner).await.unwrap();
    // Found by a health check: its webhook never came.
    store.save(&owner, token, jobs([job(1, Some(&owner), JobStatus::Queued, 0)])).await.unwrap();
    assert_eq!(queue(&store, "d-1", 1, &other).await, Recorded::New(vec![owner.clone()]));
    assert_eq!(ids(&inbox(&store, &owner).await), ["d-1"]);
    assert_eq!(inbox(&store, &other).await, []);
}

pub async fn a_delivery_that_names_a_runner_of_another_group_is_in_both_inboxes(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (serving, taking) = (group("serving"), group("taking"));
    let both = Route { group: Some(serving.clone()), runner_group: Some(taking.clone()), unmatched: None };
    let sent = delivery("d-1", 1, JobAction::InProgress, 0);
    assert_eq!(record(&store, sent.clone(), both).await, Recorded::New(vec![serving.clone(), taking.clone()]));
    for (group, assigned) in [(&serving, true), (&taking, false)] {
        let entries = inbox(&store, group).await;
        assert_eq!(entries.len(), 1, "{group}");
        assert_eq!((&entries[0].delivery, entries[0].assigned), (&sent, assigned), "{group}");
    }
    // The group that serves it is decided by the first delivery, also here: one entry when both are the same.
    let route = Route { group: Some(taking.clone()), runner_group: Some(serving.clone()), unmatched: None };
    let recorded = record(&store, delivery("d-2", 1, JobAction::Completed, 1), route).await;
    assert_eq!(recorded, Recorded::New(vec![serving.clone()]));
    let entries = inbox(&store, &serving).await;
    assert_eq!(ids(&entries), ["d-1", "d-2"]);
    assert!(entries[1].assigned);
    assert_eq!(inbox(&store, &taking).await.len(), 1);
    // A redelivery reaches neither again.
    let again = Route { group: Some(serving.clone()), runner_group: Some(taking.clone()), unmatched: None };
    assert_eq!(record(&store, sent, again).await, Recorded::Duplicate);
    assert_eq!(inbox(&store, &taking).await.len(), 1);
}

pub async fn a_delivery_for_a_runner_alone_is_not_assigned(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (taking, later) = (group("taking"), group("later"));
    let unmatched = job(1, None, JobStatus::Unmatched, 0);
    let route = Route { group: None, runner_group: Some(taking.clone()), unmatched: Some(Box::new(unmatched.clone())) };
    let recorded = record(&store, delivery("d-1", 1, JobAction::InProgress, 0), route).await;
    assert_eq!(recorded, Recorded::New(vec![taking.clone()]));
    assert!(!inbox(&store, &taking).await[0].assigned);
    assert_eq!(store.job(JobId(1)).await, Ok(Some(unmatched)));
    // Taking a job is no assignment.
    assert_eq!(queue(&store, "d-2", 1, &later).await, Recorded::New(vec![later.clone()]));
}

pub async fn an_unmatched_job_is_kept_replaced_and_forgotten_once_routed(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    for n in 0..2 {
        let kept = job(1, None, JobStatus::Unmatched, n);
        let route = Route { unmatched: Some(Box::new(kept.clone())), ..Route::default() };
        let recorded = record(&store, delivery(&format!("d-{n}"), 1, JobAction::Queued, n), route).await;
        assert_eq!(recorded, Recorded::New(vec![]));
        assert_eq!(store.job(JobId(1)).await, Ok(Some(kept.clone())));
        let filter = JobFilter { status: Some(JobStatus::Unmatched), group: None, limit: 10 };
        assert_eq!(store.jobs(&filter).await, Ok(vec![kept]));
    }
    assert_eq!(store.load(&octo).await, Ok(Loaded::default()), "it is nobody's");
    assert_eq!(queue(&store, "d-9", 1, &octo).await, Recorded::New(vec![octo.clone()]));
    assert_eq!(store.job(JobId(1)).await, Ok(None));
    assert_eq!(inbox(&store, &octo).await[0].known, None);
}

pub async fn an_unmatched_job_does_not_replace_an_assigned_one(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    queue(&store, "d-1", 1, &octo).await;
    let token = store.acquire(&octo).await.unwrap();
    let saved = job(1, Some(&octo), JobStatus::Queued, 0);
    store.save(&octo, token, jobs([saved.clone()])).await.unwrap();
    let unmatched = Some(Box::new(job(1, None, JobStatus::Unmatched, 5)));
    let route = Route { unmatched, ..Route::default() };
    let recorded = record(&store, delivery("d-2", 1, JobAction::Completed, 5), route).await;
    assert_eq!(recorded, Recorded::New(vec![octo.clone()]));
    assert_eq!(store.job(JobId(1)).await, Ok(Some(saved)));
}

pub async fn an_inbox_is_read_in_order_from_any_place_in_any_portion(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let names: Vec<String> = (0..23).map(|n| format!("d-{n}")).collect();
    for (name, job) in names.iter().zip(1..) {
        queue(&store, name, job, &octo).await;
    }
    let all = inbox(&store, &octo).await;
    assert_eq!(ids(&all), names);
    assert!(all.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
    for portion in [1, 2, 7, 23, 24, usize::MAX] {
        let (mut after, mut read) = (START, Vec::new());
        loop {
            let part = store.inbox(&octo, after, portion).await.unwrap();
            assert!(part.len() <= portion);
            let Some(last) = part.last() else { break };
            after = last.cursor;
            read.extend(part);
        }
        assert_eq!(read, all, "{portion}");
    }
    assert_eq!(store.inbox(&octo, all[9].cursor, 0).await.unwrap(), all[10..=10], "at least 1");
    assert_eq!(store.inbox(&octo, Cursor(u64::MAX), 5).await, Ok(vec![]));
}

pub async fn inboxes_of_different_groups_are_apart(adapter: &impl Adapter) {
    let store = adapter.open().await;
    // Names that a careless key would mix up.
    let groups = ["octo", "octo-1", "octo_1", "octo.1", "OCTO", "o"].map(group);
    for (n, group) in (1..).zip(&groups) {
        queue(&store, &format!("d-{n}"), n, group).await;
        let token = store.acquire(group).await.unwrap();
        let changes = Changes { runners: vec![Arc::new(runner(group, n, RunnerState::Idle, 0))], ..Changes::default() };
        store.save(group, token, changes).await.unwrap();
    }
    for (n, group) in (1..).zip(&groups) {
        assert_eq!(ids(&inbox(&store, group).await), [format!("d-{n}")], "{group}");
        assert_eq!(store.load(group).await.unwrap().runners.len(), 1, "{group}");
    }
    let first = inbox(&store, &groups[0]).await[0].cursor;
    let token = store.acquire(&groups[0]).await.unwrap();
    store.save(&groups[0], token, cursor(Cursor(first.0 + 1_000_000))).await.unwrap();
    assert_eq!(inbox(&store, &groups[0]).await, []);
    assert_eq!(inbox(&store, &groups[1]).await.len(), 1, "another group's cursor trims nothing");
}

pub async fn an_entry_knows_the_job_as_it_was_saved(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    queue(&store, "d-1", 1, &octo).await;
    queue(&store, "d-2", 2, &octo).await;
    queue(&store, "d-3", 1, &octo).await;
    for status in [JobStatus::Queued, JobStatus::InProgress, JobStatus::Completed] {
        let saved = job(1, Some(&octo), status, 0);
        store.save(&octo, token, jobs([saved.clone()])).await.unwrap();
        let known: Vec<Option<Job>> = inbox(&store, &octo).await.into_iter().map(|entry| entry.known).collect();
        assert_eq!(known, [Some(saved.clone()), None, Some(saved)]);
    }
}

pub async fn a_delivery_for_a_final_job_is_still_in_the_inbox(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    store.save(&octo, token, jobs([job(1, Some(&octo), JobStatus::Completed, 0)])).await.unwrap();
    assert_eq!(queue(&store, "late", 1, &octo).await, Recorded::New(vec![octo.clone()]));
    let entries = inbox(&store, &octo).await;
    assert_eq!(entries[0].known.as_ref().map(|job| job.status), Some(JobStatus::Completed));
}

pub async fn saved_deliveries_leave_the_inbox_and_places_are_not_used_again(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    for n in 1..=5 {
        queue(&store, &format!("d-{n}"), n, &octo).await;
    }
    let all = inbox(&store, &octo).await;
    store.save(&octo, token, cursor(all[2].cursor)).await.unwrap();
    assert_eq!(inbox(&store, &octo).await, all[3..]);
    store.save(&octo, token, cursor(all[4].cursor)).await.unwrap();
    assert_eq!(inbox(&store, &octo).await, []);
    assert_eq!(queue(&store, "d-3", 3, &octo).await, Recorded::Duplicate, "its id is still known");
    queue(&store, "d-6", 6, &octo).await;
    let next = inbox(&store, &octo).await;
    assert_eq!(ids(&next), ["d-6"]);
    assert!(next[0].cursor > all[4].cursor);
    store.save(&octo, token, cursor(next[0].cursor)).await.unwrap();
    store.close().await;
    let store = adapter.open().await;
    queue(&store, "d-7", 7, &octo).await;
    assert!(inbox(&store, &octo).await[0].cursor > next[0].cursor, "not even when opened again");
}

pub async fn a_save_without_a_snapshot_leaves_the_inbox_alone(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    queue(&store, "d-1", 1, &octo).await;
    store.save(&octo, token, jobs([job(1, Some(&octo), JobStatus::Completed, 0)])).await.unwrap();
    store.save(&octo, token, Changes::default()).await.unwrap();
    assert_eq!(ids(&inbox(&store, &octo).await), ["d-1"]);
    assert_eq!(store.group(&octo).await, Ok(None));
}

pub async fn what_was_saved_is_what_is_loaded(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    let mut expected = Loaded {
        snapshot: Some(snapshot(Cursor(3))),
        runners: RunnerState::ALL
            .into_iter()
            .filter(|state| !state.is_final())
            .zip(1..)
            .map(|(state, n)| runner(&octo, n, state, 5))
            .collect(),
        jobs: [JobStatus::Queued, JobStatus::Waiting, JobStatus::InProgress]
            .into_iter()
            .zip(1..)
            .map(|(status, n)| job(n, Some(&octo), status, 5))
            .collect(),
        set_aside: 0,
    };
    let changes = Changes {
        snapshot: expected.snapshot.clone(),
        runners: expected.runners.iter().cloned().map(Arc::new).collect(),
        jobs: expected.jobs.iter().cloned().map(Arc::new).collect(),
    };
    store.save(&octo, token, changes).await.unwrap();
    assert_eq!(sorted(store.load(&octo).await.unwrap()), expected);
    assert_eq!(store.group(&octo).await.unwrap(), expected.snapshot);
    for runner in &expected.runners {
        assert_eq!(store.runner(&runner.name).await.unwrap().as_ref(), Some(runner));
    }
    for job in &expected.jobs {
        assert_eq!(store.job(job.id()).await.unwrap().as_ref(), Some(job));
    }
    // What is saved again replaces; what is not stays.
    expected.snapshot = Some(GroupSnapshot { drained: false, ..snapshot(Cursor(4)) });
    expected.runners[0].state = RunnerState::Busy;
    expected.jobs[0].status = JobStatus::InProgress;
    let changes = Changes {
        snapshot: expected.snapshot.clone(),
        runners: vec![Arc::new(expected.runners[0].clone())],
        jobs: vec![Arc::new(expected.jobs[0].clone())],
    };
    store.save(&octo, token, changes).await.unwrap();
    assert_eq!(sorted(store.load(&octo).await.unwrap()), expected);
}

pub async fn final_runners_and_jobs_are_kept_but_not_loaded(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    for (runner_state, job_status, loaded) in [
        (RunnerState::Idle, JobStatus::Queued, 1),
        (RunnerState::Gone, JobStatus::Completed, 0),
        (RunnerState::Failed, JobStatus::Completed, 0),
    ] {
        let (runner, job) = (runner(&octo, 1, runner_state, 0), job(1, Some(&octo), job_status, 0));
        let changes =
            Changes { snapshot: None, runners: vec![Arc::new(runner.clone())], jobs: vec![Arc::new(job.clone())] };
        store.save(&octo, token, changes).await.unwrap();
        let found = store.load(&octo).await.unwrap();
        assert_eq!((found.runners.len(), found.jobs.len()), (loaded, loaded));
        assert_eq!(store.runner(&runner.name).await, Ok(Some(runner)));
        assert_eq!(store.job(JobId(1)).await, Ok(Some(job)));
    }
}

pub async fn each_owner_gets_a_greater_token(adapter: &impl Adapter) {
    let (octo, other) = (group("octo"), group("other"));
    let mut last = FencingToken(0);
    for _ in 0..3 {
        let store = adapter.open().await;
        for _ in 0..3 {
            let token = store.acquire(&octo).await.unwrap();
            assert!(token > last, "{token} after {last}");
            last = token;
        }
        store.acquire(&other).await.unwrap();
        store.save(&octo, last, Changes::default()).await.unwrap();
        store.close().await;
    }
}

pub async fn a_stale_owner_s_save_changes_nothing(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let old = store.acquire(&octo).await.unwrap();
    queue(&store, "d-1", 1, &octo).await;
    let before = Changes {
        snapshot: Some(snapshot(START)),
        runners: vec![Arc::new(runner(&octo, 1, RunnerState::Idle, 0))],
        jobs: vec![Arc::new(job(1, Some(&octo), JobStatus::Queued, 0))],
    };
    store.save(&octo, old, before).await.unwrap();
    let new = store.acquire(&octo).await.unwrap();
    let (loaded, entries) = (store.load(&octo).await.unwrap(), inbox(&store, &octo).await);

    let stale = Changes {
        snapshot: Some(GroupSnapshot { failures: 99, ..snapshot(entries[0].cursor) }),
        runners: vec![
            Arc::new(runner(&octo, 1, RunnerState::Gone, 1)),
            Arc::new(runner(&octo, 2, RunnerState::Requested, 1)),
        ],
        jobs: vec![
            Arc::new(job(1, Some(&octo), JobStatus::Completed, 1)),
            Arc::new(job(2, Some(&octo), JobStatus::Queued, 1)),
        ],
    };
    for token in [old, FencingToken(0), FencingToken(new.0 + 1)] {
        let refused = store.save(&octo, token, stale.clone()).await;
        assert_eq!(refused, Err(StoreError::Fenced { group: octo.clone(), token }));
    }
    assert_eq!(store.load(&octo).await.unwrap(), loaded);
    assert_eq!(inbox(&store, &octo).await, entries);
    assert_eq!(store.job(JobId(2)).await, Ok(None));
    // Not even an assignment.
    let other = group("other");
    assert_eq!(queue(&store, "d-2", 2, &other).await, Recorded::New(vec![other.clone()]));
    store.save(&octo, new, stale).await.unwrap();
    assert_eq!(inbox(&store, &octo).await, []);
}

pub async fn a_save_without_an_owner_is_refused(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    for token in [FencingToken(0), FencingToken(1)] {
        let refused = store.save(&octo, token, cursor(START)).await;
        assert_eq!(refused, Err(StoreError::Fenced { group: octo.clone(), token }));
    }
    assert_eq!(store.group(&octo).await, Ok(None));
}

pub async fn jobs_are_listed_newest_first_and_filtered(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let groups = [group("a"), group("b")];
    let statuses = [JobStatus::Queued, JobStatus::Waiting, JobStatus::InProgress, JobStatus::Completed];
    let mut all = Vec::new();
    for (n, id) in (0_usize..24).zip(1..) {
        // Neither in the order of ids nor of saving; all times differ.
        let seconds = i64::try_from((n * 7) % 24).unwrap();
        all.push(job(id, Some(&groups[n % 2]), statuses[(n / 2) % 4], seconds));
    }
    for group in &groups {
        let token = store.acquire(group).await.unwrap();
        let theirs = all.iter().filter(|job| job.group.as_ref() == Some(group)).cloned();
        store.save(group, token, jobs(theirs)).await.unwrap();
    }
    let unmatched = job(99, None, JobStatus::Unmatched, 12);
    let route = Route { unmatched: Some(Box::new(unmatched.clone())), ..Route::default() };
    record(&store, delivery("d-99", 99, JobAction::Queued, 12), route).await;
    all.push(unmatched);

    all.sort_by_key(|job| std::cmp::Reverse(job.received_at));
    let mut filters = vec![(None, None)];
    filters.extend(groups.iter().map(|group| (Some(group.clone()), None)));
    filters.extend(JobStatus::ALL.map(|status| (None, Some(status))));
    filters.extend(JobStatus::ALL.iter().flat_map(|s| groups.iter().map(move |g| (Some(g.clone()), Some(*s)))));
    filters.push((Some(group("nobody")), None));
    for (group, status) in filters {
        let expected: Vec<Job> = all
            .iter()
            .filter(|job| group.is_none() || job.group == group)
            .filter(|job| status.is_none_or(|status| job.status == status))
            .cloned()
            .collect();
        for limit in [0, 1, 3, ALL, usize::MAX] {
            let filter = JobFilter { group: group.clone(), status, limit };
            let found = store.jobs(&filter).await.unwrap();
            // Jobs received at the same time may come in any order: here that is the unmatched one and one other.
            let key = |job: &Job| (std::cmp::Reverse(job.received_at), job.id());
            let mut found_sorted = found.clone();
            found_sorted.sort_by_key(key);
            assert!(found.windows(2).all(|pair| pair[0].received_at >= pair[1].received_at), "{filter:?}");
            assert_eq!(found.len(), expected.len().min(limit), "{filter:?}");
            if limit >= ALL {
                let mut expected = expected.clone();
                expected.sort_by_key(key);
                assert_eq!(found_sorted, expected, "{filter:?}");
            }
        }
    }
}

pub async fn runners_are_listed_by_name_and_filtered(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let groups = [group("a"), group("b")];
    let mut all = Vec::new();
    for (n, state) in (0..36).zip(RunnerState::ALL.into_iter().cycle()) {
        all.push(runner(&groups[n % 2], (n as u64 * 31) % 36, state, 0));
    }
    for group in &groups {
        let token = store.acquire(group).await.unwrap();
        store.save(group, token, runners(all.iter().filter(|r| r.group == *group).cloned())).await.unwrap();
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let states = RunnerState::ALL.into_iter().map(Some).chain([None]);
    for state in states {
        for group in [None, Some(groups[0].clone()), Some(groups[1].clone()), Some(group("nobody"))] {
            let expected: Vec<Runner> = all
                .iter()
                .filter(|runner| group.as_ref().is_none_or(|group| runner.group == *group))
                .filter(|runner| state.map_or(!runner.state.is_final(), |state| runner.state == state))
                .cloned()
                .collect();
            for limit in [0, 1, 3, usize::MAX] {
                let filter = RunnerFilter { group: group.clone(), state, limit };
                let found = store.runners(&filter).await.unwrap();
                assert_eq!(found, expected[..expected.len().min(limit)], "{filter:?}");
            }
        }
    }
}

pub async fn what_is_past_its_time_is_forgotten_and_nothing_else(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    // Deliveries of the seconds 0 to 9; all but the last two are worked off.
    for n in 0..10 {
        record(&store, delivery(&format!("d-{n}"), 100 + n, JobAction::Queued, n as i64), to(&octo)).await;
    }
    let entries = inbox(&store, &octo).await;
    let old = [
        job(1, Some(&octo), JobStatus::Completed, 0),  // finished at 10
        job(2, Some(&octo), JobStatus::Completed, 50), // finished at 60
        job(3, Some(&octo), JobStatus::Queued, 0),
        job(4, Some(&octo), JobStatus::Waiting, 0),
        job(5, Some(&octo), JobStatus::InProgress, 0),
    ];
    let changes = Changes {
        snapshot: Some(snapshot(entries[7].cursor)),
        runners: RunnerState::ALL
            .into_iter()
            .zip(0..)
            .flat_map(|(state, n)| [runner(&octo, n, state, 0), runner(&octo, 100 + n, state, 50)])
            .map(Arc::new)
            .collect(),
        ..jobs(old)
    };
    store.save(&octo, token, changes).await.unwrap();
    for (id, seconds) in [(6, 0), (7, 50)] {
        let unmatched = Some(Box::new(job(id, None, JobStatus::Unmatched, seconds)));
        let route = Route { unmatched, ..Route::default() };
        record(&store, delivery(&format!("u-{id}"), id, JobAction::Queued, 50), route).await;
    }
    let loaded = sorted(store.load(&octo).await.unwrap());

    // Exactly at the horizon is not before it.
    let horizon = Horizon { deliveries: at(5), jobs: at(60), runners: at(50) };
    // 5 deliveries, jobs 1, 6 and 7, and the older of each of the two final runners.
    assert_eq!(store.prune(horizon).await, Ok(5 + 3 + 2));
    assert_eq!(store.prune(horizon).await, Ok(0));
    for (id, there) in [(1, false), (2, true), (3, true), (4, true), (5, true), (6, false), (7, false)] {
        assert_eq!(store.job(JobId(id)).await.unwrap().is_some(), there, "job {id}");
    }
    for (n, state) in (0..).zip(RunnerState::ALL) {
        let (older, newer) = (octo.runner_name(n), octo.runner_name(100 + n));
        assert_eq!(store.runner(&older).await.unwrap().is_some(), !state.is_final(), "{state:?}");
        assert!(store.runner(&newer).await.unwrap().is_some(), "{state:?}");
    }
    assert_eq!(sorted(store.load(&octo).await.unwrap()), loaded, "nothing that a group needs is gone");
    assert_eq!(inbox(&store, &octo).await, entries[8..], "nothing newer left the inbox");
    for n in 0..10 {
        let again = record(&store, delivery(&format!("d-{n}"), 100 + n, JobAction::Queued, 99), to(&octo)).await;
        assert_eq!(again == Recorded::Duplicate, n >= 5, "d-{n}");
    }
}

pub async fn a_forgotten_delivery_id_is_new_again(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    queue(&store, "d-1", 1, &octo).await;
    // Nobody reads this inbox; it does not grow for ever.
    assert_eq!(store.prune(Horizon { deliveries: at(1), jobs: at(1), runners: at(1) }).await, Ok(1));
    assert_eq!(inbox(&store, &octo).await, []);
    let other = group("other");
    assert_eq!(queue(&store, "d-1", 1, &other).await, Recorded::New(vec![other.clone()]), "nor do its jobs");
}

pub async fn more_than_one_step_of_pruning_is_carried_through(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    let many = (1..=2500).map(|id| job(id, Some(&octo), JobStatus::Completed, 0));
    store.save(&octo, token, jobs(many)).await.unwrap();
    let gone = (1..=1200).map(|n| runner(&octo, n, RunnerState::Gone, 0));
    store.save(&octo, token, runners(gone)).await.unwrap();
    let horizon = Horizon { deliveries: at(11), jobs: at(11), runners: at(11) };
    assert_eq!(store.prune(horizon).await, Ok(2500 + 1200));
    assert_eq!(store.jobs(&JobFilter { limit: ALL, ..JobFilter::default() }).await, Ok(vec![]));
}

pub async fn concurrent_deliveries_are_each_recorded_once_in_one_order(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let (octo, taking) = (group("octo"), group("taking"));
    let tasks: Vec<_> = (0..200_u64)
        .map(|n| {
            let (store, octo, taking) = (store.clone(), octo.clone(), taking.clone());
            tokio::spawn(async move {
                // Each id comes four times at once, each job under five ids.
                let id = n % 50;
                let route = Route { group: Some(octo), runner_group: Some(taking), unmatched: None };
                let sent = delivery(&format!("d-{id}"), 1 + id / 5, JobAction::InProgress, 0);
                (id, store.record(Arc::new(sent), route).await.unwrap())
            })
        })
        .collect();
    let mut new = BTreeMap::new();
    for task in tasks {
        let (id, recorded) = task.await.unwrap();
        if let Recorded::New(groups) = recorded {
            assert_eq!(groups, [octo.clone(), taking.clone()]);
            *new.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!(new, (0..50).map(|id| (id, 1)).collect::<BTreeMap<_, _>>());
    for group in [&octo, &taking] {
        let entries = inbox(&store, group).await;
        assert_eq!(entries.len(), 50);
        assert_eq!(ids(&entries).into_iter().collect::<BTreeSet<_>>().len(), 50);
        assert!(entries.windows(2).all(|pair| pair[0].cursor < pair[1].cursor));
    }
}

pub async fn concurrent_saves_take_effect_in_the_order_of_their_calls(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    for round in 0..5 {
        let saves = (1..=40).map(|n| {
            let changes = Changes {
                snapshot: Some(GroupSnapshot { failures: n, ..snapshot(START) }),
                ..jobs([job(u64::from(n % 3), Some(&octo), JobStatus::Queued, i64::from(round * 100 + n))])
            };
            store.save(&octo, token, changes)
        });
        // Polled in order, then awaited together.
        for saved in join_all(saves).await {
            saved.unwrap();
        }
        assert_eq!(store.group(&octo).await.unwrap().unwrap().failures, 40);
        let received = |id| {
            let store = store.clone();
            async move { store.job(JobId(id)).await.unwrap().unwrap().received_at }
        };
        for (id, last) in [(0, 39), (1, 40), (2, 38)] {
            assert_eq!(received(id).await, at(i64::from(round * 100 + last)));
        }
    }
}

async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

pub async fn concurrent_owners_all_get_different_tokens(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (store, octo) = (store.clone(), octo.clone());
            tokio::spawn(async move { store.acquire(&octo).await.unwrap() })
        })
        .collect();
    let mut tokens = BTreeSet::new();
    for task in tasks {
        tokens.insert(task.await.unwrap());
    }
    assert_eq!(tokens.len(), 50);
    let newest = *tokens.last().unwrap();
    for token in tokens {
        assert_eq!(store.save(&octo, token, Changes::default()).await.is_ok(), token == newest);
    }
}

pub async fn recovery_from_snapshot_and_inbox_equals_an_uninterrupted_run(adapter: &impl Adapter) {
    let octo = group("octo");
    let sent: Vec<Delivery> = (0..60)
        .map(|n| {
            let action = [JobAction::Queued, JobAction::InProgress, JobAction::Completed][n % 3];
            delivery(&format!("d-{n}"), (n as u64 * 7) % 12, action, n as i64)
        })
        .collect();
    // A small brain: per job, the ids of the deliveries it has seen, in order.
    let follow = |state: &mut BTreeMap<JobId, Job>, entry: &InboxEntry| {
        let id = entry.delivery.event.job.id;
        let job = state.entry(id).or_insert_with(|| job(id.0, Some(&octo), JobStatus::Queued, 0));
        let delivery = entry.delivery.id.clone();
        job.note(entry.delivery.received_at, Milestone::Received { action: "x".to_owned(), delivery });
    };
    let mut expected = BTreeMap::new();
    for delivery in &sent {
        let entry = InboxEntry { cursor: START, delivery: delivery.clone(), assigned: true, known: None };
        follow(&mut expected, &entry);
    }

    let mut store = adapter.open().await;
    for (n, delivery) in sent.into_iter().enumerate() {
        record(&store, delivery, to(&octo)).await;
        if n % 9 == 8 {
            // A new owner goes on, saves part of what it did, does more in memory, and is gone.
            let token = store.acquire(&octo).await.unwrap();
            let loaded = store.load(&octo).await.unwrap();
            let mut after = loaded.snapshot.unwrap_or_default().cursor;
            let mut state: BTreeMap<_, _> = loaded.jobs.into_iter().map(|job| (job.id(), job)).collect();
            for entry in store.inbox(&octo, after, 5).await.unwrap() {
                follow(&mut state, &entry);
                after = entry.cursor;
            }
            let changes = Changes { snapshot: Some(snapshot(after)), ..jobs(state.into_values()) };
            store.save(&octo, token, changes).await.unwrap();
            store.close().await;
            store = adapter.open().await;
        }
    }
    let loaded = store.load(&octo).await.unwrap();
    let mut state: BTreeMap<_, _> = loaded.jobs.into_iter().map(|job| (job.id(), job)).collect();
    for entry in store.inbox(&octo, loaded.snapshot.unwrap().cursor, ALL).await.unwrap() {
        follow(&mut state, &entry);
    }
    assert_eq!(state, expected);
}

pub async fn everything_is_still_there_when_opened_again(adapter: &impl Adapter) {
    let octo = group("octo");
    let store = adapter.open().await;
    let token = store.acquire(&octo).await.unwrap();
    for n in 1..=3 {
        queue(&store, &format!("d-{n}"), n, &octo).await;
    }
    let first = inbox(&store, &octo).await[0].cursor;
    let changes = Changes {
        snapshot: Some(snapshot(first)),
        runners: vec![Arc::new(runner(&octo, 1, RunnerState::Busy, 0))],
        jobs: vec![Arc::new(job(1, Some(&octo), JobStatus::InProgress, 0))],
    };
    store.save(&octo, token, changes).await.unwrap();
    let (loaded, entries) = (store.load(&octo).await.unwrap(), inbox(&store, &octo).await);
    store.close().await;
    let store = adapter.open().await;
    assert_eq!(store.load(&octo).await.unwrap(), loaded);
    assert_eq!(inbox(&store, &octo).await, entries);
    assert_eq!(queue(&store, "d-2", 2, &octo).await, Recorded::Duplicate);
    // Opening again is no new owner.
    store.save(&octo, token, Changes::default()).await.unwrap();
}

pub async fn numbers_and_texts_at_their_limits_come_back_unchanged(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group(&"g".repeat(64));
    let token = store.acquire(&octo).await.unwrap();
    let mut sent = delivery(&"D-9".repeat(21), u64::MAX, JobAction::Completed, 0);
    sent.received_at = Timestamp::from_nanosecond(1_760_000_000_123_456_789).unwrap();
    sent.event.job.name = "\0 ' \" \\ \u{10ffff} {\"v\":2} \r\n".to_owned();
    sent.event.job.labels = vec!["x".repeat(100_000), String::new()];
    record(&store, sent.clone(), to(&octo)).await;
    let mut saved = job(u64::MAX, Some(&octo), JobStatus::Queued, 0);
    saved.facts = sent.event.job.clone();
    saved.received_at = sent.received_at;
    let mut kept = runner(&octo, u64::MAX, RunnerState::Busy, 0);
    kept.job = Some(JobId(u64::MAX));
    kept.time_to_live = Duration::new(u64::MAX >> 1, 999_999_999);
    let changes =
        Changes { snapshot: None, runners: vec![Arc::new(kept.clone())], jobs: vec![Arc::new(saved.clone())] };
    store.save(&octo, token, changes).await.unwrap();
    let entries = inbox(&store, &octo).await;
    assert_eq!(entries[0].delivery, sent);
    assert_eq!(entries[0].known.as_ref(), Some(&saved));
    assert_eq!(store.job(JobId(u64::MAX)).await, Ok(Some(saved)));
    assert_eq!(store.runner(&kept.name).await, Ok(Some(kept)));
}

pub async fn a_probe_works_on_a_store_that_works(adapter: &impl Adapter) {
    let store = adapter.open().await;
    store.probe().await.unwrap();
    store.probe().await.unwrap();
}

pub async fn a_closed_store_refuses_every_call(adapter: &impl Adapter) {
    let store = adapter.open().await;
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    // What was accepted before is finished.
    let accepted: Vec<_> = (0..50)
        .map(|n| {
            let (store, octo) = (store.clone(), octo.clone());
            tokio::spawn(async move {
                store.record(Arc::new(delivery(&format!("d-{n}"), n, JobAction::Queued, 0)), to(&octo)).await
            })
        })
        .collect();
    store.close().await;
    store.close().await;
    let mut written = 0;
    for task in accepted {
        match task.await.unwrap() {
            Ok(Recorded::New(_)) => written += 1,
            Err(StoreError::Unavailable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let closed =
        |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    closed(store.record(Arc::new(delivery("d", 1, JobAction::Queued, 0)), to(&octo)).await.map(drop));
    closed(store.inbox(&octo, START, 1).await.map(drop));
    closed(store.acquire(&octo).await.map(drop));
    closed(store.load(&octo).await.map(drop));
    closed(store.save(&octo, token, Changes::default()).await);
    closed(store.group(&octo).await.map(drop));
    closed(store.job(JobId(1)).await.map(drop));
    closed(store.jobs(&JobFilter::default()).await.map(drop));
    closed(store.runner(&octo.runner_name(1)).await.map(drop));
    closed(store.runners(&RunnerFilter::default()).await.map(drop));
    closed(store.prune(Horizon { deliveries: at(0), jobs: at(0), runners: at(0) }).await.map(drop));
    closed(store.probe().await);
    let store = adapter.open().await;
    assert_eq!(inbox(&store, &octo).await.len(), written);
}
