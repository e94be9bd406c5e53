//! The real binary with a group of two backends, the first of which makes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/service.rs"]
mod service;

use std::time::Duration;

use serde_json::{Value, json};
use service::Site;

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_to_the_second_backend_and_everybody_can_see_why() {
    let mut site = Site::new().await;
    let config = site.config(4, |config| {
        let group = &mut config["runner_groups"][0];
        let works = group["backend"].clone();
        group["backend"] = json!({
            "name": "process", "breaker_failures": 3, "breaker_wait": "1h",
            "instance_config": {"command": ["/no/such/program"]},
        });
        group["fallback_backends"] = json!([works]);
    });
    site.start(&config).await;
    let jobs = site.queue(8, Duration::from_millis(200));
    site.until("they are done", async |site| site.done() == 8).await;
    site.until_no_trace().await;
    let groups = site.api("/groups").await;
    let backends = groups[0]["backends"].as_array().unwrap().clone();
    let states: Vec<(&str, &str)> =
        backends.iter().map(|b| (b["name"].as_str().unwrap(), b["breaker"].as_str().unwrap())).collect();
    assert_eq!(states, [("process", "open"), ("process-2", "closed")]);
    assert!(
        backends[0]["last_error"]["text"].as_str().unwrap().contains("/no/such/program does not exist"),
        "{backends:?}"
    );
    assert!(backends[0]["open_until"].is_string() && backends[1]["open_until"].is_null());
    let metrics = site.text("/metrics").await;
    for line in [
        "runner_manager_backend_breaker_open{backend=\"process\"} 1\n",
        "runner_manager_backend_breaker_open{backend=\"process-2\"} 0\n",
        "runner_manager_backend_requests_total{backend=\"process\",operation=\"create\",outcome=\"invalid\"}",
        "runner_manager_backend_requests_total{backend=\"process-2\",operation=\"create\",outcome=\"ok\"} 8\n",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let mut fell_back = vec![];
    for job in jobs {
        let job = site.api(&format!("/jobs/{}", job.0)).await;
        let lines = job["timeline"].as_array().unwrap().iter().map(|entry| entry.to_string()).collect::<Vec<_>>();
        fell_back.extend(lines.into_iter().filter(|line| line.contains("backend process-2 is asked")));
    }
    assert!(fell_back.len() >= 3, "{fell_back:?}");
    let gone: Value = site.api("/runners?state=gone&limit=100").await;
    assert!(gone.as_array().unwrap().iter().all(|runner| runner["backend"] == "process-2"), "{gone}");
    let log = site.log();
    assert_eq!(log.matches("backend is left alone after failures in a row").count(), 1, "{log}");
}
