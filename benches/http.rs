//! Signed webhooks of about 10 kB per second at 64 connections: the front over a store that answers at once, beside
//! bare handlers that verify and parse and do nothing else, in one run. Server and load share the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a bench may panic")]

#[path = "../tests/support/fakes.rs"]
mod fakes;
#[path = "../tests/support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use poem::listener::TcpAcceptor;
use poem::{Body, Endpoint, Request as PoemRequest, Route, endpoint::make, post};
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use fakes::Fake;
use web::{Request, SECRET, Server};

const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

/// The fixture, filled up with addresses as GitHub's payloads are.
fn payload() -> String {
    let mut payload: Value = serde_json::from_str(include_str!("../tests/fixtures/workflow_job_queued.json")).unwrap();
    for i in 0.. {
        let url = format!("https://api.github.com/repos/octo-org/app/resources{i}{{/sha}}");
        payload["repository"][format!("resource{i}_url")] = url.into();
        if payload.to_string().len() >= 10_000 {
            break;
        }
    }
    payload.to_string()
}

/// Verifies and parses with the same crates, without any bound.
fn bare(parse: fn(&[u8]) -> bool) -> impl Endpoint + 'static {
    let handler = make(move |mut request: PoemRequest| async move {
        let body = Body::into_bytes(request.take_body()).await.unwrap();
        let hex = request.header("x-hub-signature-256").unwrap().strip_prefix("sha256=").unwrap();
        let signature: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&body);
        mac.verify_slice(&signature).unwrap();
        assert!(parse(&body));
        poem::http::StatusCode::ACCEPTED
    });
    Route::new().at("/webhook", post(handler))
}

/// Starts a bare server on a free port.
fn serve(parse: fn(&[u8]) -> bool) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TcpAcceptor::from_std(listener).unwrap();
    tokio::spawn(async move { poem::Server::new_with_acceptor(acceptor).run(bare(parse)).await });
    address
}

/// Sends for one round; returns answers per second and the 50th and 99th percentile in microseconds.
async fn load(address: SocketAddr, body: &Arc<String>, ids: &Arc<AtomicU64>) -> (f64, u128, u128) {
    let started = Instant::now();
    let end = started + ROUND;
    let signature = web::sign(body.as_bytes());
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (body, ids, signature) = (Arc::clone(body), Arc::clone(ids), signature.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = vec![0; 4096];
                let mut times = Vec::new();
                while Instant::now() < end {
                    let id = format!("d-{}", ids.fetch_add(1, Ordering::Relaxed));
                    let request = Request::new("POST", "/webhook")
                        .header("X-GitHub-Event", "workflow_job")
                        .header("X-GitHub-Delivery", &id)
                        .header("Content-Type", "application/json")
                        .header("X-Hub-Signature-256", &signature);
                    let mut bytes = format!("{}Content-Length: {}\r\n\r\n", request.head(), body.len()).into_bytes();
                    bytes.extend_from_slice(body.as_bytes());
                    let sent = Instant::now();
                    stream.write_all(&bytes).await.unwrap();
                    // Answers are small: they come in one piece.
                    let n = stream.read(&mut buffer).await.unwrap();
                    assert!(buffer[..n].starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&buffer[..n]));
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let seconds = started.elapsed().as_secs_f64();
    times.sort();
    (times.len() as f64 / seconds, times[times.len() / 2].as_micros(), times[times.len() * 99 / 100].as_micros())
}

#[tokio::main]
async fn main() {
    let body = Arc::new(payload());
    let ids = Arc::new(AtomicU64::new(0));
    let fake = Fake::new();
    let server = Server::start(fake.front(&[fakes::settings("octo-linux", 0, 10)]), web::settings(|_| {})).await;
    let subjects = [
        ("bare, parsed whole", serve(|body| serde_json::from_slice::<Value>(body).is_ok())),
        ("bare, parsed and dropped", serve(|body| serde_json::from_slice::<IgnoredAny>(body).is_ok())),
        ("the front", server.address),
    ];
    println!("{} bytes per delivery, {CONNECTIONS} connections, {ROUNDS} rounds of {ROUND:?}", body.len());
    let mut best = [0.0_f64; 3];
    for round in 1..=ROUNDS {
        for (i, (name, address)) in subjects.iter().enumerate() {
            let (rate, p50, p99) = load(*address, &body, &ids).await;
            best[i] = best[i].max(rate);
            println!("round {round}: {name:<26} {rate:>8.0}/s   p50 {p50:>6} us   p99 {p99:>6} us");
        }
        let mut things = fake.things();
        things.deliveries = Vec::new();
        things.routes = Vec::new();
        things.webhooks = Vec::new();
    }
    println!("the front / bare, parsed whole:       {:.2}", best[2] / best[0]);
    println!("the front / bare, parsed and dropped: {:.2}", best[2] / best[1]);
    server.stop().await;
}
