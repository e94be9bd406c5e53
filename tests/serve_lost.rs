//! The real binary when webhooks do not come: it asks GitHub what they should have told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::time::Duration;

use runner_manager::demo::github::{Action, HookFault, Operation, Times};
use serde_json::json;
use service::Site;

/// Statuses of runs, each asked for with one call when a repository is looked into.
const CALLS_PER_LOOK: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_jobs_with_all_webhooks_switched_off_get_runners_within_two_reconciliations() {
    let mut site = Site::new().await;
    let config = site.config(50, |config| {
        config["reconcile_interval"] = json!("2s");
        config["reconcile_repositories"] = json!(["octo-org/app"]);
    });
    site.github.fail_webhooks(None, HookFault::Forget, Times::Forever);
    site.start(&config).await;
    let looks = |site: &Site| site.github.count_requests(Operation::ListRuns) / CALLS_PER_LOOK;
    site.until("a first look", async |site| looks(site) >= 1).await;

    let before = looks(&site);
    site.queue(50, Duration::from_millis(300));
    site.until("all 50 are known", async |site| {
        site.api("/jobs?limit=1000").await.as_array().is_some_and(|jobs| jobs.len() == 50)
    })
    .await;
    let took = looks(&site) - before;
    assert!(took <= 2, "{took} reconciliations");
    site.until("all 50 are done", async |site| site.done() == 50).await;
    assert_eq!(site.github.hook_counts().sent, 0, "not one webhook came");
    site.until_no_trace().await;
    assert!(site.text("/metrics").await.contains(r#"found_without_webhook_total{by="listing"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_failed_are_asked_for_again_and_bring_their_jobs() {
    let mut site = Site::new().await;
    let config = site.config(5, |config| config["reconcile_interval"] = json!("2s"));
    site.github.fail_webhooks(Action::Queued, HookFault::Drop, Times::Next(5));
    site.start(&config).await;
    site.queue(5, Duration::from_millis(300));
    site.until("all 5 are done", async |site| site.done() == 5).await;
    assert_eq!(site.github.count_requests(Operation::Redeliver), 5, "each once");
    site.until_no_trace().await;
}
