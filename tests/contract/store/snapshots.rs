//! Promises about what is saved, listed and forgotten.

use std::sync::Arc;

use actors::id::{Cursor, FencingToken, JobId};
use actors::model::delivery::JobAction;
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus};
use actors::model::runner::{Runner, RunnerState};
use actors::port::store::{Changes, Horizon, JobFilter, Loaded, Recorded, Route, RunnerFilter, StoreError};

use super::Adapter;
use super::samples::*;

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
