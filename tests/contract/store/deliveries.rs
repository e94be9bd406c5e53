//! Promises about deliveries and inboxes.

use std::sync::Arc;

use actors::id::{Cursor, JobId, RunnerName};
use actors::model::delivery::JobAction;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::RunnerState;
use actors::port::store::{Changes, Horizon, JobFilter, Loaded, Recorded, Route, RunnerFilter};

use super::Adapter;
use super::samples::*;

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
