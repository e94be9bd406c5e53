//! The real binary on a real Redis that is killed, stalls, forgets, is full, read-only or not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/balancer.rs"]
mod balancer;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/service.rs"]
mod service;
#[path = "support/webhook.rs"]
mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fleet::Fleet;
use outside::resident;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::RedisServer;
use runner_manager::demo::github::JobStatus;
use serde_json::Value;

/// Longest time until a webhook that cannot be made durable is refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

fn durable() -> RedisServer {
    RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"])
}

fn delivery(n: u64) -> String {
    format!("{n:08x}-5f5f-11ef-8000-0123456789ab")
}

/// A webhook is refused in time, `_ready` says no, and the process lives.
async fn refused(fleet: &mut Fleet, port: u16, n: u64) {
    let began = Instant::now();
    let status = fleet.webhook(port, &delivery(n), n).await.unwrap();
    assert_eq!(status, 503, "after {:?}", began.elapsed());
    assert!(began.elapsed() < REFUSED_WITHIN, "{:?}", began.elapsed());
    fleet.until("it says that it is not ready", async |f| f.status(port, "/_ready").await == Some(503)).await;
    assert_eq!(fleet.status(port, "/_health").await, Some(200));
    assert!(fleet.alive(port));
}

/// The same webhook is taken once whatever was wrong is over, and its job is known.
async fn taken(fleet: &Fleet, port: u16, n: u64) {
    fleet.until("webhooks are taken again", async |f| f.webhook(port, &delivery(n), n).await.ok() == Some(202)).await;
    fleet.until("it is ready again", async |f| f.status(port, "/_ready").await == Some(200)).await;
    fleet.until("its job is known", async |f| f.try_api(port, &format!("/jobs/{n}")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_202_is_there_after_redis_was_killed_at_ten_random_moments() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("REPRODUCE: SEED={seed} cargo test --test serve_redis ten_random_moments");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    // Its group may run nothing: each job stays to be counted.
    let config = fleet.config(1, 1, |config| {
        config["runner_groups"][0]["backend"]["instance_config"]["command"] = serde_json::json!(["false"])
    });
    let port = fleet.start(&config).await;
    fleet.message(port, "g0", "drain").await;
    let fleet = Arc::new(fleet);
    let (next, refused) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (fleet, next, refused) = (Arc::clone(&fleet), Arc::clone(&next), Arc::clone(&refused));
            tokio::spawn(async move {
                let mut acknowledged = vec![];
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n > 200 {
                        return acknowledged;
                    }
                    // GitHub's answer to 503 is a redelivery, by hand or by an App: here at once.
                    while fleet.webhook(port, &delivery(n), n).await.unwrap() != 202 {
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                    acknowledged.push(n);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            })
        })
        .collect();
    for kill in 1..=10 {
        let due = kill * 200 / 11 + chance.random_range(0..5);
        fleet.until("it is time to kill", async |_| next.load(Ordering::SeqCst) >= due).await;
        redis.kill();
        redis.start_again();
    }
    let mut acknowledged = vec![];
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    assert_eq!(acknowledged.len(), 200);
    fleet
        .until("every acknowledged job is known", async |fleet| {
            let Ok(jobs) = fleet.try_api(port, "/jobs?limit=1000").await else { return false };
            let known: Vec<u64> = jobs.as_array().unwrap().iter().filter_map(|job| job["id"].as_u64()).collect();
            acknowledged.iter().all(|n| known.contains(n))
        })
        .await;
    println!("10 kills of redis-server, 200 webhooks acknowledged, {} refused before", refused.load(Ordering::SeqCst));
    // Not one more and not one twice.
    let jobs = fleet.api(port, "/jobs?limit=1000").await;
    assert_eq!(jobs.as_array().unwrap().len(), 200);
    for job in jobs.as_array().unwrap() {
        let shown = fleet.api(port, &format!("/jobs/{}", job["id"])).await;
        let received = shown["timeline"].as_array().unwrap().iter().filter(|entry| entry["what"] == "received").count();
        assert_eq!(received, 1, "{shown:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stalls_or_is_gone_refuses_webhooks_in_time_and_work_resumes_by_itself() {
    let mut redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(1, 2, |_| {});
    let port = fleet.start(&config).await;
    let memory = resident(fleet.pid(port));

    redis.pause();
    let stalled = Instant::now();
    refused(&mut fleet, port, 1).await;
    // As much as GitHub and a crowd may send in a stall of five seconds.
    let mut refusals = 0;
    while stalled.elapsed() < Duration::from_secs(5) {
        let crowd = (0..50).map(|n| {
            let (client, n) = (&fleet, 1000 + refusals + n);
            async move { client.webhook(port, &delivery(n), n).await.unwrap() }
        });
        for status in futures_util::future::join_all(crowd).await {
            assert!([503, 429].contains(&status), "{status}");
            refusals += 1;
        }
        assert_eq!(fleet.status(port, "/_ready").await, Some(503));
    }
    redis.resume();
    taken(&fleet, port, 1).await;

    redis.kill();
    refused(&mut fleet, port, 2).await;
    redis.start_again();
    taken(&fleet, port, 2).await;

    let job = fleet.queue(0, Duration::from_millis(100));
    fleet.until("a job is served", async |f| f.github.job(job).is_some_and(|j| j.status == JobStatus::Completed)).await;
    let grown = resident(fleet.pid(port)).saturating_sub(memory);
    println!("{refusals} webhooks refused in a stall of 5 s; {grown} kB more memory afterwards");
    let log = fleet.log(port);
    let said = log.lines().filter(|line| line.contains("not ready: the store")).count();
    assert!((1..=2).contains(&said), "an outage is said once, not at each probe of _ready:\n{log}");
    assert!(grown < 32 << 10, "{grown} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_its_data_is_told_again_and_nothing_is_deleted() {
    // Nothing on disk: it starts again empty.
    let mut redis = RedisServer::start();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(2, 2, |_| {});
    let port = fleet.start(&config).await;
    let running: Vec<_> = (0..4).map(|n| fleet.queue(n % 2, Duration::from_secs(12))).collect();
    fleet.until("four run", async |f| f.github.count_jobs(JobStatus::InProgress) == 4).await;
    let waiting: Vec<_> = (0..4).map(|n| fleet.queue(n % 2, Duration::from_millis(100))).collect();
    fleet
        .until("four more wait", async |f| {
            f.try_api(port, "/jobs?status=queued").await.is_ok_and(|jobs| jobs.as_array().unwrap().len() == 4)
        })
        .await;
    let before = fleet.processes();
    redis.kill();
    redis.start_again();
    assert_eq!(redis.cli(&["dbsize"]), "0", "it is really empty");
    fleet
        .until("it was told everything again", async |f| {
            let jobs = f.try_api(port, "/jobs?limit=100").await;
            let runners = f.try_api(port, "/runners?limit=100").await;
            jobs.is_ok_and(|jobs| jobs.as_array().unwrap().len() == 8)
                && runners.is_ok_and(|runners| runners.as_array().unwrap().len() == 4)
        })
        .await;
    assert_eq!(fleet.processes(), before);
    fleet
        .until("all are done", async |f| {
            f.github.redeliver_failed();
            running.iter().chain(&waiting).all(|job| f.github.job(*job).unwrap().status == JobStatus::Completed)
        })
        .await;
    assert!(fleet.github.killed_busy().is_empty());
    fleet.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_redis_at_the_start_means_adopt_what_is_ours() {
    let redis = RedisServer::start();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(1, 3, |_| {});
    let port = fleet.start(&config).await;
    for _ in 0..2 {
        fleet.queue(0, Duration::from_secs(6));
    }
    fleet.until("two run", async |f| f.github.count_jobs(JobStatus::InProgress) == 2).await;
    fleet.end(port, rustix::process::Signal::KILL);
    redis.cli(&["flushall"]);
    let port = fleet.start(&config).await;
    fleet
        .until("they are known again", async |f| {
            f.try_api(port, "/runners").await.is_ok_and(|runners| runners.as_array().unwrap().len() == 2)
        })
        .await;
    fleet
        .until("both are done", async |f| {
            f.github.redeliver_failed();
            f.done() == 2
        })
        .await;
    assert!(fleet.github.killed_busy().is_empty());
    fleet.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_read_only_or_misused_is_named_and_work_resumes_when_that_is_over() {
    let redis = durable();
    let other = RedisServer::start();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(1, 2, |_| {});
    let port = fleet.start(&config).await;
    let key = format!("{{runner-manager:{}}}:deliveries", fleet.name);
    let master = other.port().to_string();
    let (set, reset): (Vec<Vec<&str>>, Vec<Vec<&str>>) = [
        (vec!["config", "set", "maxmemory", "1mb"], vec!["config", "set", "maxmemory", "0"]),
        (vec!["replicaof", "127.0.0.1", &master], vec!["replicaof", "no", "one"]),
        (vec!["set", &key, "something else"], vec!["del", &key]),
    ]
    .into_iter()
    .unzip();
    for (n, (set, reset)) in (1..).zip(set.iter().zip(&reset)) {
        assert_eq!(redis.cli(set), "OK", "{set:?}");
        refused(&mut fleet, port, n).await;
        redis.cli(reset);
        taken(&fleet, port, n).await;
    }
    let log = fleet.log(port);
    for words in ["out of memory", "read-only", "expected"] {
        assert!(log.contains(words), "{words}:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_redis_waits_for_it_and_a_password_is_never_shown() {
    let mut redis = RedisServer::with(&["--requirepass", "very-secret-word"]);
    let url = redis.url().replace("redis://", "redis://:very-secret-word@");
    redis.kill();
    let mut fleet = Fleet::new(&url).await;
    let config = fleet.config(1, 2, |_| {});
    let port = fleet.launch(&config);
    fleet.until("it lives", async |f| f.status(port, "/_health").await == Some(200)).await;
    refused(&mut fleet, port, 1).await;
    redis.start_again();
    taken(&fleet, port, 1).await;
    let groups: Value = fleet.api(port, "/groups").await;
    let log = fleet.log(port);
    assert!(log.contains("127.0.0.1"), "{log}");
    assert!(!format!("{log}{groups}").contains("very-secret-word"), "{log}");
}
