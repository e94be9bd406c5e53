//! The store in Redis behind Sentinels, and in a Cluster, when the master changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::GroupName;
use actors::model::delivery::JobAction;
use actors::model::group::GroupSnapshot;
use actors::port::Store;
use actors::port::replicas::{Replicas, Report};
use actors::port::store::{Changes, StoreError};
use runner_manager::store::Redis;
use runner_manager::store::redis::Settings;

#[path = "support/passage.rs"]
mod passage;
#[path = "support/redis.rs"]
mod redis;
#[path = "contract/store/samples.rs"]
mod samples;
#[path = "support/store_redis.rs"]
mod support;

use redis::{Cluster, RedisServer, SERVICE, Sentinels};
use samples::*;
use support::{Quiet, open, settings};

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Records deliveries, one after the other, until so many were acknowledged. Returns their ids.
async fn record_until(store: &Arc<dyn Store>, name: &str, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut acknowledged = Vec::new();
    for n in 0_u64.. {
        let sent = delivery(&format!("{name}-{n}"), n, JobAction::Queued, 0);
        match store.record(Arc::new(sent), to(&group("octo"))).await {
            Ok(_) => acknowledged.push(format!("{name}-{n}")),
            Err(StoreError::Unavailable(error)) => assert!(Instant::now() < deadline, "{error}"),
            Err(other) => panic!("{other}"),
        }
        if acknowledged.len() == count {
            break;
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_master_was_killed_writes_go_on_and_nothing_acknowledged_is_lost() {
    let mut sentinels = Sentinels::start();
    // Two replicas, so that one is left to wait for afterwards.
    let _second = RedisServer::replica_of(sentinels.master());
    for sentinel in sentinels.sentinels() {
        redis::until("the Sentinels know both replicas", || {
            let master = sentinel.cli(&["sentinel", "master", SERVICE]);
            (master.contains("num-slaves\n2"), master)
        });
    }
    let store = open(Settings { wait_replicas: 1, ..settings(support::sentinels(&sentinels), "octo", "a") });
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    let mut acknowledged = record_until(&store, "before", 50).await;

    let writers: Vec<_> = (0..4)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { record_until(&store, &format!("during-{n}"), 300).await })
        })
        .collect();
    let saver = tokio::spawn({
        let (store, octo) = (store.clone(), octo.clone());
        async move {
            let (mut saved, deadline) = (0, Instant::now() + PATIENCE);
            for failures in 1_u32.. {
                let snapshot = GroupSnapshot { failures, ..snapshot(START) };
                match store.save(&octo, token, Changes { snapshot: Some(snapshot), ..Changes::default() }).await {
                    Ok(()) => saved = failures,
                    Err(StoreError::Unavailable(error)) => assert!(Instant::now() < deadline, "{error}"),
                    Err(other) => panic!("{other}"),
                }
                if saved == failures && saved >= 300 {
                    break;
                }
            }
            saved
        }
    });
    let old = sentinels.kill_master();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let saved = saver.await.unwrap();
    assert_ne!(sentinels.master_port(), old, "another one is the master");
    let entries = inbox(&store, &octo).await;
    let there: std::collections::BTreeSet<&str> = ids(&entries).into_iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !there.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(store.group(&octo).await.unwrap().unwrap().failures, saved);
}

/// Records until it is acknowledged: while connections are made anew it may be refused.
async fn acknowledged(store: &Arc<dyn Store>, id: &str, job: u64, of: &GroupName) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.record(Arc::new(delivery(id, job, JobAction::Queued, 0)), to(of)).await {
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_replaced_while_it_slept_is_not_read_when_it_wakes() {
    let sentinels = Sentinels::start();
    let open = |replica: &str| {
        let quick = Settings {
            timeout: Duration::from_millis(300),
            ..settings(support::sentinels(&sentinels), "octo", replica)
        };
        Arc::new(Redis::open(quick, Arc::new(Quiet)).unwrap())
    };
    let (store, octo) = (open("a"), group("octo"));
    // Connections to the old master, of each kind.
    store.beat(&Report::default()).await.unwrap();
    store.probe().await.unwrap();
    futures_util::future::join_all((0..20).map(|_| store.group(&octo))).await;
    let old = sentinels.master_port();
    sentinels.server(old).pause();
    // A Sentinel that has not heard of it yet would name the old one.
    redis::until("all say that another one is the master", || {
        let ports = sentinels.master_ports();
        (!ports.contains(&old), format!("{ports:?}"))
    });
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = store.beat(&Report::default()).await {
        assert!(Instant::now() < deadline, "{error}");
    }
    let other = open("b");
    acknowledged(&(other.clone() as Arc<dyn Store>), "d-1", 1, &octo).await;
    sentinels.server(old).resume();
    let store: Arc<dyn Store> = store;
    for _ in 0..20 {
        assert_eq!(samples::ids(&inbox(&store, &octo).await), ["d-1"]);
    }
    // Nor is it written.
    acknowledged(&store, "d-2", 2, &octo).await;
    let other: Arc<dyn Store> = other;
    assert_eq!(samples::ids(&inbox(&other, &octo).await), ["d-1", "d-2"]);
}

#[tokio::test]
async fn keys_that_moved_to_another_node_are_followed() {
    let cluster = Cluster::start();
    let store = open(settings(support::cluster(&cluster), "octo", "a"));
    let octo = group("octo");
    queue(&store, "d-1", 1, &octo).await;
    cluster.move_slot_of("{runner-manager:octo}:jobs");
    queue(&store, "d-2", 2, &octo).await;
    assert_eq!(samples::ids(&inbox(&store, &octo).await), ["d-1", "d-2"]);
}
