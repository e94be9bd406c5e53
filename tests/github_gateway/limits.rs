//! Limits are obeyed to the second, and the urgent do not wait for the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::JobId;
use actors::port::github::{Hook, Records};
use actors::port::{GitHub, GitHubError};
use runner_manager::demo::github::{Fault, JobRequest, Operation, Settings, Times};
use runner_manager::github::Client;

use super::simulated::{Stage, until};
use super::support::{asker, organization, runner_name};
use super::{client, client_with, registration, repository, requests, statuses};

/// Looks for a runner again and again until GitHub answers.
async fn insist(client: Arc<Client>) {
    let begun = Instant::now();
    while let Err(error) = client.find_runner(&organization(), &runner_name(1)).await {
        assert!(matches!(error, GitHubError::RateLimited { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn crowd(client: &Arc<Client>, size: usize) {
    let crowd: Vec<_> = (0..size).map(|_| tokio::spawn(insist(Arc::clone(client)))).collect();
    for one in crowd {
        one.await.unwrap();
    }
}

/// A refusal by `fault` with 7 seconds; whether registrations, another resource, go on meanwhile.
async fn obeys(fault: fn(Duration) -> Fault, status: u16, registers: bool) {
    let wait = Duration::from_secs(7);
    let stage = Stage::set(Settings { registration_limit: Some(100), ..Settings::default() }).await;
    let client = client(&stage);
    // So that the adapter knows what registrations count against.
    client.generate_jit_config(&registration(1)).await.unwrap();
    stage.github.fail(Operation::ListRunners, fault(wait), Times::Next(1));
    client.find_runner(&organization(), &runner_name(1)).await.unwrap_err();
    let paused = client.budget().limits.into_iter().find_map(|limit| limit.paused).unwrap();
    assert!(paused.why.contains(&format!("answered {status}")), "{}", paused.why);

    let registered = client.generate_jit_config(&registration(2)).await;
    assert_eq!(registered.is_ok(), registers, "{registered:?}");
    crowd(&client, 10).await;
    let all = requests(&stage, Operation::ListRunners);
    assert_eq!((all.len(), all[0].status), (11, Some(status)), "work goes on after it");
    for request in &all[1..] {
        let after = request.at - all[0].at;
        assert!(after >= wait, "asked again after {after:?}");
        assert!(after < wait + Duration::from_secs(3), "asked again only after {after:?}");
    }
    assert!(client.budget().limits.iter().all(|limit| limit.paused.is_none()));
}

#[tokio::test]
async fn after_403_with_retry_after_7_nothing_is_asked_for_7_seconds() {
    obeys(Fault::SecondaryLimit, 403, false).await;
}

#[tokio::test]
async fn after_429_with_retry_after_7_nothing_is_asked_for_7_seconds() {
    obeys(Fault::RateLimited, 429, false).await;
}

#[tokio::test]
async fn after_remaining_0_its_resource_is_not_asked_until_the_reset_and_others_are() {
    obeys(Fault::UsedUp, 403, true).await;
}

#[tokio::test]
async fn a_limit_is_used_to_its_end_and_never_asked_beyond() {
    let stage =
        Stage::set(Settings { rate_limit: 20, rate_window: Duration::from_secs(3), ..Settings::default() }).await;
    let client = client(&stage);
    crowd(&client, 30).await;
    assert_eq!(statuses(&stage, Operation::ListRunners), vec![Some(200); 30], "none was refused by GitHub");
    let all = requests(&stage, Operation::ListRunners);
    assert!(all[20].at - all[0].at >= Duration::from_secs(3), "the 21st waits for the next window");
    assert!(all[19].at - all[0].at < Duration::from_secs(3), "the 20th does not");
}

#[tokio::test]
async fn records_stop_at_a_fifth_and_leave_the_rest_to_runners() {
    let stage = Stage::set(Settings { rate_limit: 100, ..Settings::default() }).await;
    let client = client(&stage);
    let hook = Hook::Of { scope: organization(), id: 4001 };
    let ours = asker(organization());
    let ask = || client.deliveries(&ours, &hook, jiff::Timestamp::UNIX_EPOCH, None);
    let refused = loop {
        if let Err(error) = ask().await {
            break error;
        }
    };
    assert!(refused.to_string().contains("the last 20 are kept for what is more urgent"), "{refused}");
    let GitHubError::RateLimited { retry_after, .. } = refused else { panic!("{refused}") };
    assert!(retry_after > Duration::from_secs(3500), "{retry_after:?}");
    assert_eq!(stage.github.count_requests(Operation::ListDeliveries), 81);
    assert_eq!(client.budget().limits[0].remaining, Some(19));
    client.list_runners(&organization()).await.unwrap();
    for _ in 0..18 {
        client.find_runner(&organization(), &runner_name(1)).await.unwrap();
    }
    let error = client.find_runner(&organization(), &runner_name(1)).await.unwrap_err();
    assert!(error.to_string().contains("0 of 100 calls (core) are left until"), "{error}");
    assert_eq!(statuses(&stage, Operation::ListRunners), vec![Some(200); 19]);
}

#[tokio::test]
async fn a_flood_of_records_delays_a_registration_by_one_call_at_most() {
    for places in [1, 8] {
        let stage = Stage::set(Settings::default()).await;
        let client = client_with(&stage, |settings| settings.max_concurrency = places);
        let job = stage.github.queue_job(JobRequest::new(["x"], Duration::ZERO)).0;
        let delay = Duration::from_millis(50);
        stage.github.fail(Operation::GetJob, Fault::Delay(delay), Times::Forever);
        let (name, _) = repository();
        let ask = |_| {
            let (client, name) = (Arc::clone(&client), name.clone());
            tokio::spawn(async move { client.job(&asker(organization()), &name, JobId(job)).await.unwrap().unwrap() })
        };
        let flood: Vec<_> = (0..40).map(ask).collect();
        until("the flood has begun", || stage.github.count_requests(Operation::GetJob) >= 1).await;
        assert!(client.budget().waiting > 20);
        let issued = Instant::now();
        client.generate_jit_config(&registration(1)).await.unwrap();
        let log = stage.github.requests();
        let begun = log.iter().find(|request| request.operation == Operation::GenerateJitConfig).unwrap().at;
        // In the time of one call each place changes hands once; it may have done so on the way to the queue.
        let overtakers = log.iter().filter(|request| request.at > issued && request.at < begun).count();
        assert!(overtakers <= places, "{overtakers} calls began before it, with {places} places");
        for one in flood {
            one.await.unwrap();
        }
        assert_eq!(stage.github.count_requests(Operation::GetJob), 40);
    }
}
