//! Several replicas of the real binary on one real Redis: sharing, kill -9, a pause, SIGTERM, the admin API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/balancer.rs"]
mod balancer;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/service.rs"]
mod service;
#[path = "support/webhook.rs"]
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fleet::Fleet;
use redis::RedisServer;
use runner_manager::demo::github::{JobStatus, Operation};
use rustix::process::Signal;
use serde_json::Value;

/// Groups of the tests that share them out.
const GROUPS: usize = 20;

fn durable() -> RedisServer {
    RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"])
}

/// Waits until the replicas own what they should; returns how long that took.
async fn until_owned(fleet: &Fleet, ports: &[u16], counts: std::ops::RangeInclusive<usize>) -> Duration {
    let began = Instant::now();
    fleet
        .until("the groups are owned", async |fleet| {
            let mut all = 0;
            for port in ports {
                let owned = fleet.owned(*port).await;
                if !counts.contains(&owned) {
                    return false;
                }
                all += owned;
            }
            all == GROUPS
        })
        .await;
    began.elapsed()
}

/// Runner names that were registered more than once, and the number of registrations.
fn registrations(fleet: &Fleet) -> (Vec<String>, usize) {
    let mut names = BTreeMap::new();
    for runner in fleet.github.runners() {
        *names.entry(runner.name).or_insert(0) += 1;
    }
    let twice = names.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name.clone()).collect();
    (twice, fleet.github.count_requests(Operation::GenerateJitConfig) as usize)
}

