//! Which answers end their connection, and that those say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/web.rs"]
mod web;

use std::time::Duration;

use fakes::Fake;
use runner_manager::http::Settings;
use web::{ADMIN_KEY, Request, Server, VIEWER_KEY};

const QUEUED: &str = include_str!("fixtures/workflow_job_queued.json");
const MESSAGES: &str = "/api/v1/groups/octo-linux/messages";

async fn start(change: impl FnOnce(&mut Settings)) -> Server {
    let fake = Fake::new();
    let front = fake.front(&[fakes::settings("octo-linux", 0, 10)]);
    Server::start(front, web::settings(change)).await
}

/// Sends a head and what comes of the body, and asserts that the answer is the last one and says so.
async fn assert_last(server: &Server, status: u16, request: &Request, rest: &str) {
    let mut wire = server.connect().await;
    wire.write(format!("{}{rest}", request.head()).as_bytes()).await;
    let response = wire.response().await.expect("an answer");
    response.problem(status);
    assert_eq!(response.header("connection"), Some("close"), "{status}, {:?}", request.head());
    assert!(wire.response().await.is_none(), "the connection ends");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_says_that_it_ends_the_connection() {
    let server = start(|s| {
        s.limits.bodies_bytes = 200_000;
        s.limits.body_stall = Duration::from_millis(300);
    })
    .await;
    let webhook = Request::delivery("d-1", "");
    let some = " ".repeat(10_000);
    let too_long = format!("Content-Length: {}\r\n\r\n", (25 << 20) + 1);
    assert_last(&server, 413, &webhook, &format!("{too_long}{some}")).await;
    assert_last(&server, 413, &webhook, &format!("Expect: 100-continue\r\n{too_long}")).await;
    // Three quarters of the budget are for bodies of this size.
    let beyond = " ".repeat(200_000);
    assert_last(&server, 503, &webhook, &format!("Content-Length: 1000000\r\n\r\n{beyond}")).await;
    assert_last(&server, 408, &webhook, &format!("Content-Length: 100000\r\n\r\n{some}")).await;
    assert_last(&server, 408, &webhook, "Transfer-Encoding: chunked\r\n\r\n2710\r\n{}").await;
    assert_last(&server, 400, &webhook, "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n").await;

    let half = format!("Content-Length: 20000\r\n\r\n{some}");
    let message = Request::new("POST", MESSAGES);
    for (status, request) in [
        (404, webhook.path("/webhooks")),
        (405, Request::new("POST", "/_health")),
        (405, Request::new("PUT", "/webhook")),
        (401, Request::new("GET", "/api/v1/groups")),
        (401, message.clone()),
        (403, message.clone().key(VIEWER_KEY)),
        (415, message.key(ADMIN_KEY).header("Content-Type", "text/plain")),
    ] {
        assert_last(&server, status, &request, &half).await;
    }
}

#[tokio::test]
async fn a_request_that_finds_no_place_ends_its_connection_only_with_a_body() {
    let server = start(|s| s.limits.requests = 0).await;
    assert_last(&server, 503, &Request::new("POST", "/webhook"), "Content-Length: 20000\r\n\r\n{").await;
    let mut wire = server.connect().await;
    for _ in 0..2 {
        wire.write(&Request::new("GET", "/_health").bytes()).await;
        wire.response().await.expect("an answer").problem(503);
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_bodies_that_were_read_and_requests_without_one() {
    let server = start(|_| {}).await;
    let good = Request::delivery("d-1", QUEUED);
    let chunked =
        format!("{}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{QUEUED}\r\n0\r\n\r\n", good.head(), QUEUED.len());
    let expects = good.clone().header("Expect", "100-continue");
    let message = Request::new("POST", MESSAGES).header("Content-Type", "application/json");
    let mut wire = server.connect().await;
    for (status, bytes) in [
        (202, good.bytes()),
        (202, chunked.into_bytes()),
        (401, good.clone().body("forged").bytes()),
        (400, good.clone().without("X-GitHub-Event").bytes()),
        (422, message.clone().key(ADMIN_KEY).body("{").bytes()),
        (401, message.bytes()),
        (404, Request::new("POST", "/nowhere").bytes()),
        (405, Request::new("GET", "/webhook").bytes()),
        (401, format!("{}\r\n", Request::new("GET", "/api/v1/groups").head()).into_bytes()),
        (200, Request::new("GET", "/_health").bytes()),
        (202, expects.bytes()),
    ] {
        wire.write(&bytes).await;
        let mut response = wire.response().await.unwrap_or_else(|| panic!("the connection ended before {status}"));
        if response.status == 100 {
            response = wire.response().await.expect("an answer");
        }
        assert_eq!(response.status, status, "{}", response.text());
        assert_eq!(response.header("connection"), None, "{status}");
    }
}
