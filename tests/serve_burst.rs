//! The real binary in a burst of webhooks ten times the usual one, and asleep while they come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/outside.rs"]
mod outside;
#[path = "support/service.rs"]
mod service;
#[path = "support/webhook.rs"]
mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outside::{forget_peak, peak, resident};
use runner_manager::demo::github::{DeliveryStatus, Settings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use service::Site;
use tokio::task::JoinSet;
use webhook::Webhook;

/// Webhooks of the burst.
const BURST: u64 = 5000;
/// Connections that they come on.
const CONNECTIONS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_webhooks_at_once_are_taken_or_refused_in_words_and_none_that_was_taken_is_lost() {
    let mut site = Site::new().await;
    let config = site.config(2, |config| {
        let mut burst = config["runner_groups"][0].clone();
        (burst["name"], burst["labels"]) = (json!("octo-burst"), json!(["burst"]));
        config["runner_groups"].as_array_mut().unwrap().push(burst);
    });
    site.start(&config).await;
    // Its jobs wait: they can be counted.
    site.message_to("octo-burst", "drain").await;
    let (port, pid) = (site.port, site.pid());
    let memory = resident(pid);
    forget_peak(pid);
    let webhooks: Arc<Vec<Webhook>> =
        Arc::new((1..=BURST).map(|job| Webhook::queued(&site.secret, job, "burst")).collect());

    // Real jobs of another group in the middle of it.
    site.queue(4, Duration::from_millis(200));
    let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut senders = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (webhooks, next, client) = (Arc::clone(&webhooks), Arc::clone(&next), site.client.clone());
        senders.spawn(async move {
            let (mut taken, mut refused) = (vec![], 0);
            while let Some(webhook) = webhooks.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                let answer = webhook.request(&client, port).send().await.unwrap();
                match answer.status().as_u16() {
                    202 => taken.push(u64::from_str_radix(&webhook.delivery[..8], 16).unwrap()),
                    503 => {
                        assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
                        refused += 1;
                    }
                    status => panic!("{status}"),
                }
            }
            (taken, refused)
        });
    }
    let (mut taken, mut refused) = (vec![], 0);
    while let Some(some) = senders.join_next().await {
        let (more, refusals) = some.unwrap();
        taken.extend(more);
        refused += refusals;
    }
    let took = begun.elapsed();
    site.until("the jobs of the other group are done", async |site| site.done() == 4).await;
    let served = begun.elapsed();
    let grown = peak(pid) - memory;
    println!(
        "{BURST} webhooks of {} bytes at {CONNECTIONS} connections in {took:.2?}: {:.0}/s, {} taken, {refused} refused",
        webhooks[0].body.len(),
        BURST as f64 / took.as_secs_f64(),
        taken.len()
    );
    println!("memory: {memory} kB before, at most {grown} kB more; four jobs of another group done after {served:.2?}");
    assert!(taken.len() as u64 > BURST / 10, "{} taken", taken.len());

    // 10 kB for each job that waits: what is known of it, and its part in the deliveries not stepped through yet.
    assert!(grown < BURST * 10, "{grown} kB");
    site.until("all that was taken is stepped through", async |site| {
        site.text("/metrics").await.contains("runner_manager_inbox_depth{group=\"octo-burst\"} 0\n")
    })
    .await;
    let metrics = site.text("/metrics").await;
    let demand = metrics.lines().find_map(|line| line.strip_prefix("runner_manager_demand{group=\"octo-burst\"} "));
    // What was refused because its answer would have come too late may have been recorded all the same.
    let demand: u64 = demand.unwrap().parse().unwrap();
    assert!((taken.len() as u64..=BURST).contains(&demand), "{demand} in demand");
    for job in taken.iter().step_by(500) {
        let path = format!("/jobs/{job}");
        site.until("it is known", async |site| site.api(&path).await["status"] == "queued").await;
    }
    site.until("no process is left", async |site| site.processes() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_while_webhooks_came_answers_late_or_is_told_again_and_loses_nothing() {
    // More impatient than GitHub, which gives up after 10 s.
    let settings = Settings { webhook_timeout: Duration::from_secs(3), ..Settings::default() };
    let mut site = Site::with(settings).await;
    let config = site.config(3, |_| {});
    site.start(&config).await;
    let peak = site.watch();
    let mut jobs = site.queue(3, Duration::from_secs(4));
    site.until("three run", async |site| {
        site.api("/runners?state=busy").await.as_array().is_some_and(|all| all.len() == 3)
    })
    .await;

    let process = Pid::from_raw(i32::try_from(site.pid()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let stopped = Instant::now();
    jobs.extend(site.queue(8, Duration::from_millis(100)));
    // The three end meanwhile, and nobody hears of it.
    site.until("webhooks are given up", async |site| {
        let given_up = |status| status == DeliveryStatus::TimedOut;
        site.done() == 3 && site.github.deliveries().iter().filter(|delivery| given_up(delivery.status)).count() >= 8
    })
    .await;
    // These reach it, but only once it goes on.
    let late = site.github.hook_counts();
    jobs.extend(site.queue(4, Duration::from_millis(100)));
    site.until("they are on their way", async |site| site.github.hook_counts().pending >= 4).await;
    kill_process(process, Signal::CONT).unwrap();
    println!("stopped for {:.1?}; {} webhooks given up before", stopped.elapsed(), late.failed);

    site.until("all are done", async |site| {
        site.github.redeliver_failed();
        site.done() == jobs.len()
    })
    .await;
    site.until_no_trace().await;
    for job in &jobs {
        let path = format!("/jobs/{job}");
        site.until("it is final", async |site| {
            site.github.redeliver_failed();
            site.api(&path).await["status"] == "completed"
        })
        .await;
        let shown = site.api(&path).await;
        let steps = shown["timeline"].as_array().unwrap();
        assert_eq!(steps.iter().filter(|step| step["text"] == "GitHub said: queued").count(), 1, "{shown:#}");
    }
    assert!(site.github.killed_busy().is_empty());
    let most = peak.most();
    assert!((1..=3).contains(&most), "{most} processes at once");
}