/// Every job of GitHub's is known and completed here.
async fn until_all_final(fleet: &Fleet, port: u16, jobs: usize) {
    fleet
        .until("every job is final", async |fleet| {
            fleet.github.redeliver_failed();
            let Ok(known) = fleet.try_api(port, "/jobs?limit=1000").await else { return false };
            let known = known.as_array().unwrap();
            known.len() == jobs && known.iter().all(|job| job["status"] == "completed")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_twenty_groups_and_one_goes_on_alone_when_the_other_is_killed() {
    let redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(GROUPS, 2, |_| {});
    let first = fleet.start(&config).await;
    assert_eq!(fleet.owned(first).await, GROUPS, "alone it owns everything");
    let second = fleet.start(&config).await;
    // 40 to 60 %.
    until_owned(&fleet, &[first, second], 8..=12).await;

    let peak = fleet.watch();
    for n in 0..100 {
        fleet.queue(n % GROUPS, Duration::from_millis(400));
    }
    fleet.until("a third is done", async |fleet| fleet.done() >= 33).await;
    fleet.end(first, Signal::KILL);
    let took = until_owned(&fleet, &[second], GROUPS..=GROUPS).await;
    fleet
        .until("all 100 are done", async |fleet| {
            fleet.github.redeliver_failed();
            fleet.done() == 100
        })
        .await;
    until_all_final(&fleet, second, 100).await;
    fleet.until_no_trace().await;

    let most = peak.most();
    let (twice, created) = registrations(&fleet);
    println!(
        "take-over after kill -9: {took:.1?}; at most {most} of {} processes, {created} registrations",
        2 * GROUPS
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!((1..=2 * GROUPS).contains(&most), "{most} processes at once");
    assert_eq!(twice, Vec::<String>::new());
    assert!(fleet.github.killed_busy().is_empty());
    max_never_exceeded(&fleet, second, 2).await;
}

/// By the histories of all runners: at no moment had a group more than `max` between requested and gone.
async fn max_never_exceeded(fleet: &Fleet, port: u16, max: i32) {
    let mut changes: BTreeMap<String, BTreeMap<(jiff::Timestamp, i32), i32>> = BTreeMap::new();
    for runner in fleet.api(port, "/runners?state=gone&limit=1000").await.as_array().unwrap() {
        let name = runner["name"].as_str().unwrap();
        let history = fleet.api(port, &format!("/runners/{name}")).await["history"].as_array().unwrap().clone();
        let time = |entry: &Value| entry["at"].as_str().unwrap().parse().unwrap();
        let group = changes.entry(runner["group"].as_str().unwrap().to_owned()).or_default();
        // A place that is freed and taken in the same moment is freed first.
        *group.entry((time(history.last().unwrap()), -1)).or_default() -= 1;
        *group.entry((time(&history[0]), 1)).or_default() += 1;
    }
    assert!(!changes.is_empty());
    for (group, changes) in changes {
        let mut count = 0;
        for ((at, _), change) in changes {
            count += change;
            assert!(count <= max, "{group} had {count} runners at {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_stopped_for_forty_seconds_changes_nothing_when_it_goes_on() {
    let redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(GROUPS, 2, |_| {});
    let (first, second) = (fleet.start(&config).await, fleet.start(&config).await);
    until_owned(&fleet, &[first, second], 8..=12).await;
    let peak = fleet.watch();
    for n in 0..60 {
        fleet.queue(n % GROUPS, Duration::from_secs(1));
    }
    fleet.until("some run", async |fleet| fleet.github.count_jobs(JobStatus::InProgress) >= 10).await;
    fleet.balancer.remove(first);
    fleet.signal(first, Signal::STOP);
    let stopped = Instant::now();
    let took = until_owned(&fleet, &[second], GROUPS..=GROUPS).await;
    fleet
        .until("all 60 are done", async |fleet| {
            fleet.github.redeliver_failed();
            fleet.done() == 60
        })
        .await;
    until_all_final(&fleet, second, 60).await;
    fleet.until("nothing is registered", async |fleet| fleet.github.registered() == 0).await;
    // The pause itself is what is tested: its length is the length of a pause that breaks a lease many times over.
    tokio::time::sleep(Duration::from_secs(40).saturating_sub(stopped.elapsed())).await;
    let (calls, before) = (fleet.github.requests().len(), everything(&fleet, second).await);
    fleet.signal(first, Signal::CONT);

    // It is a member again, and gets its share by the usual way.
    until_owned(&fleet, &[first, second], 8..=12).await;
    let mut wrong = vec![];
    for request in &fleet.github.requests()[calls..] {
        if matches!(request.operation, Operation::GenerateJitConfig | Operation::DeleteRunner) {
            wrong.push(format!("{request:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "it acted on what it remembered");
    let after = everything(&fleet, second).await;
    for (what, state) in before {
        let now = after.get(&what).unwrap_or_else(|| panic!("{what} is gone"));
        for (field, value) in state.as_object().unwrap() {
            // A webhook that the stopped process held may say what was not known; nothing that was known changes.
            assert!(value.is_null() || now[field] == *value, "{what} was overwritten: {state}, now {now}");
        }
    }
    let most = peak.most();
    let (twice, _) = registrations(&fleet);
    println!("take-over from a stopped process: {took:.1?}; at most {most} of {} processes", 2 * GROUPS);
    assert_eq!(twice, Vec::<String>::new());
    assert!(most <= 2 * GROUPS, "{most} processes at once");
    assert!(fleet.github.killed_busy().is_empty());
    fleet.until_no_trace().await;
}

/// All runners and jobs, as the admin API tells them.
async fn everything(fleet: &Fleet, port: u16) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for path in ["/runners?state=gone&limit=1000", "/runners?limit=1000", "/jobs?limit=1000"] {
        for item in fleet.api(port, path).await.as_array().unwrap() {
            let id = item.get("name").filter(|_| path.starts_with("/runners")).unwrap_or(&item["id"]);
            all.insert(format!("{path} {id}"), item.clone());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_leaves_on_sigterm_is_followed_within_two_seconds() {
    let redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(GROUPS, 2, |_| {});
    let (first, second) = (fleet.start(&config).await, fleet.start(&config).await);
    until_owned(&fleet, &[first, second], 8..=12).await;
    for n in 0..40 {
        fleet.queue(n % GROUPS, Duration::from_secs(2));
    }
    fleet.until("some run", async |fleet| fleet.github.count_jobs(JobStatus::InProgress) >= 10).await;
    fleet.balancer.remove(first);
    fleet.signal(first, Signal::TERM);
    let took = until_owned(&fleet, &[second], GROUPS..=GROUPS).await;
    println!("take-over after SIGTERM: {took:.2?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(fleet.end(first, Signal::TERM).success());
    fleet
        .until("all 40 are done", async |fleet| {
            fleet.github.redeliver_failed();
            fleet.done() == 40
        })
        .await;
    until_all_final(&fleet, second, 40).await;
    fleet.until_no_trace().await;
    assert_eq!(registrations(&fleet).0, Vec::<String>::new());
    assert!(fleet.github.killed_busy().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_answers_for_every_group_and_passes_messages_on() {
    let redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    let config = fleet.config(GROUPS, 2, |_| {});
    let (first, second) = (fleet.start(&config).await, fleet.start(&config).await);
    until_owned(&fleet, &[first, second], 8..=12).await;
    for port in [first, second] {
        let all_run = async |fleet: &Fleet| {
            let groups = fleet.api(port, "/groups").await;
            groups.as_array().unwrap().iter().all(|group| group["health"] == "running")
        };
        fleet.until("it knows who runs each group", all_run).await;
    }
    for n in 0..GROUPS {
        let group = format!("g{n}");
        let (status, answer) = fleet.message(first, &group, "create_runner").await;
        assert_eq!(status, 202, "{group}: {answer}");
        let runner = answer["runner"].as_str().unwrap().to_owned();
        // Whoever is asked sees it, once it is saved: right after the answer.
        for port in [first, second] {
            let path = format!("/runners/{runner}");
            fleet.until("the runner is seen", async |fleet| fleet.try_api(port, &path).await.is_ok()).await;
            let shown = fleet.api(port, &format!("/runners/{runner}")).await;
            assert_eq!(shown["group"], *group, "{shown}");
        }
        let (status, answer) = fleet.message(second, &group, "drain").await;
        assert_eq!(status, 202, "{group}: {answer}");
    }
    let (mut names, mut owners) = (BTreeSet::new(), BTreeSet::new());
    for port in [first, second] {
        let groups = fleet.api(port, "/groups").await;
        names.insert(groups.as_array().unwrap().iter().map(|g| g["name"].to_string()).collect::<Vec<_>>());
        owners.insert(groups.as_array().unwrap().iter().map(|g| g["replica"].to_string()).collect::<Vec<_>>());
        assert!(groups.as_array().unwrap().iter().all(|g| g["health"] == "running"), "{groups:#}");
    }
    assert_eq!((names.len(), owners.len()), (1, 1), "both say the same");
    assert_eq!(owners.iter().flatten().collect::<BTreeSet<_>>().len(), 2, "{owners:?}");
    // An error of the owner passes through as well.
    let (status, answer) = fleet.message(first, "g0", "nonsense").await;
    assert_eq!(status, 422, "{answer}");
    let [status_of_one, status_of_other] = [first, second].map(|port| (port, "g1"));
    for (port, group) in [status_of_one, status_of_other] {
        let (status, answer) = fleet.message(port, group, "create_runner").await;
        assert_eq!(status, 409, "a drained group creates none: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_configuration_lacks_groups_of_another_says_so_once() {
    const WORDS: &str = "not in the configuration of this one";
    let redis = durable();
    let mut fleet = Fleet::new(&redis.url()).await;
    let (fewer, more) = (fleet.config(1, 2, |_| {}), fleet.config(3, 2, |_| {}));
    let (first, second) = (fleet.start(&fewer).await, fleet.start(&more).await);
    fleet.until("it is said", async |fleet| fleet.log(first).contains(WORDS)).await;
    // All three are owned after several more beats.
    fleet.until("all run", async |fleet| fleet.owned(first).await + fleet.owned(second).await == 3).await;
    let log = fleet.log(first);
    let said: Vec<&str> = log.lines().filter(|line| line.contains(WORDS)).collect();
    assert!(said.len() == 1 && said[0].contains("g1, g2"), "{log}");
    assert!(!fleet.log(second).contains(WORDS), "{}", fleet.log(second));
}
