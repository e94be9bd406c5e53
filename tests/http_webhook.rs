//! The webhook endpoint over a real socket, row by row of its table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/web.rs"]
mod web;

use std::sync::Arc;
use std::time::Duration;

use actors::model::delivery::JobAction;
use actors::port::StoreError;
use fakes::{Fake, Mood};
use runner_manager::http::{self, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use web::{PATIENCE, Request, Server, sign, until};

const QUEUED: &str = include_str!("fixtures/workflow_job_queued.json");
const OLD: &str = include_str!("fixtures/workflow_job_old.json");
const PING: &str = include_str!("fixtures/ping.json");

const SHORT: Duration = Duration::from_millis(300);

async fn start(change: impl FnOnce(&mut Settings)) -> (Arc<Fake>, Server) {
    let fake = Fake::new();
    let front = fake.front(&[fakes::settings("octo-linux", 0, 10)]);
    let server = Server::start(front, web::settings(change)).await;
    (fake, server)
}

fn queued() -> Value {
    serde_json::from_str(QUEUED).unwrap()
}

async fn outcome(server: &Server, request: &Request) -> String {
    let response = server.send(request).await;
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    response.json()["outcome"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_answer_is_sent_only_when_the_delivery_is_durable() {
    let (fake, server) = start(|_| {}).await;
    fake.set(Mood::Hangs);
    let mut wire = server.connect().await;
    wire.write(&Request::delivery("d-1", QUEUED).bytes()).await;
    until("the store is asked", || fake.things().calls == 1).await;
    let mut byte = [0];
    assert_eq!(wire.stream.try_read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    fake.set(Mood::Works);
    let response = wire.response().await.unwrap();
    assert_eq!(response.status, 202);
    assert_eq!(response.json(), json!({"delivery": "d-1", "outcome": "accepted"}));

    let things = fake.things();
    let delivery = &things.deliveries[0];
    assert_eq!(delivery.event.action, JobAction::Queued);
    assert_eq!(delivery.event.job.id.0, 31_415_926_535);
    assert_eq!(delivery.event.job.labels, ["self-hosted", "octo-linux"]);
    assert_eq!(things.routes[0].group.as_ref().unwrap().as_str(), "octo-linux");
    assert_eq!(things.webhooks, [("workflow_job", "queued", "accepted")]);
}

#[tokio::test]
async fn both_spellings_of_the_path_and_kept_connections_work() {
    let (_, server) = start(|_| {}).await;
    let mut wire = server.connect().await;
    for (id, path) in [("d-1", "/webhook"), ("d-2", "/webhook/"), ("d-3", "/webhook")] {
        wire.write(&Request::delivery(id, QUEUED).path(path).bytes()).await;
        assert_eq!(wire.response().await.unwrap().status, 202);
    }
    let response = server.get("/webhook", None).await;
    response.problem(405);
    assert_eq!(response.header("allow"), Some("POST"));
    server.stop().await;
}

#[tokio::test]
async fn the_documented_signature_is_accepted() {
    let (_, server) = start(|_| {}).await;
    let digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let hello = Request::delivery("d-1", "Hello, World!")
        .replace("X-GitHub-Event", "ping")
        .replace("X-Hub-Signature-256", &format!("sha256={digest}"));
    assert_eq!(outcome(&server, &hello).await, "ignored");
}

#[tokio::test]
async fn without_one_right_signature_nothing_is_looked_at() {
    let (fake, server) = start(|_| {}).await;
    let good = Request::delivery("d-1", QUEUED);
    let signature = sign(QUEUED.as_bytes());
    let altered = QUEUED.replace("octo-linux", "octo-win");
    for (what, request) in [
        ("none", good.clone().without("X-Hub-Signature-256")),
        ("SHA-1 only", good.clone().without("X-Hub-Signature-256").header("X-Hub-Signature", "sha1=0123")),
        ("twice", good.clone().header("X-Hub-Signature-256", &signature)),
        ("two in one", good.clone().replace("X-Hub-Signature-256", &format!("{signature}, {signature}"))),
        ("no scheme", good.clone().replace("X-Hub-Signature-256", &signature[7..])),
        ("cut", good.clone().replace("X-Hub-Signature-256", &signature[..70])),
        ("empty", good.clone().replace("X-Hub-Signature-256", "")),
        ("of something else", good.clone().replace("X-Hub-Signature-256", &sign(b"{}"))),
        ("altered body", good.clone().body(&altered)),
        ("not even JSON", good.clone().body("nonsense")),
        ("no delivery id either", good.clone().without("X-GitHub-Delivery").body("{}")),
    ] {
        let response = server.send(&request).await;
        assert_eq!(response.status, 401, "{what}");
        response.problem(401);
    }
    assert_eq!(fake.things().calls, 0);
    assert!(fake.things().webhooks.iter().all(|webhook| *webhook == ("other", "", "unauthorized")));
}

#[tokio::test]
async fn without_a_secret_unsigned_deliveries_are_taken() {
    let (_, server) = start(|s| s.webhook_secret = None).await;
    let unsigned = Request::delivery("d-1", QUEUED).without("X-Hub-Signature-256");
    assert_eq!(outcome(&server, &unsigned).await, "accepted");
}

#[tokio::test]
async fn a_known_delivery_is_a_duplicate_without_a_second_effect() {
    let (fake, server) = start(|_| {}).await;
    let request = Request::delivery("72d3162e-cc78-11e3-81ab-4c9367dc0958", QUEUED);
    assert_eq!(outcome(&server, &request).await, "accepted");
    assert_eq!(outcome(&server, &request).await, "duplicate");
    assert_eq!(fake.things().deliveries.len(), 1);
}

#[tokio::test]
async fn other_events_and_actions_are_ignored() {
    let (fake, server) = start(|_| {}).await;
    let ping = Request::delivery("d-1", PING).replace("X-GitHub-Event", "ping");
    assert_eq!(outcome(&server, &ping).await, "ignored");
    assert_eq!(outcome(&server, &ping.replace("X-GitHub-Event", "push")).await, "ignored");
    let mut tomorrow = queued();
    tomorrow["action"] = json!("pondering");
    assert_eq!(outcome(&server, &Request::delivery("d-2", tomorrow.to_string())).await, "ignored");
    assert_eq!(fake.things().calls, 0);
    assert_eq!(
        fake.things().webhooks,
        [("ping", "", "ignored"), ("other", "", "ignored"), ("workflow_job", "", "ignored")]
    );
}

#[tokio::test]
async fn a_job_of_a_place_that_is_not_configured_is_unmatched() {
    let (fake, server) = start(|_| {}).await;
    let mut foreign = queued();
    foreign["organization"]["login"] = json!("somebody-else");
    foreign["repository"]["owner"]["login"] = json!("somebody-else");
    assert_eq!(outcome(&server, &Request::delivery("d-1", foreign.to_string())).await, "unmatched");
    let things = fake.things();
    assert_eq!(things.routes[0].group, None);
    assert!(things.routes[0].unmatched.is_some());
}

#[tokio::test]
async fn old_shapes_of_the_payload_are_accepted() {
    let (_, server) = start(|_| {}).await;
    assert_eq!(outcome(&server, &Request::delivery("d-1", OLD)).await, "unmatched");
    let mut payload = queued();
    for key in ["run_attempt", "workflow_name", "head_branch", "created_at"] {
        payload["workflow_job"].as_object_mut().unwrap().remove(key);
    }
    payload["workflow_job"]["status"] = json!("pondering");
    assert_eq!(outcome(&server, &Request::delivery("d-2", payload.to_string())).await, "accepted");
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_with_the_place() {
    let (fake, server) = start(|_| {}).await;
    let mut latin = QUEUED.as_bytes().to_vec();
    let at = QUEUED.find("topic").unwrap();
    latin[at] = 0xe9;
    let deep = format!("{{\"action\": \"queued\", \"deep\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [&b"not JSON"[..], b"", b"{\"action\":", &latin, deep.as_bytes()] {
        server.send(&Request::delivery("d-1", body)).await.problem(400);
    }
    for (pointer, wrong) in [
        ("/action", json!(null)),
        ("/workflow_job", json!("job")),
        ("/workflow_job/id", json!("1")),
        ("/workflow_job/labels", json!({"0": "linux"})),
        ("/workflow_job/labels/0", json!(17)),
        ("/repository", json!(null)),
        ("/repository/owner/login", json!(["octo-org"])),
    ] {
        let mut payload = queued();
        *payload.pointer_mut(pointer).unwrap() = wrong;
        let response = server.send(&Request::delivery("d-1", payload.to_string())).await;
        assert_eq!(response.pointer(400), format!("#{pointer}"));
    }
    assert_eq!(fake.things().calls, 0);
    assert!(fake.things().webhooks.iter().all(|(_, _, outcome)| *outcome == "invalid"));
}

#[tokio::test]
async fn the_headers_of_a_delivery_are_needed_once_and_well_formed() {
    let (fake, server) = start(|_| {}).await;
    let good = Request::delivery("d-1", QUEUED);
    for request in [
        good.clone().without("X-GitHub-Delivery"),
        good.clone().replace("X-GitHub-Delivery", ""),
        good.clone().replace("X-GitHub-Delivery", "../../etc/passwd"),
        good.clone().replace("X-GitHub-Delivery", &"d".repeat(65)),
        good.clone().header("X-GitHub-Delivery", "d-2"),
        good.clone().without("X-GitHub-Event"),
        good.clone().header("X-GitHub-Event", "ping"),
        good.clone().replace("X-GitHub-Event", "ping").without("X-GitHub-Delivery"),
    ] {
        server.send(&request).await.problem(400);
    }
    assert_eq!(fake.things().calls, 0);
}

#[tokio::test]
async fn forms_are_decoded_after_verifying_and_other_types_refused() {
    let (fake, server) = start(|_| {}).await;
    let encoded: String = QUEUED.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let form = |id: &str, body: &str| {
        Request::delivery(id, body).replace("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
    };
    assert_eq!(outcome(&server, &form("d-1", &format!("payload={encoded}"))).await, "accepted");
    assert_eq!(fake.things().deliveries[0].event.job.name, "build (linux)");
    server.send(&form("d-2", QUEUED)).await.problem(400);
    let decoded_signature =
        form("d-3", &format!("payload={encoded}")).replace("X-Hub-Signature-256", &sign(QUEUED.as_bytes()));
    server.send(&decoded_signature).await.problem(401);
    server.send(&Request::delivery("d-4", QUEUED).replace("Content-Type", "text/xml")).await.problem(415);
    assert_eq!(outcome(&server, &Request::delivery("d-5", QUEUED).without("Content-Type")).await, "accepted");
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_is_sent() {
    let (_, server) = start(|_| {}).await;
    let head = Request::delivery("d-1", "").head();
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut wire = server.connect().await;
        wire.write(format!("{head}{expect}Content-Length: {}\r\n\r\n", (25 << 20) + 1).as_bytes()).await;
        let response = wire.response().await.unwrap();
        response.problem(413);
        assert!(wire.response().await.is_none(), "the connection ends");
    }
}

#[tokio::test]
async fn a_body_that_turns_out_too_long_is_refused_and_reading_stops() {
    let (fake, server) = start(|s| s.limits.webhook_bytes = 100_000).await;
    let mut wire = server.connect().await;
    wire.write(format!("{}Transfer-Encoding: chunked\r\n\r\n", Request::delivery("d-1", "").head()).as_bytes()).await;
    let (mut reader, mut writer) = wire.stream.into_split();
    let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
    let writing = tokio::spawn(async move {
        for _ in 0..10_000 {
            if writer.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
        panic!("a hundred megabytes were read");
    });
    let mut answer = vec![0; 12];
    timeout(PATIENCE, reader.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    timeout(PATIENCE, writing).await.unwrap().unwrap();
    assert_eq!(fake.things().webhooks, [("other", "", "too_large")]);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_read() {
    let (_, server) = start(|s| s.limits.webhook_bytes = QUEUED.len()).await;
    assert_eq!(outcome(&server, &Request::delivery("d-1", QUEUED)).await, "accepted");
    let longer = format!("{QUEUED} ");
    server.send(&Request::delivery("d-2", &longer)).await.problem(413);
}

#[tokio::test]
async fn stalled_bodies_are_given_up_and_hinder_nobody() {
    let (fake, server) = start(|s| s.limits.body_stall = SHORT).await;
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut wire = server.connect().await;
        wire.write(format!("{}Content-Length: 20000000\r\n\r\n{{", Request::delivery("d-1", "").head()).as_bytes())
            .await;
        stalled.push(wire);
    }
    assert_eq!(outcome(&server, &Request::delivery("d-2", QUEUED)).await, "accepted");
    for mut wire in stalled {
        wire.response().await.unwrap().problem(408);
        assert!(wire.response().await.is_none(), "the connection ends");
    }
    assert_eq!(fake.things().calls, 1);
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_in_the_end() {
    let (_, server) = start(|s| s.limits.body_deadline = SHORT).await;
    let mut wire = server.connect().await;
    wire.write(format!("{}Content-Length: 20000000\r\n\r\n", Request::delivery("d-1", "").head()).as_bytes()).await;
    let (mut reader, mut writer) = wire.stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let mut answer = vec![0; 12];
    timeout(PATIENCE, reader.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    drop(reader);
    timeout(PATIENCE, trickle).await.unwrap().unwrap();
}

#[tokio::test]
async fn slow_headers_and_silent_connections_are_closed_without_an_answer() {
    let (_, server) = start(|s| s.limits.header_deadline = SHORT).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write(b"POST /webhook HTTP/1.1\r\nHost: te").await;
    assert!(silent.response().await.is_none());
    assert!(slow.response().await.is_none());

    // One byte after the other does not help.
    let trickling = server.connect().await;
    let (mut reader, mut writer) = trickling.stream.into_split();
    let trickle = tokio::spawn(async move {
        let _ = writer.write_all(b"GET / HTTP/1.1\r\nX-Long: ").await;
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    });
    let mut byte = [0];
    assert!(!matches!(timeout(PATIENCE, reader.read(&mut byte)).await.unwrap(), Ok(1)));
    timeout(PATIENCE, trickle).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_kept_connection_may_idle_longer_than_headers_may_take_but_not_for_ever() {
    let (_, server) = start(|s| {
        s.limits.header_deadline = SHORT;
        s.limits.idle = SHORT * 4;
    })
    .await;
    let mut wire = server.connect().await;
    for id in ["d-1", "d-2"] {
        wire.write(&Request::delivery(id, QUEUED).bytes()).await;
        assert_eq!(wire.response().await.unwrap().status, 202);
        if id == "d-1" {
            // Time itself is the subject here: longer than the headers' deadline, shorter than the idle time.
            tokio::time::sleep(SHORT * 2).await;
        }
    }
    assert!(wire.response().await.is_none(), "idle in the end");
}

#[tokio::test]
async fn endless_headers_are_cut_off() {
    let (_, server) = start(|_| {}).await;
    let wire = server.connect().await;
    let (mut reader, mut writer) = wire.stream.into_split();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(b"GET / HTTP/1.1\r\nX-Long: ").await;
        for _ in 0..10_000 {
            if writer.write_all(&[b'x'; 10_000]).await.is_err() {
                return;
            }
        }
        panic!("a hundred megabytes of headers were read");
    });
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty(), "the HTTP library's own, larger limit answers: {}", String::from_utf8_lossy(&answer));
    drop(reader);
    timeout(PATIENCE, writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failing_store_is_a_quick_503_and_the_process_lives_on() {
    let (fake, server) = start(|s| s.limits.accept_deadline = SHORT).await;
    let request = Request::delivery("d-1", QUEUED);
    for mood in [
        Mood::Fails(StoreError::Unavailable("disk full".into())),
        Mood::Fails(StoreError::Overloaded(10_000)),
        Mood::Hangs,
    ] {
        fake.set(mood.clone());
        let response = server.send(&request).await;
        let problem = response.problem(503);
        assert_eq!(response.header("retry-after"), Some("1"), "{mood:?}");
        assert!(!problem.to_string().contains("disk full"), "{problem}");
    }
    fake.set(Mood::Panics);
    server.send(&Request::delivery("d-2", QUEUED)).await.problem(500);
    fake.set(Mood::Works);
    assert_eq!(outcome(&server, &Request::delivery("d-3", QUEUED)).await, "accepted");
    let outcomes: Vec<&str> = fake.things().webhooks.iter().map(|(_, _, outcome)| *outcome).collect();
    assert_eq!(outcomes, ["unavailable", "unavailable", "unavailable", "failed", "accepted"]);
}

#[tokio::test]
async fn what_was_begun_is_carried_through_also_for_a_peer_that_went_away() {
    let (fake, server) = start(|s| s.limits.accept_deadline = SHORT).await;
    fake.set(Mood::Hangs);
    let mut gone = server.connect().await;
    gone.write(&Request::delivery("d-1", QUEUED).bytes()).await;
    until("the store is asked", || fake.things().calls == 1).await;
    drop(gone);
    server.send(&Request::delivery("d-2", QUEUED)).await.problem(503);
    fake.set(Mood::Works);
    until("both are recorded", || fake.things().deliveries.len() == 2).await;
    assert_eq!(outcome(&server, &Request::delivery("d-1", QUEUED)).await, "duplicate");
    assert_eq!(outcome(&server, &Request::delivery("d-2", QUEUED)).await, "duplicate");
}

#[tokio::test]
async fn no_more_deliveries_wait_for_the_store_than_may() {
    let (fake, server) = start(|s| s.limits.accepting = 3).await;
    fake.set(Mood::Hangs);
    let mut waiting = Vec::new();
    for i in 0..3 {
        let mut wire = server.connect().await;
        wire.write(&Request::delivery(&format!("d-{i}"), QUEUED).bytes()).await;
        waiting.push(wire);
    }
    until("three wait", || fake.things().calls == 3).await;
    server.send(&Request::delivery("d-x", QUEUED)).await.problem(503);
    assert_eq!(server.get("/_health", None).await.status, 200);
    fake.set(Mood::Works);
    for mut wire in waiting {
        assert_eq!(wire.response().await.unwrap().status, 202);
    }
    assert_eq!(outcome(&server, &Request::delivery("d-x", QUEUED)).await, "accepted");
}

#[tokio::test]
async fn no_more_requests_are_in_progress_than_may() {
    let (fake, server) = start(|s| s.limits.requests = 1).await;
    fake.set(Mood::Hangs);
    let mut first = server.connect().await;
    first.write(&Request::delivery("d-1", QUEUED).bytes()).await;
    until("the first is in progress", || fake.things().calls == 1).await;
    let response = server.get("/_health", None).await;
    response.problem(503);
    fake.set(Mood::Works);
    assert_eq!(first.response().await.unwrap().status, 202);
}

#[tokio::test]
async fn bodies_share_one_budget_of_memory_by_what_has_come() {
    // A quarter of it is for bodies of this size.
    let (_, server) = start(|s| s.limits.bodies_bytes = 200_000).await;
    let big = format!("{QUEUED}{}", " ".repeat(40_000));
    let request = Request::delivery("d-1", &big).bytes();
    let mut half = server.connect().await;
    half.write(&request[..request.len() - 1]).await;
    // Until the server has read the first one, the second has room as well.
    loop {
        let response = server.send(&Request::delivery("d-2", &big)).await;
        if response.status == 503 {
            assert_eq!(response.header("retry-after"), Some("1"));
            break;
        }
        assert_eq!(response.status, 202);
    }
    assert_eq!(outcome(&server, &Request::delivery("d-3", QUEUED)).await, "accepted");
    half.write(&request[request.len() - 1..]).await;
    assert_eq!(half.response().await.unwrap().status, 202);
    assert_eq!(outcome(&server, &Request::delivery("d-4", &big)).await, "accepted");
}

#[tokio::test]
async fn bodies_that_may_become_large_do_not_take_the_share_of_small_ones() {
    let (_, server) = start(|s| s.limits.bodies_bytes = 200_000).await;
    let mut large = server.connect().await;
    // Announces more than counts as small, and sends as much as all large ones may have.
    let head = Request::delivery("d-1", QUEUED).replace("content-length", "1000000").head();
    large.write(format!("{head}{}", " ".repeat(150_000)).as_bytes()).await;
    let refused = Request::delivery("d-2", format!("{QUEUED}{}", " ".repeat(300_000)));
    loop {
        // Until the server has read all of the first one, the second one may find room.
        if server.send(&refused).await.status == 503 {
            break;
        }
    }
    for n in 3..20 {
        assert_eq!(outcome(&server, &Request::delivery(&format!("d-{n}"), QUEUED)).await, "accepted");
    }
}

#[tokio::test]
async fn a_connection_beyond_the_limit_takes_the_place_of_the_one_that_is_silent_for_longest() {
    let (fake, server) = start(|s| s.limits.connections = 2).await;
    fake.set(Mood::Hangs);
    let mut busy = server.connect().await;
    busy.write(&Request::delivery("d-1", QUEUED).bytes()).await;
    until("it is in progress", || fake.things().calls == 1).await;
    let mut silent = server.connect().await;
    let mut third = server.connect().await;
    assert!(silent.response().await.is_none(), "it is closed");
    fake.set(Mood::Works);
    third.write(&Request::delivery("d-2", QUEUED).bytes()).await;
    assert_eq!(third.response().await.unwrap().status, 202);
    assert_eq!(busy.response().await.unwrap().status, 202, "one with a request is left alone");
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_answer_makes_room_as_well() {
    let (_, server) = start(|s| (s.limits.connections, s.limits.write_stall) = (1, PATIENCE * 2)).await;
    let mut deaf = server.connect().await;
    // More answers than the buffers between them hold.
    let pages = tokio::time::timeout(SHORT * 5, async {
        loop {
            deaf.write(&Request::new("GET", "/docs").bytes()).await;
        }
    });
    pages.await.unwrap_err();
    assert_eq!(outcome(&server, &Request::delivery("d-1", QUEUED)).await, "accepted");
}

#[tokio::test]
async fn idle_connections_of_one_peer_do_not_keep_webhooks_out() {
    let (_, server) = start(|s| s.limits.connections = 16).await;
    let mut idle = vec![];
    for _ in 0..64 {
        let mut wire = server.connect().await;
        wire.write(&Request::new("GET", "/_health").bytes()).await;
        assert_eq!(wire.response().await.unwrap().status, 200);
        idle.push(wire);
    }
    assert_eq!(outcome(&server, &Request::delivery("d-1", QUEUED)).await, "accepted");
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let (fake, mut server) = start(|_| {}).await;
    fake.set(Mood::Hangs);
    let mut wire = server.connect().await;
    wire.write(&Request::delivery("d-1", QUEUED).bytes()).await;
    until("the store is asked", || fake.things().calls == 1).await;
    let idle = server.connect().await;
    let (actor, grace) = (server.actor.clone(), server.args.shutdown_grace);
    let stopping = tokio::spawn(async move { http::stop(&actor, grace).await });
    let mut idle = idle;
    assert!(idle.response().await.is_none(), "an idle connection is closed");
    fake.set(Mood::Works);
    assert_eq!(wire.response().await.unwrap().status, 202);
    assert!(wire.response().await.is_none(), "and then its connection");
    assert!(timeout(PATIENCE, stopping).await.unwrap().unwrap());
    assert_eq!(server.events.recv().await.as_deref(), Some("started"));
    assert_eq!(server.events.recv().await.as_deref(), Some("terminated"));
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let (fake, server) = start(|s| s.limits.accept_deadline = PATIENCE).await;
    fake.set(Mood::Hangs);
    let mut args = server.args.clone();
    args.shutdown_grace = SHORT;
    server.stop_quietly().await;
    let actor = http::spawn(args, server.parent.clone()).await.unwrap();
    let mut wire = server.connect().await;
    wire.write(&Request::delivery("d-1", QUEUED).bytes()).await;
    until("the store is asked", || fake.things().calls == 1).await;
    assert!(http::stop(&actor, SHORT).await);
    assert!(wire.response().await.is_none());
}

#[tokio::test]
async fn a_killed_front_is_reported_and_its_successor_serves_the_same_socket() {
    let (_, mut server) = start(|_| {}).await;
    assert_eq!(outcome(&server, &Request::delivery("d-1", QUEUED)).await, "accepted");
    server.actor.kill();
    assert_eq!(server.events.recv().await.as_deref(), Some("started"));
    assert_eq!(server.events.recv().await.as_deref(), Some("terminated"));
    server.actor = http::spawn(server.args.clone(), server.parent.clone()).await.unwrap();
    for i in 2..50 {
        assert_eq!(outcome(&server, &Request::delivery(&format!("d-{i}"), QUEUED)).await, "accepted");
    }
}
