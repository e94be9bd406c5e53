//! What is left of GitHub's limits, as the admin API shows it.

use std::sync::Arc;

use actors::port::github::{Budget, LimitState, Paused};
use jiff::Timestamp;
use serde_json::json;

use super::{VIEWER_KEY, start};

#[tokio::test]
async fn the_budget_of_each_credential_is_shown_to_viewers_and_to_nobody_without_a_key() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let budgets = move || {
        let core = LimitState {
            account: "octo-org".to_owned(),
            resource: "core",
            limit: Some(15_000),
            remaining: Some(14_999),
            resets_at: Some(at(1_700_000_000)),
            paused: None,
        };
        let paused = Some(Paused { until: at(1_700_000_090), why: "POST /x answered 429".to_owned() });
        let registrations = LimitState {
            resource: "actions_runner_registration",
            limit: None,
            remaining: None,
            resets_at: None,
            paused,
            ..core.clone()
        };
        let busy = Budget {
            credential: "app".to_owned(),
            allowed: 32,
            running: 3,
            waiting: 1,
            limits: vec![core, registrations],
        };
        vec![Budget { credential: "default".to_owned(), limits: vec![], ..busy.clone() }, busy]
    };
    let (_, server) = start(|settings| settings.github_budgets = Arc::new(budgets)).await;
    server.get("/api/v1/github", None).await.problem(401);
    let shown = server.get("/api/v1/github", Some(VIEWER_KEY)).await.json();
    assert_eq!(
        shown,
        json!([
            {"credential": "default", "allowed": 32, "running": 3, "waiting": 1, "limits": []},
            {"credential": "app", "allowed": 32, "running": 3, "waiting": 1, "limits": [
                {
                    "account": "octo-org", "resource": "core", "limit": 15000, "remaining": 14999,
                    "resets_at": "2023-11-14T22:13:20Z", "paused_until": null, "paused_why": null,
                },
                {
                    "account": "octo-org", "resource": "actions_runner_registration",
                    "limit": null, "remaining": null, "resets_at": null,
                    "paused_until": "2023-11-14T22:14:50Z", "paused_why": "POST /x answered 429",
                },
            ]},
        ])
    );
}
