//! Promises about the store as a whole: concurrency, recovery, closing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actors::id::JobId;
use actors::model::delivery::{Delivery, JobAction};
use actors::model::group::GroupSnapshot;
use actors::model::job::{Job, JobStatus, Milestone};
use actors::model::runner::RunnerState;
use actors::port::store::{Changes, Horizon, InboxEntry, JobFilter, Recorded, Route, RunnerFilter, StoreError};
use jiff::Timestamp;

use super::Adapter;
use super::samples::*;

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
