//! The real binary while GitHub loses answers, is down, or has many runners of others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::time::Duration;

use runner_manager::demo::github::{Fault, JobStatus, Operation, Times};
use serde_json::{Value, json};
use service::Site;

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_answer_was_lost_leaves_one_runner_and_no_ghost() {
    let mut site = Site::new().await;
    let config = site.config(3, |_| {});
    site.start(&config).await;
    site.github.fail(Operation::GenerateJitConfig, Fault::LoseAnswer, Times::Next(1));
    let peak = site.watch();
    site.queue(1, Duration::from_secs(1));
    site.until("the job runs", async |site| site.github.count_jobs(JobStatus::InProgress) == 1).await;
    site.until("the ghost is gone", async |site| site.github.registered() == 1).await;
    site.until("the job is done", async |site| site.done() == 1).await;
    site.until_no_trace().await;
    assert_eq!(peak.most(), 1, "one runner for one job");
    assert_eq!(site.github.count_requests(Operation::GenerateJitConfig), 2, "the lost one, and one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_github_is_down_no_runner_is_killed_or_counted_as_gone() {
    let mut site = Site::new().await;
    let config = site.config(3, |config| config["healthcheck_interval"] = json!("1s"));
    site.start(&config).await;
    let jobs = site.queue(3, Duration::from_secs(12));
    site.until("three run", async |site| {
        site.api("/runners?state=busy").await.as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    let faults = [Fault::Status(502), Fault::DropConnection, Fault::Status(500)];
    for operation in [Operation::ListRunners, Operation::GetRunner, Operation::DeleteRunner] {
        faults.into_iter().for_each(|fault| site.github.fail(operation, fault, Times::Next(4)));
    }
    let failing = site.github.count_requests(Operation::ListRunners);
    site.until("health checks failed", async |site| {
        site.message("healthcheck").await;
        let group = site.api("/groups/octo-test").await;
        let error = group["last_error"]["text"].as_str().unwrap_or_default();
        error.contains("health check") && site.github.count_requests(Operation::ListRunners) >= failing + 3
    })
    .await;
    let running = site.api("/runners?state=busy").await;
    assert_eq!(running.as_array().unwrap().len(), 3, "{running:#}");
    site.github.clear_faults();
    site.until("all are done", async |site| site.done() == 3).await;
    for job in jobs {
        assert_eq!(site.github.job(job).unwrap().status, JobStatus::Completed);
    }
    assert!(site.github.killed_busy().is_empty());
    assert_eq!(site.github.count_requests(Operation::GenerateJitConfig), 3, "nothing was replaced");
    site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_of_ten_groups_beside_a_thousand_runners_costs_at_most_fifteen_calls() {
    let mut site = Site::new().await;
    let config = site.config(1, |config| {
        config["healthcheck_interval"] = json!("1h");
        let group = config["runner_groups"][0].clone();
        let groups = (0..10).map(|n| {
            let mut group = group.clone();
            group["name"] = json!(format!("octo-{n}"));
            group["labels"] = json!([format!("test-{n}")]);
            group
        });
        config["runner_groups"] = Value::Array(groups.collect());
    });
    for n in 0..1000 {
        site.register(&format!("of-others-{n}")).await;
    }
    assert_eq!(site.github.registered(), 1000);
    site.start(&config).await;
    let checked = async |site: &Site| {
        let groups = site.api("/groups").await;
        groups.as_array().unwrap().iter().all(|group| !group["last_healthcheck"].is_null())
    };
    site.until("all ten groups are checked", checked).await;
    let calls = site.github.count_requests(Operation::ListRunners);
    println!("a health check of 10 groups beside 1,000 runners: {calls} calls");
    assert!((10..=15).contains(&calls), "{calls}");
    assert_eq!(site.github.registered(), 1000, "those of others are left alone");
}
