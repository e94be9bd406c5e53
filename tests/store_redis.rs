//! What the store in Redis promises beyond the port's contract: its server stalls, restarts, fills up, is emptied, is
//! the wrong one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actors::id::{Cursor, FencingToken, JobId};
use actors::model::delivery::JobAction;
use actors::model::group::GroupSnapshot;
use actors::model::job::JobStatus;
use actors::model::runner::RunnerState;
use actors::model::secret::Secret;
use actors::port::store::{Changes, Horizon, JobFilter, Loaded, Recorded, RunnerFilter};
use actors::port::{Observation, Observer, Store, StoreError};
use runner_manager::store::Redis;
use runner_manager::store::redis::{Server, Settings, Tls, Topology};

#[path = "support/passage.rs"]
mod passage;
#[path = "support/redis.rs"]
mod redis;
#[path = "contract/store/samples.rs"]
mod samples;
#[path = "support/store_redis.rs"]
mod support;

use passage::Passage;
use redis::RedisServer;
use samples::*;
use support::{open, settings, single};

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store of the deployment `octo`.
fn store(redis: &RedisServer) -> Arc<dyn Store> {
    open(settings(single(redis), "octo", "a"))
}

fn key(name: &str) -> String {
    format!("{{runner-manager:octo}}:{name}")
}

/// The text of a refusal.
fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Tries until it works.
async fn eventually<T, F: Future<Output = Result<T, StoreError>>>(mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

async fn try_queue(store: &Arc<dyn Store>, id: &str, job: u64) -> Result<Recorded, StoreError> {
    store.record(Arc::new(delivery(id, job, JobAction::Queued, 0)), to(&group("octo"))).await
}

fn failures(failures: u32) -> Changes {
    Changes { snapshot: Some(GroupSnapshot { failures, ..snapshot(START) }), ..Changes::default() }
}

#[tokio::test]
async fn a_delivery_that_failed_halfway_is_recorded_when_it_comes_again() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let (octo, taking) = (group("octo"), group("taking"));
    redis.cli(&["set", &key("inbox:taking"), "no stream"]);
    let both = || {
        let mut route = to(&octo);
        route.runner_group = Some(taking.clone());
        store.record(Arc::new(delivery("d-1", 1, JobAction::InProgress, 0)), route)
    };
    let text = unavailable(both().await);
    assert!(text.contains("holds something else in a key of ours"), "{text}");
    redis.cli(&["del", &key("inbox:taking")]);
    assert_eq!(both().await, Ok(Recorded::New(vec![octo.clone(), taking.clone()])));
    assert_eq!(both().await, Ok(Recorded::Duplicate));
    assert_eq!(inbox(&store, &taking).await.len(), 1);
}

#[tokio::test]
async fn a_group_may_be_called_as_a_key_of_the_store() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let names = ["received", "octo"].map(group);
    for (n, name) in (1..).zip(&names) {
        assert_eq!(queue(&store, &format!("d-{n}"), n, name).await, Recorded::New(vec![name.clone()]));
        assert_eq!(ids(&inbox(&store, name).await), [format!("d-{n}")]);
        store.probe().await.unwrap();
    }
    // What was read leaves it, and what nobody reads is forgotten.
    let token = store.acquire(&names[0]).await.unwrap();
    let read = inbox(&store, &names[0]).await[0].cursor;
    store.save(&names[0], token, Changes { snapshot: Some(snapshot(read)), ..Changes::default() }).await.unwrap();
    assert!(inbox(&store, &names[0]).await.is_empty());
    queue(&store, "d-3", 1, &names[0]).await;
    store.prune(Horizon { deliveries: at(99), jobs: at(0), runners: at(0) }).await.unwrap();
    assert!(inbox(&store, &names[0]).await.is_empty());
    assert_eq!(redis.cli(&["zcard", &key("inbox:received")]), "0");
}

