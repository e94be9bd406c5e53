//! The real binary with two credentials: one that fails leaves the groups of the other unharmed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/redis.rs"]
mod redis;
#[path = "support/service.rs"]
mod service;

use std::time::Duration;

use redis::RedisServer;
use runner_manager::demo::github::{AppTrouble, JobRequest, JobStatus};
use serde_json::{Value, json};
use service::Site;

/// Two groups of one organization: `octo-test` by the token of the top level, `octo-app` by a GitHub App.
fn two_credentials(config: &mut Value) {
    let mut more = config["runner_groups"][0].clone();
    more["name"] = json!("octo-app");
    more["labels"] = json!(["app"]);
    more["github_credential"] = json!("app");
    config["runner_groups"].as_array_mut().unwrap().push(more);
    let key = include_str!("support/app-key.pem");
    config["github_credentials"] = json!([{"name": "app", "app_id": 4711, "private_key": key}]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_fails_is_told_at_its_group_and_harms_no_other() {
    let mut site = Site::new().await;
    let config = site.config(2, two_credentials);
    for (trouble, text) in [
        (AppTrouble::WrongKey, "the private key does not belong to GitHub App 4711"),
        (AppTrouble::Suspended, "the installation of GitHub App 4711 for organization octo-org is suspended"),
    ] {
        site.github.set_app_trouble(trouble);
        site.start(&config).await;
        let done = site.done();
        let waits = site.github.queue_job(JobRequest::new(["self-hosted", "app"], Duration::from_millis(50)));
        site.queue(5, Duration::from_millis(50));
        site.until("the other group's jobs are done", async |site| site.done() == done + 5).await;
        site.until("its own group says why", async |site| {
            site.api("/groups/octo-app").await["last_error"].to_string().contains(text)
        })
        .await;
        let other = site.api("/groups/octo-test").await;
        assert_eq!((&other["last_error"], &other["health"]), (&Value::Null, &json!("running")), "{other:#}");
        assert_eq!(site.github.job(waits).unwrap().status, JobStatus::Queued);
        let answer = site.api(&format!("/jobs/{}", waits.0)).await["answer"].to_string();
        assert!(answer.contains("GitHub App 4711"), "{answer}");
        site.kill();

        site.github.set_app_trouble(None);
        site.start(&config).await;
        site.until("the job is done once the App works", async |site| site.done() == done + 6).await;
        let budgets = site.api("/github").await;
        let names: Vec<&str> = budgets.as_array().unwrap().iter().map(|b| b["credential"].as_str().unwrap()).collect();
        assert_eq!(names, ["default", "app"]);
        for budget in budgets.as_array().unwrap() {
            let limits = budget["limits"].as_array().unwrap();
            let core = limits.iter().find(|limit| limit["resource"] == "core" && limit["account"] != "(app)").unwrap();
            assert!(core["remaining"].as_u64() < core["limit"].as_u64() && core["resets_at"].is_string(), "{budget:#}");
        }
        let metrics = site.text("/metrics").await;
        for name in names {
            let line = format!("github_rate_limit_remaining{{credential=\"{name}\",resource=\"core\"}} ");
            assert!(metrics.contains(&line), "{name}: {metrics}");
        }
        site.kill();
    }
    site.start(&config).await;
    site.until_no_trace().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_are_shared_through_redis_keep_their_credential_and_a_revoked_token_is_told() {
    let redis = RedisServer::start();
    let mut site = Site::new().await;
    let config = site.config(2, |config| {
        two_credentials(config);
        config["redis_url"] = json!(redis.url());
        config["github_token"] = json!("ghp_revoked");
    });
    site.start(&config).await;
    site.queue(1, Duration::from_millis(50));
    site.github.queue_job(JobRequest::new(["self-hosted", "app"], Duration::from_millis(50)));
    site.until("the App's job is done", async |site| site.done() == 1).await;
    site.until("the token's group says why its job is not", async |site| {
        let told = site.api("/groups/octo-test").await["last_error"].to_string();
        told.contains("the token is wrong, has expired or was revoked")
    })
    .await;
    assert_eq!(site.api("/groups/octo-app").await["last_error"], Value::Null);
    site.until_no_trace().await;
}
