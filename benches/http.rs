//! Signed webhooks of about 10 kB per second at 64 connections: the front over each durable store and over one that
//! answers at once, beside bare handlers that verify and parse and do nothing else, in one run. Every delivery has its own
//! id; bodies are of many jobs, each signed. Server, Redis and load share the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a bench may panic")]

#[path = "../tests/support/fakes.rs"]
mod fakes;
#[path = "../tests/support/redis.rs"]
mod redis;
#[path = "../tests/support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actors::actor::front::Front;
use actors::id::{Cursor, GroupName, ManagerName, ReplicaId};
use actors::model::group::GroupSnapshot;
use actors::port::Store;
use actors::port::store::Changes;
use hmac::{Hmac, Mac};
use poem::listener::TcpAcceptor;
use poem::{Body, Endpoint, Request as PoemRequest, Route, endpoint::make, post};
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use fakes::Fake;
use redis::RedisServer;
use runner_manager::store::Embedded;
use runner_manager::store::redis::{Redis, Server as Place, Settings, Topology};
use web::{Request, SECRET, Server};

const CONNECTIONS: usize = 64;
const JOBS: usize = 2000;
/// How often and how long each is measured; as a test, only whether all of it works.
const MEASURED: (usize, Duration) = (3, Duration::from_secs(2));
const TRIED: (usize, Duration) = (1, Duration::from_millis(100));

/// A body and its signature.
type Signed = (String, String);

/// The fixture as the deliveries of many jobs, filled up with addresses as GitHub's payloads are.
fn payloads() -> Vec<Signed> {
    let mut payload: Value = serde_json::from_str(include_str!("../tests/fixtures/workflow_job_queued.json")).unwrap();
    for i in 0.. {
        let url = format!("https://api.github.com/repos/octo-org/app/resources{i}{{/sha}}");
        payload["repository"][format!("resource{i}_url")] = url.into();
        if payload.to_string().len() >= 10_000 {
            break;
        }
    }
    (0..JOBS)
        .map(|job| {
            payload["workflow_job"]["id"] = (1_000_000_000 + job).into();
            let body = payload.to_string();
            let signature = web::sign(body.as_bytes());
            (body, signature)
        })
        .collect()
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
async fn load(
    address: SocketAddr,
    round: Duration,
    payloads: &Arc<Vec<Signed>>,
    ids: &Arc<AtomicU64>,
) -> (f64, u128, u128) {
    let started = Instant::now();
    let end = started + round;
    let tasks: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (payloads, ids) = (Arc::clone(payloads), Arc::clone(ids));
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = vec![0; 4096];
                let mut times = Vec::new();
                while times.is_empty() || Instant::now() < end {
                    let n = ids.fetch_add(1, Ordering::Relaxed);
                    let id = format!("{n:08x}-0000-11ef-8000-000000000000");
                    let (body, signature) = &payloads[usize::try_from(n).unwrap() % JOBS];
                    let request = Request::new("POST", "/webhook")
                        .header("X-GitHub-Event", "workflow_job")
                        .header("X-GitHub-Delivery", &id)
                        .header("Content-Type", "application/json")
                        .header("X-Hub-Signature-256", signature);
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

/// A front and the store behind it.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    store: Option<Arc<dyn Store>>,
}

async fn front(name: &'static str, store: Arc<dyn Store>, fake: &Arc<Fake>, servers: &mut Vec<Server>) -> Subject {
    let front = Front { store: Arc::clone(&store), ..fake.front(&[fakes::settings("octo-linux", 0, 10)]) };
    let server = Server::start(front, web::settings(|_| {})).await;
    let address = server.address;
    servers.push(server);
    Subject { name, address, store: Some(store) }
}

/// Works the inbox off as a group does, so that rounds do not weigh on each other.
async fn work_off(store: &dyn Store) {
    let group = GroupName::new("octo-linux").unwrap();
    let token = store.acquire(&group).await.unwrap();
    let mut cursor = Cursor(0);
    while let Some(last) = store.inbox(&group, cursor, 256).await.unwrap().last() {
        cursor = last.cursor;
        let snapshot = Some(GroupSnapshot { cursor, ..GroupSnapshot::default() });
        store.save(&group, token, Changes { snapshot, ..Changes::default() }).await.unwrap();
    }
}

fn on_redis(server: &RedisServer, fake: &Arc<Fake>) -> Arc<dyn Store> {
    let topology = Topology::Single { host: "127.0.0.1".to_owned(), port: server.port() };
    let place = Place { topology, tls: None, username: None, password: None, database: 0 };
    let settings = Settings::new(place, ManagerName::new("bench").unwrap(), ReplicaId::on_host("bench", 1));
    Arc::new(Redis::open(settings, fake.clone()).unwrap())
}

#[tokio::main]
async fn main() {
    let (rounds, length) = if std::env::args().any(|arg| arg == "--bench") { MEASURED } else { TRIED };
    let payloads = Arc::new(payloads());
    let ids = Arc::new(AtomicU64::new(0));
    let fake = Fake::new();
    let dir = tempfile::tempdir().unwrap();
    let everysec = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let always = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut servers = Vec::new();
    let bare_whole = serve(|body| serde_json::from_slice::<Value>(body).is_ok());
    let bare_dropped = serve(|body| serde_json::from_slice::<IgnoredAny>(body).is_ok());
    let embedded = Arc::new(Embedded::open(dir.path(), fake.clone()).unwrap());
    let subjects = [
        Subject { name: "bare, parsed whole", address: bare_whole, store: None },
        Subject { name: "bare, parsed and dropped", address: bare_dropped, store: None },
        front("an instant store", fake.clone(), &fake, &mut servers).await,
        front("embedded store", embedded, &fake, &mut servers).await,
        front("Redis, everysec", on_redis(&everysec, &fake), &fake, &mut servers).await,
        front("Redis, always", on_redis(&always, &fake), &fake, &mut servers).await,
    ];
    println!("{} bytes per delivery, {CONNECTIONS} connections, {rounds} rounds of {length:?}", payloads[0].0.len());
    let mut best = [0.0_f64; 6];
    for round in 1..=rounds {
        for (best, subject) in best.iter_mut().zip(&subjects) {
            let (rate, p50, p99) = load(subject.address, length, &payloads, &ids).await;
            *best = best.max(rate);
            println!("round {round}: {:<26} {rate:>8.0}/s   p50 {p50:>6} us   p99 {p99:>6} us", subject.name);
            if let Some(store) = &subject.store {
                work_off(store.as_ref()).await;
            }
        }
        let mut things = fake.things();
        things.deliveries = Vec::new();
        things.routes = Vec::new();
        things.webhooks = Vec::new();
    }
    println!("best of {rounds} rounds, beside what is bare:        parsed whole   parsed and dropped");
    for (rate, subject) in best.iter().zip(&subjects).skip(2) {
        println!("{:<40} {rate:>8.0}/s {:>8.2} {:>18.2}", subject.name, rate / best[0], rate / best[1]);
    }
    for server in servers {
        server.stop().await;
    }
}