#[tokio::test]
async fn a_delivery_does_not_wait_for_the_connection_of_a_read() {
    let redis = RedisServer::start();
    let passage = Passage::to(redis.port()).await;
    let store = open(Settings { connections: 2, ..settings(support::through(&passage), "octo", "a") });
    let octo = group("octo");
    let reads = || futures_util::future::join_all((0..20).map(|_| store.group(&octo)));
    assert!(reads().await.iter().all(Result::is_ok));
    passage.hold();
    let (reads, recorded) = tokio::join!(reads(), try_queue(&store, "d-1", 1));
    assert!(reads.iter().all(Result::is_err), "no connection is left to them");
    assert_eq!(recorded, Ok(Recorded::New(vec![octo.clone()])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_is_carried_out_late_changes_nothing_that_was_saved_after_it() {
    let redis = RedisServer::start();
    let passage = Passage::to(redis.port()).await;
    let octo = group("octo");
    let quick = Settings { timeout: Duration::from_millis(300), ..settings(support::through(&passage), "octo", "a") };
    let store = open(quick);
    let token = store.acquire(&octo).await.unwrap();
    let let_go = || {
        let before = passage.late_answers();
        passage.let_go();
        redis::until("what was held is carried out", || (passage.late_answers() > before, String::new()));
    };
    passage.hold();
    unavailable(store.save(&octo, token, failures(1)).await);
    eventually(|| store.save(&octo, token, failures(2))).await;
    let_go();
    assert_eq!(store.group(&octo).await.unwrap().unwrap().failures, 2);
    // Nor does an acquisition, which would fence off its own caller.
    passage.hold();
    unavailable(store.acquire(&octo).await);
    let token = eventually(|| store.acquire(&octo)).await;
    let_go();
    store.save(&octo, token, failures(3)).await.unwrap();
}

#[tokio::test]
async fn a_stalled_server_is_used_again_when_it_goes_on() {
    let redis = RedisServer::start();
    let octo = group("octo");
    let quick = Settings { timeout: Duration::from_millis(300), ..settings(single(&redis), "octo", "a") };
    let store = open(quick);
    let token = store.acquire(&octo).await.unwrap();
    for round in 0..5 {
        redis.pause();
        unavailable(store.save(&octo, token, failures(10 * round + 1)).await);
        let retry = tokio::spawn({
            let (store, octo) = (store.clone(), octo.clone());
            async move { eventually(|| store.save(&octo, token, failures(10 * round + 2))).await }
        });
        redis.resume();
        retry.await.unwrap();
        assert_eq!(store.group(&octo).await.unwrap().unwrap().failures, 10 * round + 2);
    }
}

#[tokio::test]
async fn an_emptied_server_is_noticed_by_the_owner_and_by_nobody_else() {
    let redis = RedisServer::start();
    let (store, other) = (store(&redis), open(settings(single(&redis), "octo", "b")));
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    store.save(&octo, token, failures(1)).await.unwrap();
    redis.cli(&["flushall"]);
    let forgotten = Err(StoreError::Forgotten { group: octo.clone() });
    assert_eq!(store.save(&octo, token, failures(2)).await, forgotten);
    assert_eq!(other.save(&octo, token, failures(9)).await, Err(StoreError::Fenced { group: octo.clone(), token }));
    assert_eq!(store.group(&octo).await, Ok(None));
    // Acquired again, by a greater token, all can be saved.
    let again = store.acquire(&octo).await.unwrap();
    assert!(again > token);
    store.save(&octo, again, failures(3)).await.unwrap();
    // The store goes back to an earlier moment that knows the token, and not the last save.
    let earlier = redis.cli(&["hget", &key("seq"), "octo"]);
    store.save(&octo, again, failures(4)).await.unwrap();
    redis.cli(&["hset", &key("seq"), "octo", &earlier]);
    assert_eq!(store.save(&octo, again, failures(5)).await, forgotten);
    assert_eq!(store.group(&octo).await.unwrap().unwrap().failures, 4);
    // Or to one before it was acquired.
    redis.cli(&["hset", &key("tokens"), "octo", &token.to_string()]);
    assert_eq!(store.save(&octo, again, failures(5)).await, forgotten);
    // Somebody else owns it: that weighs more.
    other.acquire(&octo).await.unwrap();
    assert_eq!(
        store.save(&octo, again, failures(6)).await,
        Err(StoreError::Fenced { group: octo.clone(), token: again })
    );
}

#[tokio::test]
async fn places_and_tokens_grow_although_the_server_was_emptied() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let octo = group("octo");
    let (mut place, mut token) = (Cursor(0), FencingToken(0));
    for n in 0..3 {
        queue(&store, "d-1", n, &octo).await;
        let (now, newest) = (inbox(&store, &octo).await[0].cursor, store.acquire(&octo).await.unwrap());
        assert!(now > place && newest > token);
        (place, token) = (now, newest);
        redis.cli(&["flushall"]);
    }
}

#[tokio::test]
async fn a_database_of_something_else_is_refused_and_named() {
    let redis = RedisServer::start();
    redis.cli(&["lpush", &key("jobs"), "no hash"]);
    let strange = store(&redis);
    let start = Instant::now();
    for text in [unavailable(strange.probe().await), unavailable(strange.load(&group("octo")).await)] {
        let expected =
            "key {runner-manager:octo}:jobs holds a list, expected a hash: is this database used by something else?";
        assert!(text.ends_with(expected), "{text}");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "what does not end by itself is told at once");
    redis.cli(&["del", &key("jobs")]);
    eventually(|| strange.probe()).await;
    // Also when it comes later.
    redis.cli(&["set", &key("unsaved"), "x"]);
    assert!(unavailable(strange.probe().await).contains("unsaved holds a string, expected a zset"));
}

#[tokio::test]
async fn a_newer_release_s_state_is_refused_and_left_as_it_is() {
    let redis = RedisServer::start();
    redis.cli(&["set", &key("schema"), "2"]);
    let text = unavailable(try_queue(&store(&redis), "d-1", 1).await);
    assert!(text.contains("holds the state of a newer release (schema 2, this one knows up to 1)"), "{text}");
    assert_eq!(redis.cli(&["keys", "*"]), key("schema"));
}

#[tokio::test]
async fn a_server_that_would_throw_state_away_is_refused() {
    let redis = RedisServer::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let store = store(&redis);
    let text = unavailable(store.probe().await);
    assert!(text.contains("maxmemory-policy allkeys-lru): set noeviction"), "{text}");
    redis.cli(&["config", "set", "maxmemory-policy", "noeviction"]);
    eventually(|| store.probe()).await;
}

#[tokio::test]
async fn a_full_server_refuses_writes_as_a_whole_and_is_read_and_pruned_on() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let octo = group("octo");
    queue(&store, "d-1", 1, &octo).await;
    let token = store.acquire(&octo).await.unwrap();
    let before = redis.cli(&["dbsize"]);
    redis.cli(&["config", "set", "maxmemory", "1"]);
    for result in [
        try_queue(&store, "d-2", 2).await.map(drop),
        store.save(&octo, token, jobs([job(1, Some(&octo), JobStatus::Queued, 0)])).await,
        store.probe().await,
    ] {
        let text = unavailable(result);
        assert!(text.ends_with("is out of memory (maxmemory): raise it, or free some"), "{text}");
    }
    assert_eq!(redis.cli(&["dbsize"]), before, "nothing of them was written");
    assert_eq!(ids(&inbox(&store, &octo).await), ["d-1"]);
    let all = Horizon { deliveries: at(9), jobs: at(9), runners: at(9) };
    assert_eq!(store.prune(all).await, Ok(1));
    assert_eq!(inbox(&store, &octo).await, []);
    redis.cli(&["config", "set", "maxmemory", "0"]);
    assert_eq!(try_queue(&store, "d-2", 2).await, Ok(Recorded::New(vec![octo])));
}

#[tokio::test]
async fn a_replica_is_refused_and_a_master_that_became_one_is_left() {
    let master = RedisServer::start();
    let replica = RedisServer::replica_of(&master);
    let text = unavailable(store(&replica).probe().await);
    assert!(text.ends_with("is a read-only replica: name the master, or its Sentinels"), "{text}");
    let store = store(&master);
    store.probe().await.unwrap();
    let port = replica.port().to_string();
    replica.cli(&["replicaof", "no", "one"]);
    master.cli(&["replicaof", "127.0.0.1", &port]);
    let text = unavailable(try_queue(&store, "d-1", 1).await);
    assert!(text.contains("is a read-only replica"), "{text}");
    master.cli(&["replicaof", "no", "one"]);
    eventually(|| try_queue(&store, "d-1", 1)).await;
}

#[tokio::test]
async fn forgotten_scripts_and_cut_connections_are_not_noticed() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    for n in 0..5 {
        redis.cli(&["script", "flush"]);
        assert_eq!(queue(&store, &format!("s-{n}"), n, &octo).await, Recorded::New(vec![octo.clone()]));
        redis.cli(&["script", "flush"]);
        assert_eq!(inbox(&store, &octo).await.len(), 2 * n as usize + 1);
        redis.cli(&["client", "kill", "type", "normal"]);
        assert_eq!(queue(&store, &format!("k-{n}"), n, &octo).await, Recorded::New(vec![octo.clone()]));
        redis.cli(&["client", "kill", "type", "normal"]);
        store.save(&octo, token, Changes::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_stalled_server_is_told_in_time_and_what_waits_is_bounded() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let octo = group("octo");
    queue(&store, "first", 1, &octo).await;
    redis.pause();
    let start = Instant::now();
    let writes: Vec<_> = (0..12_000)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { try_queue(&store, &format!("d-{n}"), n).await })
        })
        .collect();
    let reads: Vec<_> = (0..1500)
        .map(|_| {
            let (store, octo) = (store.clone(), octo.clone());
            tokio::spawn(async move { store.group(&octo).await })
        })
        .collect();
    let (mut overloaded, mut late) = (0, 0);
    for write in writes {
        match write.await.unwrap() {
            Err(StoreError::Overloaded(waiting)) => {
                assert_eq!(waiting, 8192);
                overloaded += 1;
            }
            Err(StoreError::Unavailable(text)) => {
                assert!(text.contains("did not answer within 1") && text.starts_with("Redis at 127.0.0.1:"), "{text}");
                late += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(overloaded + late, 12_000);
    assert!((12_000 - 8192 - 128..=12_000 - 8192).contains(&overloaded), "{overloaded}");
    for read in reads {
        unavailable(read.await.unwrap());
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let start = Instant::now();
    unavailable(try_queue(&store, "one", 1).await);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    redis.resume();
    eventually(|| try_queue(&store, "last", 1)).await;
    // Of those whose callers had gone, only what was sent before is there.
    assert!(inbox(&store, &octo).await.len() <= 2 + 2 * 128);
}

#[tokio::test]
async fn a_restarted_server_is_used_again_with_all_that_was_acknowledged() {
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = store(&redis);
    let octo = group("octo");
    let token = store.acquire(&octo).await.unwrap();
    queue(&store, "d-1", 1, &octo).await;
    store.save(&octo, token, failures(1)).await.unwrap();
    redis.kill();
    let text = unavailable(try_queue(&store, "d-2", 2).await);
    assert!(text.contains("refuses connections: does it run there?"), "{text}");
    redis.start_again();
    eventually(|| try_queue(&store, "d-3", 3)).await;
    assert_eq!(ids(&inbox(&store, &octo).await), ["d-1", "d-3"]);
    store.save(&octo, token, failures(2)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_later_is_waited_for() {
    let mut redis = RedisServer::start();
    redis.kill();
    let store = store(&redis);
    assert!(unavailable(store.probe().await).contains("refuses connections"));
    redis.start_again();
    eventually(|| store.probe()).await;
}

#[tokio::test]
async fn without_the_replicas_that_are_asked_for_nothing_is_acknowledged() {
    let redis = RedisServer::start();
    let careful = open(Settings { wait_replicas: 1, ..settings(single(&redis), "octo", "a") });
    for attempt in 0..2 {
        let text = unavailable(try_queue(&careful, "d-1", 1).await);
        assert!(text.contains("0 of the 1 replicas that redis_wait_replicas asks for"), "{attempt}: {text}");
    }
    let _replica = RedisServer::replica_of(&redis);
    // It is there already, and at the replica as well now.
    assert_eq!(eventually(|| try_queue(&careful, "d-1", 1)).await, Recorded::Duplicate);
    queue(&careful, "d-2", 2, &group("octo")).await;
}

#[tokio::test]
async fn a_password_is_used_and_never_shown() {
    let redis = RedisServer::with(&["--requirepass", "correct-horse"]);
    let with = |password: Option<&str>| Server {
        password: password.map(|password| Secret::new(password.to_owned())),
        ..single(&redis)
    };
    open(settings(with(Some("correct-horse")), "octo", "a")).probe().await.unwrap();
    let text = unavailable(open(settings(with(None), "octo", "a")).probe().await);
    assert!(text.ends_with("asks for a password: give one"), "{text}");
    let wrong = settings(with(Some("battery-staple")), "octo", "a");
    assert!(!format!("{wrong:?}").contains("battery-staple"));
    let text = unavailable(open(wrong).probe().await);
    assert!(text.ends_with("refuses the user name or password"), "{text}");
}

#[tokio::test]
async fn the_keys_of_the_first_release_are_read() {
    let redis = RedisServer::start();
    // What the first release wrote, a command in each line. Never changes.
    for line in include_str!("fixtures/store/redis-v1.jsonl").lines() {
        let words: Vec<String> = serde_json::from_str(line).unwrap();
        redis.cli(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let store = store(&redis);
    let octo = group("octo");
    let loaded = store.load(&octo).await.unwrap();
    assert_eq!(loaded.set_aside, 0);
    assert_eq!(loaded.snapshot, Some(snapshot(Cursor(1_795_875_593_548_389))));
    let states = RunnerState::ALL.into_iter().zip(1..);
    let runners: Vec<_> = states.map(|(state, n)| runner(&octo, n, state, 5)).collect();
    assert_eq!(loaded.runners, runners[..7]);
    for runner in &runners {
        assert_eq!(store.runner(&runner.name).await.unwrap().as_ref(), Some(runner));
    }
    for (status, n) in JobStatus::ALL.into_iter().zip(1..) {
        let owner = (status != JobStatus::Unmatched).then_some(&octo);
        assert_eq!(store.job(JobId(n)).await.unwrap(), Some(every_milestone(job(n, owner, status, 5))));
    }
    let entries = inbox(&store, &octo).await;
    let actions = [JobAction::Waiting, JobAction::InProgress, JobAction::Completed];
    let expected = actions.into_iter().zip(2..).map(|(action, n)| delivery(&format!("d-{n}"), n, action, 5));
    assert!(entries.iter().map(|entry| entry.delivery.clone()).eq(expected));
    assert_eq!(queue(&store, "d-1", 1, &octo).await, Recorded::Duplicate);
    assert_eq!(queue(&store, "d-9", 1, &group("other")).await, Recorded::New(vec![octo.clone()]));
    assert!(store.acquire(&octo).await.unwrap() > FencingToken(1_795_875_593_547_914));
    let all = Horizon { deliveries: at(99), jobs: at(99), runners: at(99) };
    assert_eq!(store.prune(all).await, Ok(6 + 2 + 2));
}

#[tokio::test]
async fn an_encrypted_server_is_verified() {
    // As the program does when it starts.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let redis = RedisServer::mutual_tls();
    let with = |ca: Option<&std::path::Path>, client: bool| {
        let file = |path: &std::path::Path| std::fs::read(path).unwrap();
        let key = || Secret::new(String::from_utf8(file(&redis.key_file())).unwrap());
        let tls = Tls { ca_pem: ca.map(file), client_pem: client.then(|| (file(&redis.cert_file()), key())) };
        open(settings(Server { tls: Some(tls), ..single(&redis) }, "octo", "a"))
    };
    with(Some(&redis.ca_file()), true).probe().await.unwrap();
    let other = RedisServer::tls();
    for refused in [with(Some(&redis.ca_file()), false), with(Some(&other.ca_file()), true), with(None, true)] {
        let text = unavailable(refused.probe().await);
        assert!(text.contains("the connection to Redis at 127.0.0.1:"), "{text}");
    }
    let garbage = Tls {
        ca_pem: Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()),
        client_pem: None,
    };
    let settings = settings(Server { tls: Some(garbage), ..single(&redis) }, "octo", "a");
    let error = Redis::open(settings, Arc::new(support::Quiet)).err().unwrap().to_string();
    assert!(error.starts_with("cannot use the certificates for Redis at 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_socket_of_this_machine_leads_to_the_same_server() {
    let redis = RedisServer::start();
    let path = redis.unix_url().split_once("://").unwrap().1.into();
    let local = open(settings(support::server(Topology::Unix { path }), "octo", "a"));
    queue(&local, "d-1", 1, &group("octo")).await;
    assert_eq!(queue(&store(&redis), "d-1", 1, &group("octo")).await, Recorded::Duplicate);
}

/// Counts what it is told was set aside.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, u32>>);

impl Observer for Counts {
    fn observe(&self, observation: &Observation<'_>) {
        if let Observation::SnapshotsSetAside { group, count } = observation {
            *self.0.lock().unwrap().entry(group.to_string()).or_default() += count;
        }
    }
}

#[tokio::test]
async fn unreadable_entries_are_set_aside_once_and_the_rest_is_read() {
    let redis = RedisServer::start();
    let octo = group("octo");
    let counts = Arc::new(Counts::default());
    let store: Arc<dyn Store> = Arc::new(Redis::open(settings(single(&redis), "octo", "a"), counts.clone()).unwrap());
    let token = store.acquire(&octo).await.unwrap();
    for n in 1..=4 {
        queue(&store, &format!("d-{n}"), n, &octo).await;
    }
    let cursors: Vec<_> = inbox(&store, &octo).await.iter().map(|entry| entry.cursor).collect();
    let changes = Changes {
        snapshot: Some(snapshot(cursors[0])),
        runners: (1..=4).map(|n| Arc::new(runner(&octo, n, RunnerState::Idle, 0))).collect(),
        jobs: (1..=4).map(|n| Arc::new(job(n, Some(&octo), JobStatus::Queued, 0))).collect(),
    };
    store.save(&octo, token, changes).await.unwrap();
    let runner_key = |n| octo.runner_name(n).to_string();
    let newer = redis.cli(&["hget", &key("runners"), &runner_key(2)]).replacen("{\"v\":1", "{\"v\":7", 1);
    redis.cli(&["hset", &key("runners"), &runner_key(1), "garbage", &runner_key(2), &newer]);
    redis.cli(&["hset", &key("jobs"), &format!("{:020}", 3), "x"]);
    redis.cli(&["hset", &key("groups"), "octo", ""]);
    let loaded = store.load(&octo).await.unwrap();
    assert_eq!((loaded.set_aside, loaded.snapshot), (4, None));
    assert_eq!(loaded.runners, [3, 4].map(|n| runner(&octo, n, RunnerState::Idle, 0)));
    assert_eq!(loaded.jobs, [1, 2, 4].map(|n| job(n, Some(&octo), JobStatus::Queued, 0)));
    let again = store.load(&octo).await.unwrap();
    assert_eq!(again, Loaded { set_aside: 0, snapshot: None, runners: loaded.runners, jobs: loaded.jobs });
    assert!(counts.0.lock().unwrap().is_empty(), "what is in the answer is counted by whoever asked");
    // Its owner's token does not go back, and its jobs stay its jobs.
    store.save(&octo, token, Changes::default()).await.unwrap();
    assert_eq!(queue(&store, "d-9", 3, &group("other")).await, Recorded::New(vec![octo.clone()]));

    // Every other read passes over them as well, and counts them.
    redis.cli(&["hset", &key("jobs"), &format!("{:020}", 4), "x", &format!("{:020}", 2), "x"]);
    redis.cli(&["hset", &key("runners"), &runner_key(3), "x"]);
    redis.cli(&[
        "xadd",
        &key("inbox:octo"),
        &format!("{}-1", cursors[3].0 + 1_000_000_000),
        "assigned",
        "1",
        "job",
        "9",
        "body",
        "x",
    ]);
    let entries = inbox(&store, &octo).await;
    assert_eq!(ids(&entries), ["d-2", "d-3", "d-4", "d-9"]);
    assert!(entries.iter().all(|entry| entry.known.is_none()));
    assert_eq!(store.job(JobId(4)).await, Ok(None));
    assert_eq!(store.jobs(&JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().len(), 1);
    assert_eq!(store.runners(&RunnerFilter { limit: 9, ..RunnerFilter::default() }).await.unwrap().len(), 1);
    assert_eq!(counts.0.lock().unwrap().get("octo"), Some(&4));
    assert_eq!(redis.cli(&["xlen", &key("set_aside")]), "8");
    let kept = redis.cli(&["xrange", &key("set_aside"), "-", "+"]);
    assert!(kept.contains("runner has version 7, this release knows versions up to 1"), "{kept}");
    assert!(kept.contains("\ngarbage"), "{kept}");
}

#[tokio::test]
async fn what_is_set_aside_and_what_unreadable_deliveries_hold_up_is_bounded() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let octo = group("octo");
    let script = "for n = 1, 1500 do redis.call('XADD', KEYS[1], n .. '-1', 'assigned', '1', 'job', n, 'body', string.rep('x', 70000)) end";
    redis.cli(&["eval", script, "1", &key("inbox:octo")]);
    queue(&store, "d-1", 1, &octo).await;
    queue(&store, "d-2", 2, &octo).await;
    assert_eq!(ids(&store.inbox(&octo, Cursor(0), 1).await.unwrap()), ["d-1"]);
    assert_eq!(ids(&store.inbox(&octo, Cursor(0), 9).await.unwrap()), ["d-1", "d-2"]);
    assert_eq!(redis.cli(&["xlen", &key("set_aside")]), "1000");
    let newest = redis.cli(&["xrevrange", &key("set_aside"), "+", "-", "count", "1"]);
    assert_eq!(newest.lines().last().unwrap().len(), 64 << 10);
}
