//! The real binary with real processes: capacity, kill -9, shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;
use service::Site;

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_jobs_against_max_five_never_exceed_it_and_a_freed_place_is_used_within_100_ms() {
    let mut site = Site::new().await;
    let config = site.config(5, |_| {});
    site.start(&config).await;
    let peak = site.watch();
    site.queue(60, Duration::from_millis(150));
    site.until("all 60 are done", async |site| site.done() == 60).await;
    site.until_no_trace().await;
    let most = peak.most();
    assert!((1..=5).contains(&most), "{most} processes at once");
    assert!(site.github.killed_busy().is_empty());

    site.until("all 60 runners are gone", async |site| {
        site.api("/runners?state=gone&limit=1000").await.as_array().is_some_and(|all| all.len() >= 60)
    })
    .await;
    let mut requested = vec![];
    let mut gone = vec![];
    for runner in site.api("/runners?state=gone&limit=1000").await.as_array().unwrap() {
        let name = runner["name"].as_str().unwrap();
        let history = site.api(&format!("/runners/{name}")).await["history"].as_array().unwrap().clone();
        requested.push(time(&history[0]["at"]));
        gone.push(time(&history.last().unwrap()["at"]));
    }
    requested.sort();
    gone.sort();
    assert_eq!(requested.len(), 60);
    // The first five find a free place; each later one takes the place of one that went.
    let waits: Vec<i128> =
        requested[5..].iter().zip(&gone).map(|(next, free)| next.duration_since(*free).as_millis()).collect();
    let longest = waits.iter().max().unwrap();
    println!("freed place to next runner requested: longest {longest} ms of {} (peak {most} of 5)", waits.len());
    assert!(waits.iter().all(|ms| (0..=100).contains(ms)), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_ten_random_moments_loses_nothing_exceeds_nothing_and_leaks_nothing() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("REPRODUCE: SEED={seed} cargo test --test serve kill_9");
    let mut chance = StdRng::seed_from_u64(seed);
    let mut site = Site::new().await;
    let config = site.config(6, |_| {});
    site.start(&config).await;
    let peak = site.watch();
    for _ in 0..10 {
        site.queue(4, Duration::from_millis(chance.random_range(50..600)));
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..400))).await;
        site.kill();
        site.start(&config).await;
        // GitHub does not repeat what it could not deliver; an operator, or a later version, asks it to.
        site.github.redeliver_failed();
    }
    site.until("all 40 are done", async |site| {
        site.github.redeliver_failed();
        site.done() == 40
    })
    .await;
    site.until_no_trace().await;
    let most = peak.most();
    assert!((1..=6).contains(&most), "{most} processes at once");
    site.until("every job is final", async |site| {
        site.github.redeliver_failed();
        let jobs = site.api("/jobs?limit=1000").await;
        let jobs = jobs.as_array().unwrap().clone();
        jobs.len() == 40 && jobs.iter().all(|job| job["status"] == "completed")
    })
    .await;
    println!("10 kills, 40 jobs done, at most {most} of 6 processes, {} webhooks", site.github.hook_counts().sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_with_status_0_and_the_next_start_finds_its_runners_again() {
    let mut site = Site::new().await;
    let config = site.config(3, |_| {});
    site.start(&config).await;
    site.queue(3, Duration::from_secs(3));
    site.until("three run", async |site| {
        site.api("/runners?state=busy").await.as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    let began = Instant::now();
    let status = site.end(Signal::TERM);
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(site.processes(), 3, "instances are left running");
    site.start(&config).await;
    let runners = site.api("/runners").await;
    assert_eq!(runners.as_array().unwrap().len(), 3);
    site.until("all are done", async |site| {
        site.github.redeliver_failed();
        site.done() == 3
    })
    .await;
    site.until_no_trace().await;
    assert!(site.github.killed_busy().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_can_be_asked_why_it_waits_and_how_it_went() {
    let mut site = Site::new().await;
    let config = site.config(1, |_| {});
    site.start(&config).await;
    let first = site.queue(1, Duration::from_secs(2))[0].0;
    site.until("it is taken", async |site| site.api(&format!("/jobs/{first}")).await["status"] == "in_progress").await;
    let second = site.queue(1, Duration::from_millis(100))[0].0;
    site.until("it waits", async |site| site.api(&format!("/jobs/{second}")).await["status"] == "queued").await;
    let waiting = site.api(&format!("/jobs/{second}")).await;
    assert!(waiting["answer"].as_str().unwrap().contains("1 of at most 1"), "{waiting:#}");
    site.until("it is over", async |site| site.api(&format!("/jobs/{second}")).await["status"] == "completed").await;
    let done = site.api(&format!("/jobs/{second}")).await;
    let steps: Vec<&str> =
        done["timeline"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    for step in
        ["received", "matched", "waiting_for_capacity", "runner_requested", "instance_created", "taken", "finished"]
    {
        assert!(steps.contains(&step), "{step} is missing in {steps:?}");
    }
}
