//! Listings: how many calls they cost, what is not asked again, what is repeated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::id::RunnerId;
use actors::port::GitHub;
use actors::port::github::Deregistered;
use runner_manager::demo::github::{Fault, Operation, Settings, Times};

use super::simulated::Stage;
use super::support::{organization, runner_name};
use super::{client, client_with, registration, statuses};

#[tokio::test]
async fn a_thousand_unchanged_runners_cost_ten_calls_and_the_second_time_nothing() {
    let stage = Stage::set(Settings::default()).await;
    let client = client(&stage);
    let register = |index| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.generate_jit_config(&registration(index)).await.unwrap().id })
    };
    for task in (0..1000).map(register).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let first = client.list_runners(&organization()).await.unwrap();
    assert_eq!(first.len(), 1000);
    assert_eq!(statuses(&stage, Operation::ListRunners), vec![Some(200); 10]);
    let left = || client.budget().limits.iter().find(|limit| limit.resource == "core").unwrap().remaining.unwrap();
    let before = left();
    assert_eq!(client.list_runners(&organization()).await.unwrap(), first);
    assert_eq!(statuses(&stage, Operation::ListRunners)[10..], vec![Some(304); 10]);
    assert_eq!(left(), before, "they cost nothing");

    // One that goes changes the number on every page.
    assert_eq!(client.delete_runner(&organization(), first[500].id).await, Ok(Deregistered::Removed));
    let third = client.list_runners(&organization()).await.unwrap();
    assert_eq!(third.len(), 999);
    assert!(third.iter().all(|runner| runner.id != first[500].id));
    assert_eq!(statuses(&stage, Operation::ListRunners)[20..], vec![Some(200); 10]);
}

#[tokio::test]
async fn a_runner_that_is_skipped_while_pages_shift_is_found_by_reading_again() {
    for (fault, reads) in [(Fault::Gone(3), 2), (Fault::Come(3), 2)] {
        let stage = Stage::set(Settings::default()).await;
        let client = client(&stage);
        for index in 0..150 {
            client.generate_jit_config(&registration(index)).await.unwrap();
        }
        // The first page is not shifted: it uses one up all the same.
        stage.github.fail(Operation::ListRunners, fault, Times::Next(2));
        let runners = client.list_runners(&organization()).await.unwrap();
        assert_eq!(runners.len(), 150, "{fault:?}");
        assert_eq!(stage.github.count_requests(Operation::ListRunners), 2 * reads, "{fault:?}");
    }
}

#[tokio::test]
async fn lies_about_busy_are_passed_on_as_github_tells_them() {
    let stage = Stage::set(Settings::default()).await;
    let client = client(&stage);
    client.generate_jit_config(&registration(1)).await.unwrap();
    for lie in [true, false] {
        stage.github.fail(Operation::ListRunners, Fault::Busy(lie), Times::Next(1));
        let found = client.find_runner(&organization(), &runner_name(1)).await.unwrap().unwrap();
        assert_eq!(found.busy, lie);
    }
}

#[tokio::test]
async fn only_reading_is_repeated_and_only_after_what_may_pass() {
    for (fault, times, status) in [
        (Fault::Status(502), 2, Some(502)),
        (Fault::Status(503), 3, Some(503)),
        (Fault::DropConnection, 2, None),
        (Fault::LoseAnswer, 3, Some(200)),
    ] {
        let stage = Stage::set(Settings::default()).await;
        let client = client(&stage);
        stage.github.fail(Operation::ListRunners, fault, Times::Next(times));
        let listed = client.list_runners(&organization()).await;
        assert_eq!(listed.is_ok(), times < 3, "{fault:?}: {listed:?}");
        let expected = [vec![status; times as usize], vec![Some(200); 3 - times as usize]].concat();
        assert_eq!(statuses(&stage, Operation::ListRunners), expected, "{fault:?}");

        stage.github.fail(None, fault, Times::Next(2));
        assert_eq!(client.generate_jit_config(&registration(1)).await.unwrap_err().kind(), "unknown");
        assert_eq!(client.delete_runner(&organization(), RunnerId(7)).await.unwrap_err().kind(), "unknown");
        assert_eq!(stage.github.count_requests(Operation::GenerateJitConfig), 1, "{fault:?}");
        assert_eq!(stage.github.count_requests(Operation::DeleteRunner), 1, "{fault:?}");
    }
    for status in [400, 403, 404, 409, 422] {
        let stage = Stage::set(Settings::default()).await;
        stage.github.fail(None, Fault::Status(status), Times::Forever);
        client(&stage).list_runners(&organization()).await.unwrap_err();
        assert_eq!(stage.github.count_requests(Operation::ListRunners), 1, "{status}");
    }
}

#[tokio::test]
async fn repeating_ends_with_twice_the_time_of_one_request() {
    let stage = Stage::set(Settings::default()).await;
    let client = client_with(&stage, |settings| settings.request_timeout = Duration::from_millis(300));
    stage.github.fail(Operation::ListRunners, Fault::Delay(Duration::from_secs(60)), Times::Forever);
    let begun = Instant::now();
    let error = client.list_runners(&organization()).await.unwrap_err();
    let took = begun.elapsed();
    assert_eq!(error.kind(), "unknown");
    assert!(took >= Duration::from_millis(550), "{took:?}: it was not repeated");
    assert!(took < Duration::from_millis(1200), "{took:?}");
}
